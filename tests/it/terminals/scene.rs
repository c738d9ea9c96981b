//! A server, an OpenSSH that it may dial, and a host that reported its address.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    admin::Admin,
    credentials::Credentials,
    services::openssh::{OpenSsh, Variant},
    terminal::{Access, Heard, Terminal},
};

use crate::harness::Server;

/// For whatever has to come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// All that a terminal takes.
pub struct Scene {
    pub server: Server,
    pub ssh: OpenSsh,
    pub admin: Admin,
    pub host: Credentials,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(Variant::Password, &[]).await
    }

    pub async fn with(variant: Variant, env: &[(&str, &str)]) -> Self {
        let ssh = OpenSsh::start(variant);
        let allow = ssh.address().to_string();
        let env = [&[("PATCHBAY_SSH_ALLOW", allow.as_str())], env].concat();
        let server = Server::start_with(&env).await;
        let admin = server.admin().await;
        let host = admin.add_host("web-1").await.unwrap();
        report(&server, &host, &ssh.address().ip().to_string()).await;
        Self { server, ssh, admin, host }
    }

    /// A ticket for the host.
    pub async fn ticket(&self) -> String {
        ticket(&self.admin, &self.host.id).await
    }

    /// An open socket.
    pub async fn open(&self) -> Terminal {
        let ticket = self.ticket().await;
        Terminal::open(&self.server.target(), &self.host.id, Access::Ticket(&ticket)).await.unwrap()
    }

    /// What opens a shell by password.
    pub fn login(&self) -> Value {
        json!({"username": self.ssh.user(), "password": self.ssh.password(), "port": self.ssh.address().port()})
    }

    /// The same with something else in it, or instead.
    pub fn login_with(&self, more: &Value) -> Value {
        let mut login = self.login();
        for (name, value) in more.as_object().unwrap() {
            login[name] = value.clone();
        }
        login
    }

    /// An open shell, at its prompt.
    pub async fn shell(&self) -> Terminal {
        let mut terminal = self.open().await;
        terminal.connect(self.login()).await;
        terminal.connected(PATIENCE).await.unwrap();
        terminal.until("$ ", PATIENCE).await.unwrap();
        terminal
    }

    /// The error that comes of this.
    pub async fn refusal(&self, terminal: &mut Terminal, login: &Value) -> String {
        terminal.connect(login.clone()).await;
        match terminal.next(PATIENCE).await {
            Some(Heard::Error(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    /// Entries of the audit log, newest first.
    pub async fn audit(&self, query: &str) -> Vec<Value> {
        let answer = self.admin.get(&format!("/audit?{query}")).await.unwrap().ok().unwrap();
        answer["items"].as_array().unwrap().clone()
    }

    /// Waits for the newest terminal's row to be as it must.
    pub async fn row(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let wait = async {
            loop {
                let rows = self.admin.get("/terminals?limit=1").await.unwrap().ok().unwrap();
                let row = rows["items"][0].clone();
                if fits(&row) {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the row never fits")
    }
}

/// A ticket of this user for a host.
pub async fn ticket(client: &Admin, host_id: &str) -> String {
    let answer = client.post("/auth/ssh-ticket", &json!({"hostId": host_id})).await.unwrap().ok().unwrap();
    answer["ticket"].as_str().unwrap().to_owned()
}

/// The host reports where it is, as its agent would.
pub async fn report(server: &Server, host: &Credentials, ip: &str) {
    let report = json!({
        "packages": [], "repositories": [], "osType": "debian", "osVersion": "12", "hostname": "web-1", "ip": ip,
        "architecture": "amd64", "agentVersion": "2.1.4", "machineId": "m", "kernelVersion": "6.1.0",
    });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("{}/api/v1/hosts/update", server.url()));
    let request = request.header("X-Api-Id", &host.api_id).header("X-Api-Key", &host.api_key).json(&report);
    assert_eq!(request.send().await.unwrap().status(), 200);
}

//! Where each test begins: a gateway for browsers, one for agents (perhaps the same), an sshd, and hosts whose agents open
//! terminals.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    admin::Admin,
    agent::{Agent, Start},
    credentials::Credentials,
    fleet::{Fleet, Generations, Recipe},
    log::FrameLog,
    services::openssh::{OpenSsh, Variant},
    terminal::{Access, Heard, Terminal},
};

use crate::{database::Database, harness::Server};

/// How long anything may take that must happen. Far above what it takes, for machines that are busy.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// What is promised within a second may take five times that.
pub const AT_ONCE: Duration = Duration::from_secs(5);

/// What the browser is told when the way to its shell is gone.
const LOST: &str = "Agent WebSocket connection lost";

/// Dropped in this order: who uses a thing goes before it.
pub struct Scene {
    pub fleet: Fleet,
    pub hosts: Vec<Credentials>,
    pub admin: Admin,
    /// Where the agents are, if not where the browsers are.
    pub second: Option<Server>,
    pub browsers: Server,
    pub ssh: OpenSsh,
}

/// Agents of both generations, in turn, which open terminals and do nothing unasked.
pub fn open() -> Recipe {
    Recipe { start: Start::Quiet, ssh_proxy: true, ..Recipe::fast(Generations::Mixed) }
}

impl Scene {
    /// Browsers and agents on the same server.
    pub async fn on_one(recipe: &Recipe, hosts: usize) -> Self {
        Self::with(Server::start().await, None, recipe, hosts).await
    }

    /// Browsers on one gateway, agents on another.
    pub async fn on_two(recipe: &Recipe, hosts: usize) -> Self {
        Self::on_two_with(&[], recipe, hosts).await
    }

    /// The same with more in the environment of both.
    pub async fn on_two_with(env: &[(&str, &str)], recipe: &Recipe, hosts: usize) -> Self {
        let mut browsers = Server::spread_out(env);
        browsers.restart().await;
        let second = browsers.second_gateway().await;
        Self::with(browsers, Some(second), recipe, hosts).await
    }

    async fn with(browsers: Server, second: Option<Server>, recipe: &Recipe, hosts: usize) -> Self {
        let ssh = OpenSsh::start(Variant::Password);
        let admin = browsers.admin().await;
        let hosts = browsers.add_hosts("host", hosts).await;
        let target = second.as_ref().unwrap_or(&browsers).target();
        let fleet = Fleet::start(target, recipe.agents(&hosts), None, FrameLog::in_memory());
        fleet.all_connected(PATIENCE).await.unwrap();
        Self { fleet, hosts, admin, second, browsers, ssh }
    }

    /// The gateway that has the agents' sockets.
    pub fn agents_gateway(&self) -> &Server {
        self.second.as_ref().unwrap_or(&self.browsers)
    }

    pub fn agent(&self, host: usize) -> &Agent {
        self.fleet.agent(&self.hosts[host].api_id).unwrap()
    }

    pub fn log(&self) -> &FrameLog {
        self.fleet.log()
    }

    /// What `connect` says to reach the sshd through an agent.
    pub fn login(&self) -> Value {
        let address = self.ssh.address();
        json!({
            "connection_mode": "proxy", "proxy_host": address.ip().to_string(), "proxy_port": address.port(),
            "username": self.ssh.user(), "password": self.ssh.password(), "cols": 100, "rows": 30,
        })
    }

    /// The same with one field changed.
    pub fn login_but(&self, name: &str, value: Value) -> Value {
        let mut login = self.login();
        login[name] = value;
        login
    }

    /// A browser's socket for a host, with no shell behind it yet.
    pub async fn socket(&self, host: usize) -> Terminal {
        self.socket_of(&self.admin, host).await
    }

    /// The same of another login.
    pub async fn socket_of(&self, user: &Admin, host: usize) -> Terminal {
        let bearer = Access::Bearer(user.token().unwrap());
        Terminal::open(&self.browsers.target(), &self.hosts[host].id, bearer).await.unwrap()
    }

    /// Opens a shell on it, and waits for its prompt.
    pub async fn connect(&self, terminal: &mut Terminal) {
        terminal.connect(self.login()).await;
        terminal.connected(PATIENCE).await.unwrap();
        terminal.until("$ ", PATIENCE).await.unwrap();
    }

    /// Both.
    pub async fn shell(&self, host: usize) -> Terminal {
        let mut terminal = self.socket(host).await;
        self.connect(&mut terminal).await;
        terminal
    }

    /// The session ids of the frames of one type that an agent got, in order.
    pub fn sessions(&self, host: usize, kind: &str) -> Vec<String> {
        let frames = self.log().frames(&self.hosts[host].api_id, kind);
        frames.iter().map(|frame| frame.payload().unwrap()["session_id"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an agent was told to close this shell.
    pub async fn told_to_close(&self, host: usize, session: &str, patience: Duration) {
        let api_id = self.hosts[host].api_id.as_str();
        let told = self.log().wait_for(patience, |events| {
            let mut closes =
                events.iter().filter(|event| &*event.agent == api_id && event.is_frame("ssh_proxy_disconnect"));
            closes.any(|close| close.payload().unwrap()["session_id"] == session).then_some(())
        });
        assert!(told.await.is_some(), "not told to close {session} within {patience:?}");
    }

    /// Waits until a count of the database is this.
    pub async fn count_becomes(&self, sql: &str, wanted: i64) {
        let mut database = Database::open(&self.browsers).await;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let count = database.number(sql).await;
            if count == wanted {
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "{sql}: {count}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        database.close().await;
    }

    /// Waits until no agent is thought to hold a shell, and no terminal is open.
    pub async fn nothing_is_left(&self) {
        self.ssh.wait_sessions(0).await;
        self.count_becomes("SELECT COUNT(*) FROM terminal_sessions WHERE at_agent = 1 OR ended_at IS NULL", 0).await;
    }

    /// Waits until an agent has got a `settings_update`, which nothing may hold up.
    pub async fn got_settings(&self, host: usize) {
        let api_id = self.hosts[host].api_id.as_str();
        let got = self.log().wait_counts(AT_ONCE, |counts| counts.frames_by_type.contains_key("settings_update")).await;
        assert!(got.is_some(), "within {AT_ONCE:?}");
        assert_eq!(self.log().frames(api_id, "settings_update").len(), 1);
    }

    /// Asks for a command on a host; its id.
    pub async fn ask(&self, kind: &str, host: usize, payload: Option<Value>) -> String {
        let asked = self.admin.command(kind, &[&self.hosts[host].id], payload).await.unwrap().ok().unwrap();
        asked["commands"][0]["id"].as_str().unwrap().to_owned()
    }
}

/// Runs a command that writes `wanted` and a line end, which what is typed must not have in it.
pub async fn writes(terminal: &mut Terminal, command: &str, wanted: &str) -> String {
    terminal.input(&format!("{command}\r")).await;
    let seen = terminal.until(&format!("{wanted}\r\n"), PATIENCE).await;
    seen.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// The next thing heard is this error.
pub async fn refused(terminal: &mut Terminal, wanted: &str) {
    match terminal.next(PATIENCE).await {
        Some(Heard::Error(text)) if text.starts_with(wanted) => {}
        other => panic!("{other:?}, not the error {wanted:?}"),
    }
}

/// The shell is gone because the way to it is: an error that says so, and `closed`.
pub async fn lost(terminal: &mut Terminal) {
    let told = async {
        loop {
            match terminal.next(AT_ONCE).await {
                Some(Heard::Data(_)) => {}
                other => break other,
            }
        }
    };
    let told = tokio::time::timeout(AT_ONCE, told).await;
    assert_eq!(told.expect("nothing was said"), Some(Heard::Error(LOST.to_owned())));
    assert_eq!(terminal.next(AT_ONCE).await, Some(Heard::Closed));
}

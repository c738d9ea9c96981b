//! The other side of a test: a logged-in client of the API, which makes hosts and asks for commands.

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::credentials::Credentials;

/// Hosts that one `POST /hosts` makes.
const HOSTS_A_CALL: usize = 1000;

/// A client of `/api/v1`, with a token once it has logged in.
#[derive(Clone)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl std::fmt::Debug for Admin {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("base", &self.base).finish_non_exhaustive()
    }
}

/// An answer of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its JSON; null when it had none.
    pub body: Value,
}

impl Answer {
    /// The body, if the status is one of success.
    pub fn ok(self) -> anyhow::Result<Value> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        bail!("{}: {}", self.status, self.body)
    }
}

impl Admin {
    /// Not logged in yet. `server` is the URL without `/api`.
    pub fn new(server: &str) -> anyhow::Result<Self> {
        Ok(Self {
            http: reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build()?,
            base: format!("{}/api/v1", server.trim_end_matches('/')),
            token: None,
        })
    }

    /// Logs in.
    pub async fn login(server: &str, username: &str, password: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Login {
            token: String,
        }
        let mut admin = Self::new(server)?;
        let body = json!({"username": username, "password": password});
        let answer = admin.post("/auth/login", &body).await?.ok().with_context(|| format!("login as {username}"))?;
        let Login { token } = serde_json::from_value(answer).context("login: no token")?;
        admin.token = Some(token);
        Ok(admin)
    }

    /// `GET /api/v1{path}`.
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.call(Method::GET, path, None).await
    }

    /// `POST /api/v1{path}`.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Any call.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.bytes().await?;
        Ok(Answer { status, body: serde_json::from_slice(&text).unwrap_or(Value::Null) })
    }

    /// A request with the token on it, for what the others do not offer: other headers, streams.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The token of the login.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Makes one host.
    pub async fn add_host(&self, name: &str) -> anyhow::Result<Credentials> {
        let answer = self.post("/hosts", &json!({"name": name})).await?.ok()?;
        serde_json::from_value(answer).context("POST /hosts: no host in the answer")
    }

    /// Makes many hosts, up to 1,000 a call.
    pub async fn add_hosts(&self, names: &[String]) -> anyhow::Result<Vec<Credentials>> {
        #[derive(Deserialize)]
        struct Hosts {
            items: Vec<Credentials>,
        }
        let mut hosts = Vec::with_capacity(names.len());
        for names in names.chunks(HOSTS_A_CALL) {
            let answer = self.post("/hosts", &json!({"names": names})).await?.ok()?;
            let Hosts { items } = serde_json::from_value(answer).context("POST /hosts: no hosts in the answer")?;
            hosts.extend(items);
        }
        Ok(hosts)
    }

    /// `POST /commands` for these hosts.
    pub async fn command(&self, kind: &str, host_ids: &[&str], payload: Option<Value>) -> anyhow::Result<Answer> {
        let mut body = json!({"kind": kind, "host_ids": host_ids});
        if let Some(payload) = payload {
            body["payload"] = payload;
        }
        self.post("/commands", &body).await
    }

    /// `GET /commands/{id}`: the row.
    pub async fn command_row(&self, id: &str) -> anyhow::Result<Value> {
        self.get(&format!("/commands/{id}")).await?.ok()
    }

    /// The rows of the commands that a query names, as `batch_id=…`, or of all there are; oldest first.
    pub async fn commands(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("/commands?limit=1000&{query}{cursor}")).await?.ok()?;
            rows.extend(page["items"].as_array().context("GET /commands: no items")?.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        rows.reverse();
        Ok(rows)
    }

    /// Reads a command's row until it fits, every 20 ms. The error holds the last row.
    pub async fn wait_command(
        &self,
        id: &str,
        timeout: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let deadline = tokio::time::Instant::now() + timeout;
        loop {
            let row = self.command_row(id).await?;
            if fits(&row) {
                return Ok(row);
            }
            if tokio::time::Instant::now() >= deadline {
                bail!("command {id} did not get there within {timeout:?}: {row}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads a command's row until it is in this state.
    pub async fn wait_state(&self, id: &str, timeout: Duration, state: &str) -> anyhow::Result<Value> {
        self.wait_command(id, timeout, |row| row["state"] == state).await
    }

    /// Reads a command's row until it says that it is final.
    pub async fn wait_final(&self, id: &str, timeout: Duration) -> anyhow::Result<Value> {
        self.wait_command(id, timeout, |row| row["final"] == true).await
    }
}

//! Where each test begins: a server, hosts on it, their agents, and a user who is logged in.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tests::{
    admin::{Admin, Answer},
    agent::{Agent, AgentConfig, Start},
    claims,
    credentials::Credentials,
    fleet::{Fleet, Generations, Recipe},
    log::{Event, FrameLog},
    timing::Timing,
};

use crate::harness::Server;

/// How long anything may take that must happen. Far above what it takes, for machines that are busy.
pub const PATIENCE: Duration = Duration::from_secs(40);

pub struct Scene {
    pub server: Server,
    pub admin: Admin,
    pub hosts: Vec<Credentials>,
    pub fleet: Fleet,
}

/// Agents of both generations, in turn, which open their socket and do nothing unasked.
pub fn quiet() -> Recipe {
    Recipe { start: Start::Quiet, ..Recipe::fast(Generations::Mixed) }
}

/// The same, with a scan that takes so long.
pub fn quiet_scanning(scan: Duration) -> Recipe {
    Recipe { scan: Some(scan), ..quiet() }
}

impl Scene {
    /// One agent for each of `count` hosts, all connected.
    pub async fn start(recipe: &Recipe, count: usize) -> Self {
        let mut scene = Self::without_agents(count).await;
        scene.come(recipe).await;
        scene
    }

    /// The hosts, and nobody on them yet.
    pub async fn without_agents(count: usize) -> Self {
        Self::on(Server::start().await, count).await
    }

    /// The same on a server that runs already.
    pub async fn on(server: Server, count: usize) -> Self {
        let admin = server.admin().await;
        let names: Vec<_> = (1..=count).map(|n| format!("host-{n}")).collect();
        let hosts = admin.add_hosts(&names).await.unwrap();
        let fleet = Fleet::start(server.target(), Vec::new(), None, FrameLog::in_memory());
        Self { server, admin, hosts, fleet }
    }

    /// The agents start, and all connect.
    pub async fn come(&mut self, recipe: &Recipe) {
        self.come_as(recipe.agents(&self.hosts)).await;
    }

    /// The same with a configuration each.
    pub async fn come_as(&mut self, agents: Vec<AgentConfig>) {
        self.fleet = Fleet::start(self.server.target(), agents, None, FrameLog::in_memory());
        self.fleet.all_connected(PATIENCE).await.unwrap();
    }

    /// The server was killed and starts again; sessions last, but tests of long times outlive them.
    pub async fn restart(&mut self) {
        self.server.restart().await;
        self.admin = self.server.admin().await;
    }

    pub fn log(&self) -> &FrameLog {
        self.fleet.log()
    }

    pub fn agent(&self, host: usize) -> &Agent {
        self.fleet.agent(&self.hosts[host].api_id).unwrap()
    }

    /// `POST /commands` to these hosts, with more fields where `more` has them.
    pub async fn post(&self, kind: &str, hosts: &[usize], more: &Value) -> Answer {
        self.admin.post("/commands", &self.request(kind, hosts, more)).await.unwrap()
    }

    pub fn request(&self, kind: &str, hosts: &[usize], more: &Value) -> Value {
        let ids: Vec<&str> = hosts.iter().map(|host| self.hosts[*host].id.as_str()).collect();
        let mut body = json!({"kind": kind, "host_ids": ids});
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        body
    }

    /// A new command to one host; its id.
    pub async fn ask(&self, kind: &str, host: usize, payload: Value) -> String {
        let more = if payload.is_null() { json!({}) } else { json!({ "payload": payload }) };
        let answer = self.post(kind, &[host], &more).await;
        assert_eq!((answer.status.as_u16(), &answer.body["count"]), (202, &json!(1)), "{}", answer.body);
        answer.body["commands"][0]["id"].as_str().unwrap().to_owned()
    }

    pub async fn row(&self, id: &str) -> Value {
        self.admin.command_row(id).await.unwrap()
    }

    /// Waits for a state.
    pub async fn state(&self, id: &str, state: &str) -> Value {
        self.admin.wait_state(id, PATIENCE, state).await.unwrap()
    }

    /// Waits for the end, which must be this one.
    pub async fn end(&self, id: &str, state: &str) -> Value {
        let row = self.admin.wait_final(id, PATIENCE).await.unwrap();
        assert_eq!(row["state"], state, "{row}");
        row
    }

    /// `POST /commands/{id}/cancel`.
    pub async fn cancel(&self, id: &str) -> Answer {
        self.admin.post(&format!("/commands/{id}/cancel"), &json!({})).await.unwrap()
    }

    /// `PUT /hosts/{id}/integrations`.
    pub async fn integrations(&self, host: usize, change: Value) {
        let path = format!("/hosts/{}/integrations", self.hosts[host].id);
        self.admin.call(Method::PUT, &path, Some(&change)).await.unwrap().ok().unwrap();
    }

    /// All rows there are, oldest first.
    pub async fn rows(&self) -> Vec<Value> {
        self.listed("").await
    }

    /// Those that a query names, as `batch_id=…`; oldest first.
    pub async fn listed(&self, query: &str) -> Vec<Value> {
        self.admin.commands(query).await.unwrap()
    }

    /// The frames of one type that a host got.
    pub fn frames(&self, host: usize, kind: &str) -> Vec<Event> {
        self.log().frames(&self.hosts[host].api_id, kind)
    }

    /// Waits until a host has got so many frames of one type.
    pub async fn got(&self, host: usize, kind: &str, count: usize) {
        let api_id = self.hosts[host].api_id.clone();
        let found = self.log().wait_for(PATIENCE, |events| {
            let got = events.iter().filter(|e| *e.agent == *api_id && e.is_frame(kind)).count();
            (got >= count).then_some(())
        });
        assert!(found.await.is_some(), "{api_id} has not got {count} of {kind}");
    }

    /// The last thing that is sent to a host, and read: what was going to come before it has come.
    pub async fn marker(&self, host: usize) {
        let before = self.frames(host, "refresh_integration_status").len();
        let id = self.ask("refresh_integration_status", host, Value::Null).await;
        self.end(&id, "succeeded").await;
        self.got(host, "refresh_integration_status", before + 1).await;
    }

    /// No row claims more than the hosts saw, and nothing was sent twice on one connection.
    pub async fn assert_claims(&self) {
        let wrong = claims::contradictions(&self.log().events(), &self.hosts, &self.rows().await);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// The configurations of a recipe with some of their times changed.
pub fn timed(recipe: &Recipe, hosts: &[Credentials], change: impl Fn(&mut Timing)) -> Vec<AgentConfig> {
    let mut agents = recipe.agents(hosts);
    for agent in &mut agents {
        let mut timing = (*agent.timing).clone();
        change(&mut timing);
        agent.timing = timing.into();
    }
    agents
}

/// Waits until something holds that no event tells.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

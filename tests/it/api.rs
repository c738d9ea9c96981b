//! The API as its clients meet it: who may do what, sessions, pages of other sites, bodies that cannot be, what agents
//! post, lists and filters. Each test ends by looking for secrets in the server's log, which is at its most talkative.

mod access;
mod accounts;
mod agents;
mod bodies;
mod commands;
mod hosts;
mod reports;
mod sessions;
mod sites;
mod status;

use serde_json::Value;
use tests::{admin::Admin, credentials::Credentials};

use crate::{
    cli::patchbay_with,
    harness::{PASSWORD, Server},
};

/// Says all there is to say.
const TALKATIVE: (&str, &str) = ("RUST_LOG", "debug,sqlx=info,hyper=info");

async fn start(env: &[(&str, &str)]) -> Server {
    Server::start_with(&[&[TALKATIVE], env].concat()).await
}

/// The password of the users that [`user`] makes.
fn password_of(name: &str) -> String {
    format!("the-word-of-{name}-99")
}

/// A new user of this role, made on the command line.
async fn add_user(server: &Server, name: &str, role: &str) {
    let args = ["user", "add", name, "--role", role, "--password-stdin", "--json"];
    let made = patchbay_with(server, &args, &password_of(name)).await.json();
    assert_eq!((&made["username"], &made["role"]), (&name.into(), &role.into()), "{made}");
}

/// The same, logged in.
async fn user(server: &Server, name: &str, role: &str) -> Admin {
    add_user(server, name, role).await;
    login(server, name).await
}

async fn login(server: &Server, name: &str) -> Admin {
    Admin::login(&server.url(), name, &password_of(name)).await.unwrap()
}

/// Nobody.
fn stranger(server: &Server) -> Admin {
    Admin::new(&server.url()).unwrap()
}

/// A call as an agent makes it.
async fn agent_call(server: &Server, host: &Credentials, method: &str, path: &str, body: Vec<u8>) -> (u16, Value) {
    let request = stranger(server)
        .request(method.parse().unwrap(), path)
        .header("x-api-id", &host.api_id)
        .header("x-api-key", &host.api_key)
        .header("content-type", "application/json")
        .body(body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// The same with JSON.
async fn agent_post(server: &Server, host: &Credentials, path: &str, body: &Value) -> (u16, Value) {
    agent_call(server, host, "POST", path, body.to_string().into_bytes()).await
}

/// Asserts that nothing of these, nor any password or the server's own secret, is in its log.
fn assert_secrets_kept(server: &Server, secrets: &[&str]) {
    let own = server.secret();
    let more = [PASSWORD, own.trim(), "the-word-of-"];
    let logs = server.logs();
    assert!(!logs.is_empty());
    for line in &logs {
        let told = secrets.iter().chain(&more).find(|secret| line.contains(**secret));
        assert!(told.is_none(), "a secret in the log: {line}");
    }
}

/// The token of a client.
fn token(client: &Admin) -> &str {
    client.token().unwrap()
}

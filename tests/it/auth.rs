//! Who gets a socket and who does not (protocol 1.1): refusals as they are on the wire, keys of every kind, limits, our
//! own troubles, and what is taken away from who is connected.

mod ending;
mod keys;
mod limits;
mod outage;
mod proxies;
mod refusals;
mod revoked;

use serde_json::Value;
use tests::{
    admin::Admin,
    credentials::Credentials,
    raw::{self, PATIENCE, Reply, Wire},
    server::Server as Target,
};

/// Where agents connect.
const PATH: &str = "/api/v1/agents/ws";

/// Asks for an upgrade as an agent does, and gives the answer. A refusal's connection must end.
async fn knock(target: &Target, api_id: &str, api_key: &str) -> Reply {
    let mut wire = Wire::dial(target, None).await.unwrap();
    let reply = wire.call(&raw::upgrade_request(PATH, &[("X-Api-Id", api_id), ("X-Api-Key", api_key)], &[])).await;
    let reply = reply.unwrap();
    if reply.status != 101 {
        wire.ended(PATIENCE).await.unwrap();
    }
    reply
}

/// The same for a host.
async fn knock_as(target: &Target, host: &Credentials) -> Reply {
    knock(target, &host.api_id, &host.api_key).await
}

/// Asserts that it is a refusal as agents know it: JSON with this error, and the connection ends.
fn assert_refused(reply: &Reply, status: u16, error: &str, what: &str) {
    let shown = (reply.status, reply.json()["error"].as_str().unwrap_or_default().to_owned());
    assert_eq!(shown, (status, error.to_owned()), "{what}: {}", String::from_utf8_lossy(&reply.body));
    assert_eq!(reply.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"), "{what}");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{what}");
    assert!(reply.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "{what}");
}

/// Asserts that it says when to come back.
fn assert_says_when(reply: &Reply) {
    let secs = reply.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    assert!(secs.is_some_and(|secs| (1..=120).contains(&secs)), "{reply:?}");
}

/// `GET /ws/status/{api_id}`.
async fn status(admin: &Admin, api_id: &str) -> Value {
    admin.get(&format!("/ws/status/{api_id}")).await.unwrap().ok().unwrap()["data"].take()
}

/// `POST hosts/ping` with these credentials.
async fn http_ping(wire: &mut Wire, credentials: [(&str, &str); 2]) -> Reply {
    let headers = [[("Host", "patchbay.test"), ("Content-Length", "0")], credentials].concat();
    wire.call(&raw::request("POST", "/api/v1/hosts/ping", &headers, "")).await.unwrap()
}

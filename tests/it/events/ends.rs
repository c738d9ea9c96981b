//! How a stream lives when nothing happens, and ends when its user may look no longer.

use std::time::Duration;

use serde_json::json;
use tests::{admin::Admin, internal};

use super::{come, stream::Stream};
use crate::{
    cli::{patchbay, patchbay_with},
    database::Database,
    harness::Server,
};

/// What is taken away is gone within this.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Every 15 to 25 s; the rest is for a busy machine.
const HEARTBEAT: Duration = Duration::from_secs(45);

const CLIENTS: &str = "patchbay_sse_clients";

async fn user(server: &Server, name: &str) -> Admin {
    let args = ["user", "add", name, "--role", "readonly", "--password-stdin"];
    assert_eq!(patchbay_with(server, &args, "watching-all-day").await.code, Some(0));
    Admin::login(&server.url(), name, "watching-all-day").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_session_and_no_other_does() {
    let server = Server::start().await;
    let host = server.add_hosts("host", 1).await.remove(0);
    let (ann, bob) = (user(&server, "ann").await, user(&server, "bob").await);
    let anns_other = Admin::login(&server.url(), "ann", "watching-all-day").await.unwrap();
    let mut leaving = Stream::open(&ann, "", None).await;
    let mut other = Stream::open(&anns_other, "", None).await;
    let mut beside = Stream::open(&bob, "", None).await;
    internal::wait(&server.internal_url(), CLIENTS, |n| n == 3.0).await.unwrap();

    assert_eq!(ann.post("/auth/logout", &json!({})).await.unwrap().status, 200);
    leaving.end(AT_ONCE).await;
    assert_eq!(patchbay(&server, &["user", "passwd", "ann"]).await.code, Some(0));
    other.end(AT_ONCE).await;
    let _agent = come(&server, &host).await;
    assert_eq!(beside.next().await.event, "presence");
    // Who goes away is forgotten.
    drop(beside);
    internal::wait(&server.internal_url(), CLIENTS, |n| n == 0.0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_shows_that_it_lives_and_where_to_come_back() {
    let server = Server::start().await;
    let hosts = server.add_hosts("host", 2).await;
    let admin = server.admin().await;
    // Its filter lets nothing through, and still it does not fall behind.
    let mut quiet = Stream::open(&admin, &format!("?host_id={}", hosts[1].id), None).await;
    let before = quiet.last_id().to_owned();
    let _agent = come(&server, &hosts[0]).await;
    quiet.heartbeat(HEARTBEAT).await;
    assert_ne!(quiet.last_id(), before, "it would be sent what it has seen");
    // A session may end without anybody saying so.
    let mut database = Database::open(&server).await;
    database.run("UPDATE users SET active = 0 WHERE username = 'admin'").await;
    assert_eq!(admin.get("/auth/me").await.unwrap().status, 401);
    // Looked at once a minute.
    quiet.end(Duration::from_secs(90)).await;
}

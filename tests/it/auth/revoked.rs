//! What is taken away is closed at once, and the newest connection of a host is the one that counts.

use tests::raw::{self, PATIENCE, Wire};

use super::{assert_refused, http_ping, knock_as, status};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_wins_and_a_late_end_of_the_old_one_changes_nothing() {
    let server = Server::start().await;
    let (admin, target) = (server.admin().await, server.target());
    let host = server.add_hosts("host", 1).await.remove(0);
    let mut old = Wire::agent(&target, &host).await.unwrap();
    let mut new = Wire::agent(&target, &host).await.unwrap();
    assert_eq!(old.closed().await.unwrap(), Some(4001));
    new.ping(b"the newest").await.unwrap();
    // The old one takes its time to go.
    old.write(&raw::frame(raw::CLOSE, &4001_u16.to_be_bytes())).await.unwrap();
    old.ended(PATIENCE).await.unwrap();
    server.wait_log("agent disconnected", PATIENCE).await;
    new.ping(b"still the newest").await.unwrap();
    assert_eq!(status(&admin, &host.api_id).await["connected"], true);
    let row = admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap();
    assert_eq!(row["connected"], true, "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_and_a_rotated_key_are_closed_at_once_and_refused_from_then_on() {
    let server = Server::start().await;
    let (admin, target) = (server.admin().await, server.target());
    let hosts = server.add_hosts("host", 2).await;
    let mut removed = Wire::agent(&target, &hosts[0]).await.unwrap();
    let mut rotated = Wire::agent(&target, &hosts[1]).await.unwrap();

    let path = format!("/hosts/{}", hosts[0].id);
    assert_eq!(admin.call(reqwest::Method::DELETE, &path, None).await.unwrap().status, 204);
    assert_eq!(removed.closed().await.unwrap(), Some(4401));
    assert_refused(&knock_as(&target, &hosts[0]).await, 401, "Invalid credentials", "a removed host");
    assert_eq!(status(&admin, &hosts[0].api_id).await["connected"], false);

    let answer = admin.post(&format!("/hosts/{}/rotate-key", hosts[1].id), &serde_json::json!({})).await.unwrap();
    let fresh: tests::credentials::Credentials = serde_json::from_value(answer.ok().unwrap()).unwrap();
    assert_eq!((&fresh.id, &fresh.api_id), (&hosts[1].id, &hosts[1].api_id));
    assert_ne!(fresh.api_key, hosts[1].api_key);
    assert_eq!(rotated.closed().await.unwrap(), Some(4401));
    assert_refused(&knock_as(&target, &hosts[1]).await, 401, "Invalid credentials", "an old key");
    // HTTP calls with it are refused just as well.
    let mut wire = Wire::dial(&target, None).await.unwrap();
    let reply = http_ping(&mut wire, raw::credentials(&hosts[1])).await;
    assert_eq!((reply.status, &reply.json()["error"]), (401, &"Invalid API credentials".into()));
    Wire::agent(&target, &fresh).await.unwrap().ping(b"the new key").await.unwrap();
}

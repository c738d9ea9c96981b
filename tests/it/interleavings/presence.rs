//! Connections of one host, one after the other and side by side; what a removal and a new key do to them.

use std::time::Duration;

use gateway::admin::AdminRequest;
use jobs::{Kind, State};
use serde_json::{Value, json};
use store::Hosts;
use tests::{
    agent::{AgentConfig, Start},
    credentials::Credentials,
    generation::Generation,
    log::What,
    raw::{Wire, credentials, upgrade_request},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::house::{House, PATIENCE};

const PATH: &str = "/api/v1/agents/ws";

fn id_of(host: &Credentials) -> Uuid {
    host.id.parse().unwrap()
}

/// Waits until the host's hint is this, and gives the epoch with it.
async fn hint(house: &House, host: &Credentials, connected: bool) -> i64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let facts = house.store.host(id_of(host)).await.unwrap().unwrap().facts;
        if facts.connected == connected {
            return facts.epoch;
        }
        assert!(Instant::now() < deadline, "the hint stays {}", facts.connected);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_wins_and_is_the_one_that_is_asked() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let mut first = Wire::agent(&house.target(0), &host).await.unwrap();
    assert_eq!(hint(&house, &host, true).await, 1);
    let mut second = Wire::agent(&house.target(0), &host).await.unwrap();
    assert_eq!(first.closed().await.unwrap(), Some(4001));
    second.ping(b"still here").await.unwrap();
    assert_eq!(hint(&house, &host, true).await, 2);
    house.command(Kind::ReportNow, &host, Value::Null).await;
    let frame = second.frame().await.unwrap();
    assert_eq!(frame.payload, br#"{"type":"report_now"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_teardown_keeps_the_newer_connections_hint() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let mut first = Wire::agent(&house.target(0), &host).await.unwrap();
    let old = hint(&house, &host, true).await;
    let mut second = Wire::agent(&house.target(0), &host).await.unwrap();
    assert_eq!(first.closed().await.unwrap(), Some(4001));
    // Later still than that teardown can be, and again.
    let presence = &house.gateways[0].app().presence;
    presence.left(id_of(&host), old).await;
    // Ends are stored in their order: once this host's is, the one before it is.
    let beside = house.host("beside").await;
    let other = Wire::agent(&house.target(0), &beside).await.unwrap();
    hint(&house, &beside, true).await;
    drop(other);
    hint(&house, &beside, false).await;
    let facts = house.store.host(id_of(&host)).await.unwrap().unwrap().facts;
    assert_eq!((facts.connected, facts.epoch), (true, old + 1));
    assert_eq!(presence.count(), 1);
    second.ping(b"still here").await.unwrap();
    // Its own teardown counts.
    drop(second);
    hint(&house, &host, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_share_an_id_are_refused_for_a_minute() {
    let house = House::whole().await;
    let host = house.host("cloned").await;
    let target = house.target(0);
    let mut newest = Wire::agent(&target, &host).await.unwrap();
    for replacement in 1..=7 {
        hint(&house, &host, true).await;
        let next = Wire::agent(&target, &host).await.unwrap();
        assert_eq!(newest.closed().await.unwrap(), Some(4001), "replacement {replacement}");
        newest = next;
    }
    // The eighth is refused, and the one that is there stays.
    let mut refused = Wire::dial(&target, None).await.unwrap();
    let answer = refused.call(&upgrade_request(PATH, &credentials(&host), &[])).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (429, &json!("Several machines use this api_id")));
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    newest.ping(b"still here").await.unwrap();
    // Nobody else is refused.
    let beside = house.host("beside").await;
    Wire::agent(&target, &beside).await.unwrap().ping(b"welcome").await.unwrap();
    house.advance(Duration::from_secs(61));
    Wire::agent(&target, &host).await.unwrap().ping(b"welcome").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_follow_one_another_are_no_flapping() {
    let house = House::whole().await;
    let host = house.host("reboots").await;
    for _ in 0..10 {
        let mut wire = Wire::agent(&house.target(0), &host).await.unwrap();
        wire.ping(b"hello").await.unwrap();
        hint(&house, &host, true).await;
        drop(wire);
        hint(&house, &host, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_host_is_hung_up_and_its_commands_end() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let mut agent = AgentConfig::fast(host.clone(), Generation::V2);
    let mut timing = (*agent.timing).clone();
    timing.scan = Duration::from_secs(60);
    agent.timing = timing.into();
    let fleet = house.agents(vec![AgentConfig { start: Start::Quiet, ..agent }]).await;
    let running = house.command(Kind::ComplianceScan, &host, Value::Null).await;
    house.until(running, State::Running).await;
    let queued = house.command(Kind::ComplianceScan, &host, json!({"profile_id": "level2_server"})).await;

    house.admin(AdminRequest::HostRemove { id: "web".into() }).await;
    let ended = house.until(running, State::Unconfirmed).await;
    let called_off = house.until(queued, State::Cancelled).await;
    for row in [ended, called_off] {
        assert_eq!(row.error.as_deref(), Some("host removed"), "{row:?}");
    }
    // The agent is hung up, comes back, and is nobody any more.
    let log = fleet.log();
    let closed = |what: &What| matches!(what, What::Disconnected { reason } if reason == "closed by the server: 4401");
    let refused = |what: &What| matches!(what, What::Refused { status: Some(401), .. });
    for wanted in [&closed as &dyn Fn(&What) -> bool, &refused] {
        let found = log.wait_for(PATIENCE, |events| events.iter().any(|event| wanted(&event.what)).then_some(()));
        assert!(found.await.is_some());
    }
    assert!(log.frames(&host.api_id, "compliance_scan_cancel").is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_hangs_up_the_old_ones_connection_and_what_waits_goes_to_the_new_one() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let mut old = Wire::agent(&house.target(0), &host).await.unwrap();
    hint(&house, &host, true).await;
    let new: Credentials =
        serde_json::from_value(house.admin(AdminRequest::HostRotateKey { id: host.id.clone() }).await).unwrap();
    assert_ne!(new.api_key, host.api_key);
    assert_eq!(old.closed().await.unwrap(), Some(4401));
    hint(&house, &host, false).await;
    let mut again = Wire::dial(&house.target(0), None).await.unwrap();
    let answer = again.call(&upgrade_request(PATH, &credentials(&host), &[])).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("Invalid credentials")));

    let id = house.command(Kind::ReportNow, &host, Value::Null).await;
    house.until(id, State::Waiting).await;
    let mut wire = Wire::agent(&house.target(0), &new).await.unwrap();
    assert_eq!(wire.frame().await.unwrap().payload, br#"{"type":"report_now"}"#);
}

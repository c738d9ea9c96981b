//! Clients that die on their way in must cost nothing.

use std::time::Duration;

use tests::{
    credentials::Credentials,
    internal,
    raw::{self, PATIENCE, Wire},
};

use crate::{database::Database, harness::Server};

/// bcrypt, cost 13, of [`SLOW_KEY`]: half a second of work, and again each time, since a key that is not 64 hex digits
/// has no digest.
const SLOW_HASH: &str = "$2b$13$defghijklmnopqrstuvwxugwKngKe5ZXqPNQaazgXtnYYWO66/tXK";
const SLOW_KEY: &str = "a-key-of-the-old-days";

const QUEUED: &str = "patchbay_bcrypt_queued";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_while_its_key_is_checked_has_replaced_nobody() {
    let server = Server::start().await;
    let target = server.target();
    let host = Credentials {
        id: "0194d0d8-0000-7000-8000-000000000001".to_owned(),
        name: "slow".to_owned(),
        api_id: "patchmon_slow".to_owned(),
        api_key: SLOW_KEY.to_owned(),
    };
    let mut database = Database::open(&server).await;
    database.import_host(&host.id, &host.name, &host.api_id, SLOW_HASH, None).await;
    let mut first = Wire::agent(&target, &host).await.unwrap();
    let request = raw::upgrade_request("/api/v1/agents/ws", &raw::credentials(&host), &[]);
    for reset in [true, false, true] {
        let mut dying = Wire::dial(&target, None).await.unwrap();
        dying.write(&request).await.unwrap();
        internal::wait(&server.internal_url(), QUEUED, |n| n > 0.0).await.unwrap();
        if reset {
            dying.reset();
        } else {
            drop(dying);
        }
        internal::wait(&server.internal_url(), QUEUED, |n| n == 0.0).await.unwrap();
    }
    first.ping(b"undisturbed").await.unwrap();
    assert_eq!(database.number("SELECT epoch FROM hosts WHERE name = 'slow'").await, 1, "a dead client was counted");
    // The next one that lives gets in and replaces it.
    let mut second = Wire::agent(&target, &host).await.unwrap();
    assert_eq!(first.closed().await.unwrap(), Some(4001));
    second.ping(b"the newest").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_die_around_the_101_and_half_open_ones_stand_in_nobodys_way() {
    let server = Server::start().await;
    let target = server.target();
    let hosts = server.add_hosts("dying", 30).await;
    let mut beside = Wire::agent(&target, &server.add_hosts("beside", 1).await[0]).await.unwrap();
    // Half-open ones: silent, in the middle of a head, one byte short of it.
    let mut half_open = Vec::new();
    for n in 0..300 {
        let mut wire = Wire::dial(&target, None).await.unwrap();
        let request = raw::upgrade_request("/api/v1/agents/ws", &raw::credentials(&hosts[n % 10]), &[]);
        match n % 3 {
            0 => {}
            1 => wire.write(&request[..n / 3]).await.unwrap(),
            _ => wire.write(&request[..request.len() - 1]).await.unwrap(),
        }
        half_open.push(wire);
    }
    for (n, host) in hosts.iter().enumerate().skip(10) {
        let mut wire = Wire::dial(&target, None).await.unwrap();
        let request = raw::upgrade_request("/api/v1/agents/ws", &raw::credentials(host), &[]);
        if n % 2 == 0 {
            // Before it has seen an answer.
            wire.write(&request).await.unwrap();
        } else {
            wire.upgrade(&request).await.unwrap();
        }
        wire.reset();
    }
    let admin = server.admin().await;
    for host in hosts.iter().skip(10) {
        let mut alive = Wire::agent(&target, host).await.unwrap();
        alive.ping(b"alive").await.unwrap();
        alive.reset();
    }
    beside.ping(b"undisturbed").await.unwrap();
    drop(half_open);
    let gone = "patchbay_agents_connected{scheme=\"plain\"}";
    internal::wait(&server.internal_url(), gone, |n| n == 1.0).await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let summary = admin.get("/ws/status/summary").await.unwrap().ok().unwrap();
        if summary["connected"] == 1 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{summary}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

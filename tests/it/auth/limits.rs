//! Limits: failures of an address, machines that share an id, and how many agents there may be.

use std::net::Ipv4Addr;

use tests::raw::{self, PATIENCE, Reply, Wire};

use super::{PATH, assert_refused, assert_says_when, http_ping, knock_as};
use crate::harness::Server;

const TOO_MANY: &str = "Too many failed attempts";

async fn from(server: &Server, source: Ipv4Addr, credentials: [(&str, &str); 2], more: &[(&str, &str)]) -> Reply {
    let mut wire = Wire::dial(&server.target(), Some(source)).await.unwrap();
    wire.call(&raw::upgrade_request(PATH, &credentials, more)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_by_address_and_a_right_key_always_passes() {
    let settings = [("PATCHBAY_AGENT_AUTH_FAILURES_PER_MIN", "3"), ("PATCHBAY_TRUSTED_PROXIES", "127.9.0.0/16")];
    let server = Server::start_with(&settings).await;
    let host = server.add_hosts("host", 1).await.remove(0);
    let (here, elsewhere) = (Ipv4Addr::new(127, 5, 5, 1), Ipv4Addr::new(127, 5, 5, 2));
    let wrong = [("X-Api-Id", host.api_id.as_str()), ("X-Api-Key", "wrong")];
    // Successes cost nothing.
    for _ in 0..5 {
        assert_eq!(from(&server, here, raw::credentials(&host), &[]).await.status, 101);
    }
    for _ in 0..3 {
        assert_refused(&from(&server, here, wrong, &[]).await, 401, "Invalid credentials", "the first failures");
    }
    let limited = from(&server, here, wrong, &[]).await;
    assert_refused(&limited, 429, TOO_MANY, "one too many");
    assert_says_when(&limited);
    let unknown = [("X-Api-Id", "patchmon_nobody"), ("X-Api-Key", "wrong")];
    assert_eq!(from(&server, here, unknown, &[]).await.status, 429);
    assert_eq!(from(&server, here, raw::credentials(&host), &[]).await.status, 101, "a right key");
    assert_eq!(from(&server, elsewhere, wrong, &[]).await.status, 401, "another address has its own");
    // HTTP calls fail into the same account.
    let mut wire = Wire::dial(&server.target(), Some(here)).await.unwrap();
    let reply = http_ping(&mut wire, wrong).await;
    assert_eq!(reply.status, 429, "{reply:?}");
    // Behind a proxy the client's address counts, and only what the proxy itself wrote is believed.
    let proxy = Ipv4Addr::new(127, 9, 0, 1);
    for n in 0..5 {
        let invented = format!("203.0.113.{n}, 198.51.100.7");
        let reply = from(&server, proxy, wrong, &[("X-Forwarded-For", &invented)]).await;
        assert_eq!(reply.status, if n < 3 { 401 } else { 429 }, "{n}: {reply:?}");
    }
    assert_eq!(from(&server, proxy, wrong, &[("X-Forwarded-For", "198.51.100.8")]).await.status, 401);
    // From anyone else the header is air.
    let reply = from(&server, here, wrong, &[("X-Forwarded-For", "198.51.100.9")]).await;
    assert_eq!(reply.status, 429, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_share_an_id_are_told_to_wait() {
    let server = Server::start().await;
    let target = server.target();
    let hosts = server.add_hosts("host", 2).await;
    let mut sockets = vec![Wire::agent(&target, &hosts[0]).await.unwrap()];
    let refused = loop {
        let mut wire = Wire::dial(&target, None).await.unwrap();
        let reply = wire.call(&raw::upgrade_request(PATH, &raw::credentials(&hosts[0]), &[])).await.unwrap();
        if reply.status != 101 {
            break reply;
        }
        wire.greeting().await.unwrap();
        let mut replaced = sockets.pop().unwrap();
        assert_eq!(replaced.closed().await.unwrap(), Some(4001));
        sockets.push(wire);
        assert!(server.logs().len() < 10_000);
    };
    assert_refused(&refused, 429, "Several machines use this api_id", "a flapping id");
    assert_says_when(&refused);
    // Who holds it keeps it, and others are not concerned.
    sockets[0].ping(b"kept").await.unwrap();
    Wire::agent(&target, &hosts[1]).await.unwrap();
    let log = server.wait_log("share this api_id", PATIENCE).await;
    assert!(log.contains(&hosts[0].api_id), "{log}");
    assert!(!log.contains(&hosts[0].api_key), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_cap_agents_are_sent_elsewhere() {
    let server = Server::start_with(&[("PATCHBAY_MAX_CONNECTIONS", "2")]).await;
    let target = server.target();
    let hosts = server.add_hosts("host", 3).await;
    let mut first = Wire::agent(&target, &hosts[0]).await.unwrap();
    let second = Wire::agent(&target, &hosts[1]).await.unwrap();
    let full = knock_as(&target, &hosts[2]).await;
    assert_refused(&full, 503, "The server holds as many agents as it may", "above the cap");
    assert_says_when(&full);
    first.ping(b"undisturbed").await.unwrap();
    // A place that is given back is there again.
    second.reset();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while knock_as(&target, &hosts[2]).await.status != 101 {
        assert!(tokio::time::Instant::now() < deadline, "no place was given back");
    }
}

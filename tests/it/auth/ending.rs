//! The end of a server, and of connections that never become a request.

use std::time::Duration;

use tests::raw::{self, PATIENCE, Wire};
use tokio::time::Instant;

use super::{assert_refused, assert_says_when, http_ping, knock_as};
use crate::harness::Server;

/// A head has 30 s; the rest is for a busy machine.
const HEAD: Duration = Duration::from_secs(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_refuses_newcomers_and_sends_the_others_away() {
    let mut server = Server::start_with(&[("PATCHBAY_DRAIN_SECS", "6")]).await;
    let target = server.target();
    let hosts = server.add_hosts("host", 41).await;
    let newcomer = &hosts[40];
    let mut sockets = Vec::new();
    for host in &hosts[..40] {
        sockets.push(Wire::agent(&target, host).await.unwrap());
    }
    server.terminate();
    server.wait_log("draining", PATIENCE).await;
    // Of forty, one leaves in the last of the six seconds; until then newcomers are answered.
    let refused = knock_as(&target, newcomer).await;
    assert_refused(&refused, 503, "The server is draining", "a newcomer");
    assert_says_when(&refused);
    assert_eq!(tests::internal::readyz(&server.internal_url()).await.unwrap(), 503);
    for mut socket in sockets {
        assert_eq!(socket.closed().await.unwrap(), Some(1001));
        let _ = socket.write(&raw::frame(raw::CLOSE, &1001_u16.to_be_bytes())).await;
        socket.ended(PATIENCE).await.unwrap();
    }
    assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(0));
    server.restart().await;
    Wire::agent(&target, newcomer).await.unwrap().ping(b"as before").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_drip_and_idle_connections_are_closed() {
    let server = Server::start().await;
    let target = server.target();
    let host = server.add_hosts("host", 1).await.remove(0);
    let request = raw::upgrade_request(super::PATH, &raw::credentials(&host), &[("X-Padding", &"x".repeat(200))]);
    let mut drip = Wire::dial(&target, None).await.unwrap();
    let mut silent = Wire::dial(&target, None).await.unwrap();
    let mut idle = Wire::dial(&target, None).await.unwrap();
    assert_eq!(http_ping(&mut idle, raw::credentials(&host)).await.status, 200);
    let dripping = async {
        let deadline = Instant::now() + HEAD;
        for byte in &request {
            // The server may end it between two drops.
            if drip.write(std::slice::from_ref(byte)).await.is_err() || drip.ended(Duration::from_secs(1)).await.is_ok()
            {
                return;
            }
            assert!(Instant::now() < deadline, "a head may drip for ever");
        }
        panic!("the whole head went through");
    };
    tokio::join!(dripping, async { silent.ended(HEAD).await.unwrap() }, async { idle.ended(HEAD).await.unwrap() });
    Wire::agent(&target, &host).await.unwrap().ping(b"served").await.unwrap();
}

//! ws or wss: what a trusted proxy says of it, and nobody else.

use std::net::Ipv4Addr;

use tests::raw::{self, Wire};

use super::{PATH, status};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn only_a_trusted_proxy_says_that_it_was_tls() {
    let server = Server::start_with(&[("PATCHBAY_TRUSTED_PROXIES", "127.9.0.0/16,10.0.0.0/8")]).await;
    let (admin, target) = (server.admin().await, server.target());
    let (proxy, stranger) = (Ipv4Addr::new(127, 9, 1, 1), Ipv4Addr::new(127, 8, 1, 1));
    let cases = [
        (proxy, Some("https"), true),
        (proxy, Some("wss"), true),
        (proxy, Some("HTTPS"), true),
        (proxy, Some("https, http"), true),
        (proxy, Some("wss,ws"), true),
        (proxy, Some("http, https"), false),
        (proxy, Some("http"), false),
        (proxy, Some("ws"), false),
        (proxy, Some(""), false),
        (proxy, None, false),
        (stranger, Some("https"), false),
        (stranger, Some("wss"), false),
    ];
    let names: Vec<_> = (0..cases.len()).map(|n| format!("proxied-{n}")).collect();
    let hosts = admin.add_hosts(&names).await.unwrap();
    for ((source, proto, secure), host) in cases.into_iter().zip(&hosts) {
        let what = format!("{proto:?} from {source}");
        let mut wire = Wire::dial(&target, Some(source)).await.unwrap();
        let more: Vec<_> = proto.iter().map(|proto| ("X-Forwarded-Proto", *proto)).collect();
        wire.upgrade(&raw::upgrade_request(PATH, &raw::credentials(host), &more)).await.unwrap();
        wire.greeting().await.unwrap();
        let shown = status(&admin, &host.api_id).await;
        assert_eq!((&shown["connected"], &shown["secure"]), (&true.into(), &secure.into()), "{what}: {shown}");
        let row = admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap();
        assert_eq!(row["secure"], secure, "{what}: {row}");
    }
    // It is logged too.
    let connected = server.wait_log("agent connected", raw::PATIENCE).await;
    let line: serde_json::Value = serde_json::from_str(&connected).unwrap();
    assert_eq!((&line["secure"], &line["host"]), (&true.into(), &"proxied-0".into()), "{line}");
}

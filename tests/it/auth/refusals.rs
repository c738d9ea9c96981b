//! Refusals before the 101, byte for byte.

use tests::raw::{self, PATIENCE, Reply, WEBSOCKET, Wire};

use super::{PATH, assert_refused, knock};
use crate::harness::Server;

const MISSING: &str = "Missing or invalid credentials";
const INVALID: &str = "Invalid credentials";

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_why_and_ends_the_connection() {
    let server = Server::start_with(&[("PATCHBAY_AGENT_AUTH_FAILURES_PER_MIN", "100000")]).await;
    let target = server.target();
    let host = server.add_hosts("known", 1).await.remove(0);
    let other = server.add_hosts("other", 1).await.remove(0);
    let (id, key) = (host.api_id.as_str(), host.api_key.as_str());
    let raw = |headers: Vec<(&'static str, String)>| {
        let target = target.clone();
        async move {
            let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            refused(&target, &raw::upgrade_request(PATH, &headers, &[])).await
        }
    };
    for (what, headers) in [
        ("no headers", vec![]),
        ("no key", vec![("X-Api-Id", id.to_owned())]),
        ("no id", vec![("X-Api-Key", key.to_owned())]),
        ("an empty key", vec![("X-Api-Id", id.to_owned()), ("X-Api-Key", String::new())]),
        ("an empty id", vec![("X-Api-Id", String::new()), ("X-Api-Key", key.to_owned())]),
        ("a token instead", vec![("Authorization", format!("Bearer {key}"))]),
    ] {
        assert_refused(&raw(headers).await, 401, MISSING, what);
    }
    let long = "x".repeat(65);
    let stranger = format!("patchmon_{}", "0".repeat(16));
    for (what, api_id, api_key) in [
        ("a wrong key", id, other.api_key.as_str()),
        ("a key with one digit more", id, &format!("{key}0")),
        ("a key without its last digit", id, &key[1..]),
        ("a key in capitals", id, &key.to_uppercase()),
        ("an unknown id", &stranger, key),
        ("the host's other id", &host.id, key),
        ("an id with a dot", "agent.x", key),
        ("a wildcard", "*", key),
        ("the other wildcard", ">", key),
        ("an id with a space", "patchmon 1", key),
        ("an id of another's query", "' OR 1=1 --", key),
        ("an id too long", &long, key),
        ("an id in capitals", &id.to_uppercase(), key),
        ("an id that is no ASCII", "patchmön", key),
        ("a key that is no ASCII", id, "schlüssel"),
    ] {
        assert_refused(&knock(&target, api_id, api_key).await, 401, INVALID, what);
    }
    // Nothing is told apart: an unknown id, a wrong key, a key of another host.
    let bodies = [knock(&target, &stranger, key).await, knock(&target, id, &other.api_key).await].map(|r| r.body);
    assert_eq!(bodies[0], bodies[1]);
    assert_eq!(knock(&target, id, key).await.status, 101);
    // Secrets of agents are in no log.
    let logs = server.logs();
    for secret in [key, &other.api_key] {
        assert!(!logs.iter().any(|line| line.contains(secret)), "a key was logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upgrade_of_an_agent_is_told_so() {
    let server = Server::start().await;
    let target = server.target();
    let host = server.add_hosts("known", 1).await.remove(0);
    let credentials = raw::credentials(&host);
    let with = |changed: &[(&'static str, &'static str)], without: &[&str]| {
        let mut headers: Vec<(&str, &str)> = vec![("Host", "patchbay.test")];
        headers.extend(WEBSOCKET.iter().filter(|(name, _)| !without.contains(name)));
        headers.extend_from_slice(changed);
        headers.extend(credentials);
        raw::request("GET", PATH, &headers, "")
    };
    for (what, request) in [
        ("another version", with(&[("Sec-WebSocket-Version", "8")], &["Sec-WebSocket-Version"])),
        ("no version", with(&[], &["Sec-WebSocket-Version"])),
        ("no key", with(&[], &["Sec-WebSocket-Key"])),
    ] {
        let reply = refused(&target, &request).await;
        assert_eq!(reply.status, 400, "{what}: {reply:?}");
        assert!(reply.json()["error"].is_string(), "{what}: {reply:?}");
        assert_eq!(reply.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("close"), "{what}");
    }
    for path in [
        "/api/agents/ws",
        "/api/v1/x/agents/ws",
        "/api/v1/agents",
        "/agents/ws",
        "/api/v1/hosts",
        "/api/v1/ws/status",
        "/board",
    ] {
        let reply = refused(&target, &raw::upgrade_request(path, &credentials, &[])).await;
        assert_refused(&reply, 404, "Not found", path);
    }
    let reply = refused(&target, &raw::upgrade_request("/", &credentials, &[])).await;
    assert_refused(&reply, 400, "Missing path", "/");
    // Without the wish to upgrade it is an ordinary request for something that is not there.
    let mut wire = Wire::dial(&target, None).await.unwrap();
    let headers: Vec<_> = [[("Host", "patchbay.test")].as_slice(), &credentials].concat();
    let reply = wire.call(&raw::request("GET", PATH, &headers, "")).await.unwrap();
    assert!((400..500).contains(&reply.status) && reply.json()["error"].is_string(), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_of_an_agents_path_is_taken() {
    let server = Server::start().await;
    let target = server.target();
    let hosts = server.add_hosts("path", 8).await;
    let paths = [
        "/api/v1/agents/ws",
        "//api/v1/agents/ws",
        "///api/v1/agents/ws",
        "/api/v2/agents/ws",
        "/base/api/v1/agents/ws",
        "/base/path/api/v1/agents/ws",
        "//base/api/v2/agents/ws",
        "/api/v1/agents/ws?x=1",
    ];
    for (path, host) in paths.iter().zip(&hosts) {
        let mut wire = Wire::dial(&target, None).await.unwrap();
        wire.upgrade(&raw::upgrade_request(path, &raw::credentials(host), &[]))
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"));
        wire.greeting().await.unwrap();
        wire.ping(path.as_bytes()).await.unwrap();
    }
    // The calls of the same agents trim nothing (protocol 1.1).
    for path in ["/api/v1/hosts/ping", "//api/v1/hosts/ping", "/api/v2/hosts/ping", "/base/api/v1/hosts/ping"] {
        let mut wire = Wire::dial(&target, None).await.unwrap();
        let headers =
            [[("Host", "patchbay.test")].as_slice(), &raw::credentials(&hosts[0]), &[("Content-Length", "0")]];
        let reply = wire.call(&raw::request("POST", path, &headers.concat(), "")).await.unwrap();
        assert_eq!((reply.status, &reply.json()["message"]), (200, &"Ping successful".into()), "{path}: {reply:?}");
    }
}

/// The answer to a request that must be refused, after which the connection has to end.
async fn refused(target: &tests::server::Server, request: &[u8]) -> Reply {
    let mut wire = Wire::dial(target, None).await.unwrap();
    let reply = wire.call(request).await.unwrap();
    assert_ne!(reply.status, 101);
    wire.ended(PATIENCE).await.unwrap();
    reply
}

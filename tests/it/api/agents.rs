//! The HTTP calls of agents: limits and refusals (protocol 3).

use serde_json::json;
use tests::{
    credentials::Credentials,
    raw::{self, Wire},
};

use super::{agent_call, agent_post, assert_secrets_kept, start, token};

const MIB: usize = 1 << 20;

/// A JSON object of exactly so many bytes.
fn padded(length: usize) -> Vec<u8> {
    let (before, after) = (r#"{"padding":""#, r#""}"#);
    format!("{before}{}{after}", "x".repeat(length - before.len() - after.len())).into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_good_credentials_are_refused_as_agents_know_it() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("host").await.unwrap();
    for (method, path) in [
        ("GET", "/settings/update-interval"),
        ("GET", "/hosts/integrations"),
        ("POST", "/hosts/ping"),
        ("POST", "/hosts/update"),
        ("POST", "/hosts/integration-status"),
        ("POST", "/compliance/scans"),
        ("GET", "/hosts/agent/version"),
    ] {
        let call = |headers: &[(&'static str, &str)]| {
            let mut request = admin.request(method.parse().unwrap(), path).body("{}");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            async move {
                let response = request.send().await.unwrap();
                for (name, value) in [
                    ("content-type", "application/json"),
                    ("x-content-type-options", "nosniff"),
                    ("cache-control", "no-store"),
                ] {
                    assert_eq!(response.headers()[name], value);
                }
                (response.status().as_u16(), response.json::<serde_json::Value>().await.unwrap()["error"].take())
            }
        };
        // Even an admin's token is no key.
        let missing = call(&[]).await;
        assert_eq!(missing, (401, "API credentials required".into()), "{path}");
        let wrong = call(&[("x-api-id", &host.api_id), ("x-api-key", "wrong")]).await;
        assert_eq!(wrong, (401, "Invalid API credentials".into()), "{path}");
        let other = if method == "GET" { "POST" } else { "GET" };
        let (status, body) = agent_call(&server, &host, other, path, Vec::new()).await;
        assert_eq!((status, body["error"].is_string()), (405, true), "{other} {path}: {body}");
    }
    let (status, body) = agent_call(&server, &host, "GET", "/hosts/agent/download?arch=amd64", Vec::new()).await;
    assert_eq!((status, body["error"].is_string()), (404, true), "{body}");
    assert_secrets_kept(&server, &[&host.api_key, token(&admin)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_by_call() {
    let server = start(&[]).await;
    let host = server.add_hosts("host", 1).await.remove(0);
    for (path, fits, too_big) in
        [("/hosts/ping", MIB, MIB + 1), ("/hosts/update", 5 * MIB, 5 * MIB + 1), ("/hosts/update", 4 * MIB, 12 * MIB)]
    {
        let (status, body) = agent_call(&server, &host, "POST", path, padded(fits)).await;
        assert_eq!(status, 200, "{path} {fits}: {body}");
        let (status, body) = agent_call(&server, &host, "POST", path, padded(too_big)).await;
        assert_eq!((status, body["error"].is_string()), (413, true), "{path} {too_big}: {body}");
    }
    let (status, body) = agent_call(&server, &host, "POST", "/compliance/scans", padded(12 * MIB)).await;
    assert_eq!(status, 413, "{body}");
    // A chunked body, as 2.1 sends its ping, says nothing of its size beforehand.
    let headers = [[("Host", "patchbay.test"), ("Transfer-Encoding", "chunked")], raw::credentials(&host)].concat();
    for (chunks, expected) in [(0, 200), (17, 413)] {
        let mut wire = Wire::dial(&server.target(), None).await.unwrap();
        wire.write(&raw::request("POST", "/api/v1/hosts/ping", &headers, "")).await.unwrap();
        for _ in 0..chunks {
            wire.write(&[b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat()).await.unwrap();
        }
        let reply = wire.call(b"0\r\n\r\n").await.unwrap();
        assert_eq!(reply.status, expected, "{chunks} chunks: {reply:?}");
    }
    // Nobody compresses, so nobody gets to send little that becomes much.
    let admin = server.admin().await;
    let request = admin.request(reqwest::Method::POST, "/hosts/update").header("content-encoding", "gzip");
    let request = request.header("x-api-id", &host.api_id).header("x-api-key", &host.api_key).body(vec![0x1f, 0x8b]);
    assert_eq!(request.send().await.unwrap().status(), 415);
    assert_secrets_kept(&server, &[&host.api_key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_are_taken_ten_times_a_minute_and_in_both_forms() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 3).await;
    let invalid = "Invalid payload: expected 'scans' array or 'profile_name'";
    for body in [json!({}), json!({"scans": 7}), json!({"scans": ["x"]}), json!([1]), json!({"profile_name": 3})] {
        let (status, answer) = agent_post(&server, &hosts[2], "/compliance/scans", &body).await;
        assert_eq!((status, &answer["error"]), (400, &invalid.into()), "{body}");
    }
    let (status, answer) = agent_call(&server, &hosts[2], "POST", "/compliance/scans", b"{".to_vec()).await;
    assert_eq!((status, answer["error"].is_string()), (400, true), "{answer}");

    let scan = |second: u32| {
        json!({"profile_name": "level1_server", "profile_type": "openscap", "status": "completed", "score": 71.5,
            "total_rules": 2, "passed": 1, "failed": 1, "started_at": format!("2026-01-01T00:00:{second:02}Z"),
            "results": [{"rule_ref": "r1", "title": "t", "status": "pass"}, {"rule_ref": "r2", "title": "t", "status": "fail"}]})
    };
    let body = |second| json!({"scans": [scan(second)], "hostname": "h", "agent_version": "2.1.4"});
    for n in 1..=10 {
        // The last one is the one before once more: its answer got lost, for all the agent knows.
        let (status, answer) = agent_post(&server, &hosts[0], "/compliance/scans", &body(n.min(9))).await;
        assert_eq!(status, 200, "{n}: {answer}");
        assert_eq!(answer, json!({"message": "Scan results saved successfully", "scans_received": 1}));
    }
    let (status, answer) = agent_post(&server, &hosts[0], "/compliance/scans", &body(11)).await;
    assert_eq!((status, &answer["error"]), (429, &"Too many scan submissions, please try again later".into()));
    // Each host has its own ten, and the old form, one result without a list, is taken too.
    let (status, answer) = agent_post(&server, &hosts[1], "/compliance/scans", &scan(1)).await;
    assert_eq!((status, &answer["scans_received"]), (200, &1.into()), "{answer}");
    let stored = |host: &Credentials, limit: u32| {
        let (admin, path) = (admin.clone(), format!("/hosts/{}/scans?limit={limit}", host.id));
        async move { admin.get(&path).await.unwrap().ok().unwrap()["items"].as_array().unwrap().clone() }
    };
    assert_eq!(stored(&hosts[0], 3).await.len(), 3);
    let items = [stored(&hosts[0], 100).await, stored(&hosts[1], 100).await].concat();
    assert_eq!(items.len(), 9 + 1);
    for item in items {
        let shown = (&item["profile_name"], &item["status"], &item["score"]);
        assert_eq!(shown, (&"level1_server".into(), &"completed".into(), &json!(71.5)));
        assert_eq!(item["body"]["results"].as_array().unwrap().len(), 2, "{item}");
    }
    assert_secrets_kept(&server, &[&hosts[0].api_key, token(&admin)]);
}

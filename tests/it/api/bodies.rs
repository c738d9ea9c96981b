//! Bodies and queries that cannot be: a clear 4xx that names the field, and nothing happens.

use serde_json::{Value, json};
use tests::raw::{self, Wire};

use super::{assert_secrets_kept, start, token};

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_named_and_nothing_happens() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("host").await.unwrap();
    let integrations = format!("/hosts/{}/integrations", host.id);
    let id = host.id.as_str();
    let many = json!({"kind": "report_now", "host_ids": vec![id; 10_001]}).to_string();
    let names = json!({"names": vec!["x"; 1001]}).to_string();
    let cases: Vec<(&str, &str, String, &str)> = vec![
        ("POST", "/auth/login", String::new(), "JSON"),
        ("POST", "/auth/login", "{".into(), "EOF"),
        ("POST", "/auth/login", r#"{"username":"admin"}"#.into(), "password"),
        ("POST", "/auth/login", r#"{"username":7,"password":"x"}"#.into(), "username"),
        ("POST", "/auth/login", r#"[{"username":"admin"}]"#.into(), ""),
        ("POST", "/hosts", "{}".into(), "name"),
        ("POST", "/hosts", r#"{"name":""}"#.into(), "name"),
        ("POST", "/hosts", r#"{"name":["a"]}"#.into(), "name"),
        ("POST", "/hosts", r#"{"name":"a","names":["b"]}"#.into(), "name"),
        ("POST", "/hosts", r#"{"name":"a","role":"x"}"#.into(), "role"),
        ("POST", "/hosts", r#"{"name":"a\u001b[2Jb"}"#.into(), "name"),
        ("POST", "/hosts", r#"{"names":["good",7]}"#.into(), "names[1]"),
        ("POST", "/hosts", r#"{"names":["good","GOOD"]}"#.into(), "names"),
        ("POST", "/hosts", r#"{"names":[]}"#.into(), "names"),
        ("POST", "/hosts", r#"{"name":"a"} {"name":"b"}"#.into(), "trailing"),
        ("POST", "/hosts", names, "names"),
        ("PUT", &integrations, r#"{"compliance_mode":"sometimes"}"#.into(), "compliance_mode"),
        ("PUT", &integrations, r#"{"docker_enabled":"yes"}"#.into(), "docker_enabled"),
        ("PUT", &integrations, r#"{"docker":true}"#.into(), "docker"),
        ("POST", "/commands", "{}".into(), "kind"),
        ("POST", "/commands", r#"{"kind":"reboot","all":true}"#.into(), "kind"),
        ("POST", "/commands", r#"{"kind":"report_now"}"#.into(), "host_ids"),
        ("POST", "/commands", format!(r#"{{"kind":"report_now","all":true,"host_ids":["{id}"]}}"#), "all"),
        ("POST", "/commands", r#"{"kind":"report_now","host_ids":[]}"#.into(), "host_ids"),
        ("POST", "/commands", format!(r#"{{"kind":"report_now","host_ids":["{id}","x"]}}"#), "host_ids[1]"),
        ("POST", "/commands", r#"{"kind":"report_now","all":"true"}"#.into(), "all"),
        ("POST", "/commands", r#"{"kind":"report_now","all":true,"expires_in":0}"#.into(), "expires_in"),
        ("POST", "/commands", r#"{"kind":"report_now","all":true,"expires_in":-5}"#.into(), "expires_in"),
        ("POST", "/commands", r#"{"kind":"report_now","all":true,"spread_secs":1e9}"#.into(), "spread_secs"),
        ("POST", "/commands", r#"{"kind":"report_now","all":true,"payload":{"x":1}}"#.into(), "x"),
        ("POST", "/commands", r#"{"kind":"settings_update","all":true}"#.into(), "update_interval"),
        (
            "POST",
            "/commands",
            r#"{"kind":"settings_update","all":true,"payload":{"update_interval":"5"}}"#.into(),
            "update_interval",
        ),
        (
            "POST",
            "/commands",
            r#"{"kind":"settings_update","all":true,"payload":{"update_interval":0}}"#.into(),
            "update_interval",
        ),
        (
            "POST",
            "/commands",
            r#"{"kind":"compliance_scan","all":true,"payload":{"profile_id":"a b"}}"#.into(),
            "profile_id",
        ),
        (
            "POST",
            "/commands",
            r#"{"kind":"compliance_scan","all":true,"payload":{"profile_type":"x"}}"#.into(),
            "profile_type",
        ),
        ("POST", "/commands", many, "host_ids"),
    ];
    let mut wrong = Vec::new();
    for (method, path, body, named) in &cases {
        let request = admin.request(method.parse().unwrap(), path).header("content-type", "application/json");
        let response = request.body(body.clone()).send().await.unwrap();
        let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
        let error = serde_json::from_str::<Value>(&text).unwrap_or(Value::Null)["error"].clone();
        if status != 400 || !error.as_str().is_some_and(|error| error.contains(named)) {
            wrong.push(format!("{method} {path} {}: {status} {text}", &body[..body.len().min(80)]));
        }
    }
    for (path, named) in [
        ("/hosts?limit=1001", "limit"),
        ("/hosts?limit=x", "limit"),
        ("/hosts?connected=maybe", "connected"),
        ("/hosts?colour=red", "colour"),
        ("/commands?state=done", "state"),
        ("/commands?kind=reboot", "kind"),
        ("/commands?host_id=host", "host_id"),
        ("/commands?batch_id=1", "batch_id"),
        ("/commands?limit=-1", "limit"),
        ("/commands?offset=5", "offset"),
        ("/events?types=everything", "types"),
        ("/events?host_id=host", "host_id"),
        ("/ws/status?ids=a", "ids"),
    ] {
        let answer = admin.get(path).await.unwrap();
        if answer.status != 400 || !answer.body["error"].as_str().is_some_and(|error| error.contains(named)) {
            wrong.push(format!("GET {path}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let listed =
        |path: &'static str| async { admin.get(path).await.unwrap().ok().unwrap()["items"].as_array().unwrap().len() };
    assert_eq!((listed("/hosts").await, listed("/commands").await), (1, 0), "something was inserted");
    let kept = admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap();
    assert_eq!(kept["integrations"]["docker_enabled"], false, "{kept}");
    assert_secrets_kept(&server, &[token(&admin), &host.api_key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_over_the_limit_are_413_whether_or_not_they_say_so() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let big = json!({"name": "x".repeat(1 << 20)});
    let answer = admin.post("/hosts", &big).await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.body["error"].is_string()), (413, true), "{answer:?}");
    // In chunks, without a length.
    let authorization = format!("Bearer {}", token(&admin));
    let headers =
        [("Host", "patchbay.test"), ("Authorization", authorization.as_str()), ("Transfer-Encoding", "chunked")];
    let mut wire = Wire::dial(&server.target(), None).await.unwrap();
    wire.write(&raw::request("POST", "/api/v1/hosts", &headers, "")).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        // It may answer before the end.
        let _ = wire.write(&chunk).await;
    }
    let reply = wire.call(b"0\r\n\r\n").await.unwrap();
    assert_eq!(reply.status, 413, "{reply:?}");
    // A head without end is no request.
    let mut wire = Wire::dial(&server.target(), None).await.unwrap();
    let padding = "x".repeat(256 << 10);
    let endless = raw::request("GET", "/api/v1/hosts", &[("Host", "patchbay.test"), ("X-Padding", &padding)], "");
    let _ = wire.write(&endless).await;
    wire.ended(raw::PATIENCE).await.unwrap();
    assert_eq!(admin.get("/hosts").await.unwrap().ok().unwrap()["items"], json!([]));
}

//! Hosts over the API.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{admin::Admin, raw::Wire};

use super::{agent_post, assert_secrets_kept, start, token};

/// All pages of a list.
pub async fn pages(client: &Admin, path: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let joint = if path.contains('?') { '&' } else { '?' };
        let page = client.get(&format!("{path}{joint}limit={limit}{cursor}")).await.unwrap().ok().unwrap();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit, "{} of {limit}", items.len());
        all.extend(items.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
        assert!(!items.is_empty() && all.len() < 100_000, "a list without end");
    }
}

fn names(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_added_once_listed_in_pages_and_found() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let one = admin.post("/hosts", &json!({"name": "  web one  "})).await.unwrap();
    assert_eq!(one.status, 201, "{one:?}");
    assert_eq!(one.body["name"], "web one");
    assert!(one.body["api_id"].as_str().unwrap().starts_with("patchmon_"), "{one:?}");
    assert_eq!(one.body["api_key"].as_str().unwrap().len(), 64);
    let taken = admin.post("/hosts", &json!({"name": "web one"})).await.unwrap();
    assert_eq!((taken.status.as_u16(), taken.body["error"].is_string()), (409, true), "{taken:?}");
    // All or none.
    let many = json!({"names": ["db-1", "web one", "db-2"]});
    assert_eq!(admin.post("/hosts", &many).await.unwrap().status, 409);
    let all: Vec<_> = (0..25).map(|n| format!("db-{n:02}")).collect();
    let made = admin.add_hosts(&all).await.unwrap();
    assert_eq!(made.iter().map(|host| host.name.clone()).collect::<Vec<_>>(), all, "in the order of the request");
    assert_eq!(made.iter().map(|host| &host.api_key).collect::<BTreeSet<_>>().len(), 25);

    let expected: Vec<_> = all.iter().map(String::as_str).chain(["web one"]).collect();
    for limit in [1, 7, 26, 1000] {
        assert_eq!(names(&pages(&admin, "/hosts", limit).await), expected, "{limit} a page");
    }
    assert_eq!(names(&pages(&admin, "/hosts?search=db-1", 4).await).len(), 10);
    assert_eq!(names(&pages(&admin, "/hosts?search=WEB", 4).await), ["web one"]);
    // What steers a pattern is text.
    for nothing in ["%25", "_", "db%25", "%27"] {
        assert_eq!(
            names(&pages(&admin, &format!("/hosts?search={nothing}"), 4).await),
            Vec::<&str>::new(),
            "{nothing}"
        );
    }
    let odd = admin.get("/hosts?cursor=%27%20OR%201=1").await.unwrap();
    assert!(odd.status == 200 || odd.status == 400, "{odd:?}");
    let mut socket = Wire::agent(&server.target(), &made[3]).await.unwrap();
    socket.ping(b"here").await.unwrap();
    assert_eq!(names(&pages(&admin, "/hosts?connected=true", 4).await), ["db-03"]);
    assert_eq!(pages(&admin, "/hosts?connected=false", 4).await.len(), 25);
    let row = admin.get(&format!("/hosts/{}", made[3].id)).await.unwrap().ok().unwrap();
    assert_eq!((&row["connected"], &row["api_id"]), (&true.into(), &made[3].api_id.as_str().into()), "{row}");
    // No list and no row shows a key or what is kept of it.
    let shown = json!([pages(&admin, "/hosts", 100).await, row]).to_string();
    assert!(!shown.contains("key") && !shown.contains(&made[3].api_key), "{shown}");
    let keys: Vec<_> = made.iter().map(|host| host.api_key.as_str()).chain([token(&admin)]).collect();
    assert_secrets_kept(&server, &keys);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hosts_integrations_reports_and_end() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("host").await.unwrap();
    let path = |more: &str| format!("/hosts/{}{more}", host.id);
    let put = |body: Value| {
        let (admin, path) = (admin.clone(), path("/integrations"));
        async move { admin.call(reqwest::Method::PUT, &path, Some(&body)).await.unwrap().ok().unwrap() }
    };
    let changed = put(json!({"compliance_mode": "enabled", "docker_bench_enabled": true})).await;
    assert_eq!(
        changed["integrations"],
        json!({"docker_enabled": false, "compliance_mode": "enabled", "openscap_enabled": true, "docker_bench_enabled": true})
    );
    // What is left out stays, and the agent is told the truth.
    let changed = put(json!({"docker_enabled": true})).await;
    assert_eq!(changed["integrations"]["compliance_mode"], "enabled");
    let told = super::agent_call(&server, &host, "GET", "/hosts/integrations", Vec::new()).await.1;
    assert_eq!(told["integrations"], json!({"docker": true, "compliance": true}), "{told}");

    let none = admin.get(&path("/report")).await.unwrap();
    assert_eq!((none.status.as_u16(), &none.body["error"]), (404, &"No report yet".into()));
    assert_eq!(admin.get(&path("/scans")).await.unwrap().ok().unwrap(), json!({"items": []}));
    assert_eq!(admin.get(&path("/integration-status")).await.unwrap().ok().unwrap(), json!({"items": []}));
    let posted = json!({"integration": "docker", "enabled": true, "status": "ready", "message": "fine"});
    assert_eq!(agent_post(&server, &host, "/hosts/integration-status", &posted).await.0, 200);
    let items = admin.get(&path("/integration-status")).await.unwrap().ok().unwrap();
    assert_eq!((&items["items"][0]["integration"], &items["items"][0]["body"]), (&"docker".into(), &posted), "{items}");

    let removed = admin.call(reqwest::Method::DELETE, &path(""), None).await.unwrap();
    assert_eq!((removed.status.as_u16(), removed.body), (204, Value::Null));
    for more in ["", "/report", "/scans", "/integration-status"] {
        let gone = admin.get(&path(more)).await.unwrap();
        assert_eq!((gone.status.as_u16(), &gone.body["error"]), (404, &"Host not found".into()), "{more}");
    }
    for (method, more) in [("DELETE", ""), ("POST", "/rotate-key"), ("PUT", "/integrations")] {
        let gone = admin.call(method.parse().unwrap(), &path(more), Some(&json!({}))).await.unwrap();
        assert_eq!((gone.status.as_u16(), &gone.body["error"]), (404, &"Host not found".into()), "{method} {more}");
    }
    assert_secrets_kept(&server, &[&host.api_key, token(&admin)]);
}

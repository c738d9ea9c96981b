//! Commands as the API takes and shows them. What becomes of them is told in other suites.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{assert_secrets_kept, hosts::pages, start, token, user};
use crate::database::Database;

const NOBODY: &str = "0194d0d8-0000-7000-8000-000000000099";

fn ids(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_listed_newest_first_in_pages_and_by_every_filter() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 12).await;
    let ask = |body: Value| {
        let admin = admin.clone();
        async move { admin.post("/commands", &body).await.unwrap().ok().unwrap() }
    };
    let first = ask(json!({"kind": "settings_update", "all": true, "payload": {"update_interval": 30}})).await;
    assert_eq!(
        (&first["count"], &first["coalesced"], &first["skipped"]),
        (&12.into(), &0.into(), &json!([])),
        "{first}"
    );
    assert_eq!(first["commands"].as_array().unwrap().len(), 12);
    let second = ask(json!({"kind": "report_now", "host_ids": [hosts[4].id, hosts[4].id, hosts[5].id]})).await;
    assert_eq!(second["count"], 2, "{second}");
    let batch = |answer: &Value| answer["batch_id"].as_str().unwrap().to_owned();

    let all = pages(&admin, "/commands", 1000).await;
    assert_eq!(all.len(), 14);
    let mut sorted = ids(&all);
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(ids(&all), sorted, "ids begin with the time");
    for limit in [1, 5, 14] {
        assert_eq!(ids(&pages(&admin, "/commands", limit).await), ids(&all), "{limit} a page");
    }
    for (filter, count) in [
        (format!("batch_id={}", batch(&first)), 12),
        (format!("batch_id={}", batch(&second)), 2),
        (format!("host_id={}", hosts[4].id), 2),
        ("kind=report_now".to_owned(), 2),
        (format!("kind=report_now&host_id={}", hosts[0].id), 0),
        (format!("batch_id={NOBODY}"), 0),
        ("state=succeeded".to_owned(), 0),
    ] {
        assert_eq!(pages(&admin, &format!("/commands?{filter}"), 5).await.len(), count, "{filter}");
    }
    // Nobody is connected: all come to wait.
    for id in ids(&all) {
        admin.wait_state(id, tests::raw::PATIENCE, "waiting").await.unwrap();
    }
    assert_eq!(pages(&admin, "/commands?state=waiting", 5).await.len(), 14);
    let row = admin.command_row(ids(&all)[0]).await.unwrap();
    assert_eq!((&row["final"], &row["evidence"], &row["error"]), (&false.into(), &Value::Null, &Value::Null), "{row}");
    assert_eq!((&row["kind"], &row["requested_by"]), (&"report_now".into(), &"admin".into()), "{row}");
    for time in ["created_at", "expires_at", "queued_at", "waiting_at"] {
        let text = row[time].as_str().unwrap_or_else(|| panic!("{time}: {row}"));
        assert!(text.len() == 24 && text.ends_with('Z'), "{time}: {text}");
    }
    assert!(row.get("sent_at").is_none(), "{row}");

    let cancel = |id: String| {
        let admin = admin.clone();
        async move { admin.post(&format!("/commands/{id}/cancel"), &json!({})).await.unwrap() }
    };
    let answer = cancel(ids(&all)[0].to_owned()).await;
    assert_eq!((answer.status.as_u16(), &answer.body["state"]), (202, &"cancelled".into()), "{answer:?}");
    assert_eq!(cancel(ids(&all)[0].to_owned()).await.status, 200);
    let unknown = cancel(NOBODY.to_owned()).await;
    assert_eq!((unknown.status.as_u16(), &unknown.body["error"]), (404, &"Command not found".into()));
    assert_eq!(pages(&admin, "/commands?state=cancelled", 5).await.len(), 1);
    assert_secrets_kept(&server, &[token(&admin)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_for_all_is_done_for_none_and_a_retry_is_harmless() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 3).await;
    let body = json!({"kind": "report_now", "host_ids": [hosts[0].id, NOBODY]});
    let answer = admin.post("/commands", &body).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.body),
        (404, json!({"error": "Some hosts not found", "missingIds": [NOBODY]}))
    );
    assert_eq!(pages(&admin, "/commands", 10).await.len(), 0, "something was inserted");

    let keyed = |key: &'static str, body: Value| {
        let request = admin.request(reqwest::Method::POST, "/commands").header("idempotency-key", key).json(&body);
        async move {
            let response = request.send().await.unwrap();
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        }
    };
    let both = json!({"kind": "compliance_scan", "host_ids": [hosts[0].id, hosts[1].id]});
    let turned = json!({"host_ids": [hosts[1].id, hosts[0].id], "kind": "compliance_scan", "payload": {}});
    let (status, made) = keyed("k-1", both.clone()).await;
    assert_eq!((status, &made["count"]), (202, &2.into()), "{made}");
    let (status, again) = keyed("k-1", turned).await;
    assert_eq!((status, &again["batch_id"]), (202, &made["batch_id"]), "{again}");
    let ids_of = |answer: &Value| -> BTreeSet<String> {
        answer["commands"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids_of(&again), ids_of(&made));
    let (status, other) = keyed("k-1", json!({"kind": "report_now", "all": true})).await;
    assert_eq!((status, other["error"].is_string()), (422, true), "{other}");
    let (status, _) = keyed("", both).await;
    assert_eq!(status, 400);
    // Another user's key is another key.
    let bob = user(&server, "bob", "host_manager").await;
    let request = bob.request(reqwest::Method::POST, "/commands").header("idempotency-key", "k-1");
    let response = request.json(&json!({"kind": "report_now", "all": true})).send().await.unwrap();
    assert_eq!(response.status(), 202);
    assert_eq!(pages(&admin, "/commands", 10).await.len(), 5);

    // At most 64 open ones a host: that host is left out, and when none is left it is too many.
    for n in 0..100_u32 {
        let body =
            json!({"kind": "compliance_scan", "host_ids": [hosts[2].id], "payload": {"profile_id": format!("p{n}")}});
        let answer = admin.post("/commands", &body).await.unwrap();
        if answer.status == 429 {
            assert_eq!(answer.body["skipped"], json!([hosts[2].id]), "{answer:?}");
            assert_eq!(n, 63, "beside bob's");
            break;
        }
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let mixed = json!({"kind": "compliance_scan", "all": true, "payload": {"profile_id": "last"}});
    let answer = admin.post("/commands", &mixed).await.unwrap().ok().unwrap();
    assert_eq!((&answer["count"], &answer["skipped"]), (&2.into(), &json!([hosts[2].id])), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_manages_compliance_may_scan_and_nothing_else() {
    let server = start(&[]).await;
    let mut database = Database::open(&server).await;
    database.run("INSERT INTO roles (name, permission) VALUES ('auditor', 'can_manage_compliance')").await;
    let auditor = user(&server, "ann", "auditor").await;
    let host = server.add_hosts("host", 1).await.remove(0);
    let admin = server.admin().await;
    let scan = auditor.command("compliance_scan", &[&host.id], None).await.unwrap();
    assert_eq!(scan.status, 202, "{scan:?}");
    let report = auditor.command("report_now", &[&host.id], None).await.unwrap();
    assert_eq!((report.status.as_u16(), &report.body["error"]), (403, &"Insufficient permissions".into()));
    let other = admin.command("report_now", &[&host.id], None).await.unwrap().ok().unwrap();
    let path = |answer: &Value| format!("/commands/{}/cancel", answer["commands"][0]["id"].as_str().unwrap());
    assert_eq!(auditor.post(&path(&other), &json!({})).await.unwrap().status, 403);
    assert_eq!(auditor.post(&path(&scan.body), &json!({})).await.unwrap().status, 202);
    assert_eq!(auditor.get("/commands").await.unwrap().status, 403);
}

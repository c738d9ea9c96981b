//! `POST /commands` for many hosts and for all, and what a client may rely on when it asks again.

use reqwest::Method;
use serde_json::{Value, json};

use super::scene::{Scene, quiet};

fn ids(answer: &Value) -> Vec<String> {
    answer["commands"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_for_some_or_for_all_and_lists_what_it_made() {
    let scene = Scene::start(&quiet(), 5).await;
    let some = scene.post("report_now", &[0, 3, 3], &json!({})).await;
    assert_eq!((some.status.as_u16(), &some.body["count"]), (202, &json!(2)), "{}", some.body);
    let all = scene.admin.post("/commands", &json!({"kind": "refresh_integration_status", "all": true})).await.unwrap();
    assert_eq!((all.status.as_u16(), &all.body["count"]), (202, &json!(5)), "{}", all.body);
    for (answer, kind, count) in [(&some.body, "report_now", 2), (&all.body, "refresh_integration_status", 5)] {
        assert_eq!((&answer["coalesced"], &answer["skipped"]), (&json!(0), &json!([])), "{answer}");
        let batch = answer["batch_id"].as_str().unwrap();
        let listed = scene.listed(&format!("batch_id={batch}&")).await;
        assert_eq!(listed.len(), count);
        assert!(listed.iter().all(|row| row["kind"] == kind && row["batch_id"] == batch));
        let mut named = ids(answer);
        named.sort_unstable();
        assert_eq!(named, listed.iter().map(|row| row["id"].as_str().unwrap()).collect::<Vec<_>>());
        for id in named {
            scene.end(&id, "succeeded").await;
        }
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_an_unknown_host_makes_nothing() {
    let scene = Scene::without_agents(2).await;
    let strangers = ["018f0000-0000-7000-8000-000000000001", "018f0000-0000-7000-8000-000000000002"];
    let mut body = scene.request("report_now", &[0, 1], &json!({}));
    body["host_ids"].as_array_mut().unwrap().extend(strangers.map(Value::from));
    let answer = scene.admin.post("/commands", &body).await.unwrap();
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body, json!({"error": "Some hosts not found", "missingIds": strangers}));
    assert!(scene.rows().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_key_gets_the_same_answer_and_another_body_is_refused() {
    let scene = Scene::start(&quiet(), 2).await;
    let send = async |key: &str, body: &Value| {
        let request = scene.admin.request(Method::POST, "/commands").header("Idempotency-Key", key).json(body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let body = scene.request("report_now", &[0, 1], &json!({}));
    let first = send("one", &body).await;
    assert_eq!(first.0, 202);
    for id in ids(&first.1) {
        scene.end(&id, "succeeded").await;
    }
    // Long after it has ended, and with its hosts in another order.
    assert_eq!(send("one", &scene.request("report_now", &[1, 0], &json!({}))).await, first);
    let other = send("one", &scene.request("report_now", &[0], &json!({}))).await;
    assert_eq!(other.0, 422, "{}", other.1);
    // Side by side they are one as well.
    let body = scene.request("settings_update", &[0], &json!({"payload": {"update_interval": 25}}));
    let (a, b, c) = tokio::join!(send("two", &body), send("two", &body), send("two", &body));
    assert_eq!((a.0, &a, &a), (202, &b, &c));
    assert_eq!(scene.rows().await.len(), 3);
    scene.end(&ids(&a.1)[0], "delivered").await;
    assert_eq!(scene.frames(0, "settings_update").len(), 1);
    assert_eq!(scene.frames(0, "report_now").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_64_open_commands_is_left_out() {
    let scene = Scene::without_agents(2).await;
    for n in 0..64 {
        scene.ask("compliance_scan", 0, json!({"profile_id": format!("p{n}")})).await;
    }
    let one_more = json!({"payload": {"profile_id": "one_more"}});
    let answer = scene.post("compliance_scan", &[0, 1], &one_more).await;
    assert_eq!((answer.status.as_u16(), &answer.body["count"]), (202, &json!(1)), "{}", answer.body);
    assert_eq!(answer.body["skipped"], json!([scene.hosts[0].id]));
    assert_eq!(answer.body["commands"][0]["host_id"], scene.hosts[1].id.as_str());

    let full = scene.post("report_now", &[0], &json!({})).await;
    assert_eq!((full.status.as_u16(), &full.body["skipped"]), (429, &json!([scene.hosts[0].id])), "{}", full.body);
    // One that is there already serves a full host, too.
    let same = scene.post("compliance_scan", &[0], &json!({"payload": {"profile_id": "p7"}})).await;
    assert_eq!((same.status.as_u16(), &same.body["coalesced"]), (202, &json!(1)), "{}", same.body);
    let open = scene.listed(&format!("host_id={}&", scene.hosts[0].id)).await;
    assert_eq!(open.len(), 64);
    // Room again, as soon as one has ended.
    assert_eq!(scene.cancel(open[0]["id"].as_str().unwrap()).await.status, 202);
    assert_eq!(scene.post("report_now", &[0], &json!({})).await.status, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_commands_that_are_not_sent_yet_are_one() {
    let mut scene = Scene::without_agents(2).await;
    let first = scene.ask("report_now", 0, Value::Null).await;
    scene.state(&first, "waiting").await;
    let both = scene.post("report_now", &[0, 1], &json!({})).await;
    assert_eq!((&both.body["count"], &both.body["coalesced"]), (&json!(1), &json!(1)), "{}", both.body);
    assert!(ids(&both.body).contains(&first));
    // Another kind, and another payload, are others.
    scene.ask("settings_update", 0, json!({"update_interval": 10})).await;
    let other = scene.ask("settings_update", 0, json!({"update_interval": 20})).await;
    let same = scene.post("settings_update", &[0], &json!({"payload": {"update_interval": 21}})).await;
    assert_eq!(ids(&same.body), [other], "normalised they are the same");
    scene.come(&quiet()).await;
    for row in scene.rows().await {
        let end = if row["kind"] == "report_now" { "succeeded" } else { "delivered" };
        scene.end(row["id"].as_str().unwrap(), end).await;
    }
    assert_eq!((scene.frames(0, "report_now").len(), scene.frames(1, "report_now").len()), (1, 1));
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_with_a_reason() {
    let scene = Scene::without_agents(1).await;
    let id = scene.hosts[0].id.as_str();
    for body in [
        json!({"kind": "reboot", "host_ids": [id]}),
        json!({"kind": "report_now"}),
        json!({"kind": "report_now", "host_ids": []}),
        json!({"kind": "report_now", "host_ids": [id], "all": true}),
        json!({"kind": "report_now", "host_ids": ["web-1"]}),
        json!({"kind": "report_now", "host_ids": [id], "payload": {"x": 1}}),
        json!({"kind": "report_now", "host_ids": [id], "expires_in": 0}),
        json!({"kind": "report_now", "host_ids": [id], "spread_secs": 90_000}),
        json!({"kind": "report_now", "host_ids": [id], "expire_in": 5}),
        json!([]),
    ] {
        let answer = scene.admin.post("/commands", &body).await.unwrap();
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
        assert!(answer.body["error"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    }
    assert!(scene.rows().await.is_empty());
}

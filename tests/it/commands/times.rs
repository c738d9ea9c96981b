//! `expires_in` and `spread_secs`: not sent after, not sent before.

use serde_json::json;
use tests::claims::at;

use super::scene::{Scene, quiet};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sent_within_its_time_expires_and_is_never_sent() {
    let mut scene = Scene::without_agents(2).await;
    let answer = scene.post("report_now", &[0, 1], &json!({"expires_in": 1})).await;
    assert_eq!(answer.status, 202);
    for command in answer.body["commands"].as_array().unwrap() {
        let row = scene.end(command["id"].as_str().unwrap(), "expired").await;
        assert!(at(&row, "expired") >= at(&row, "expires") && row["error"].is_string(), "{row}");
    }
    scene.come(&quiet()).await;
    for host in 0..2 {
        scene.marker(host).await;
        assert!(scene.frames(host, "report_now").is_empty());
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_in_time_no_longer_expires() {
    let scene = Scene::start(&quiet(), 1).await;
    scene.agent(0).misbehave(Some(tests::misbehaviour::Misbehaviour::Silent));
    let answer = scene.post("report_now", &[0], &json!({"expires_in": 1})).await;
    let id = answer.body["commands"][0]["id"].as_str().unwrap();
    scene.state(id, "delivered").await;
    // Another one, made later, passes its time; this one does not.
    let later = scene.post("compliance_scan", &[0], &json!({"payload": {"profile_id": "first"}})).await;
    let first = later.body["commands"][0]["id"].as_str().unwrap();
    scene.state(first, "delivered").await;
    let behind = scene.post("compliance_scan", &[0], &json!({"expires_in": 1})).await;
    scene.end(behind.body["commands"][0]["id"].as_str().unwrap(), "expired").await;
    let row = scene.row(id).await;
    assert_eq!((&row["state"], &row["final"]), (&json!("delivered"), &json!(false)), "{row}");
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_spread_reaches_no_host_before_its_turn() {
    const HOSTS: usize = 6;
    const SPREAD_SECS: i64 = 3;
    let scene = Scene::start(&quiet(), HOSTS).await;
    let everybody: Vec<usize> = (0..HOSTS).collect();
    let answer = scene.post("report_now", &everybody, &json!({"spread_secs": SPREAD_SECS})).await;
    assert_eq!((answer.status.as_u16(), &answer.body["count"]), (202, &json!(HOSTS)), "{}", answer.body);
    // Turns go by the order of the answer.
    let gap = SPREAD_SECS * 1_000 / i64::try_from(HOSTS).unwrap();
    for (turn, command) in (0..).zip(answer.body["commands"].as_array().unwrap()) {
        let row = scene.end(command["id"].as_str().unwrap(), "succeeded").await;
        let host = scene.hosts.iter().find(|host| host.id == command["host_id"].as_str().unwrap()).unwrap();
        let frames = scene.log().frames(&host.api_id, "report_now");
        assert_eq!(frames.len(), 1);
        let came = i64::try_from(frames[0].time_ms).unwrap();
        assert!(came >= at(&row, "queued").unwrap() + turn * gap, "turn {turn}: {row}");
    }
    scene.assert_claims().await;
}

//! Calling off: at once what was not sent; a scan under way by its frame, once a connection, again when the agent returns.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    log::{ScanOutcome, What},
    misbehaviour::{Hangup, Misbehaviour},
};

use super::scene::{PATIENCE, Scene, quiet, quiet_scanning, timed};

const LONG: Duration = Duration::from_secs(60);

fn outcomes(scene: &Scene, host: usize) -> Vec<ScanOutcome> {
    let ended = |what: &What| match what {
        What::ScanEnded { outcome, .. } => Some(*outcome),
        _ => None,
    };
    scene.log().of_agent(&scene.hosts[host].api_id).iter().filter_map(|event| ended(&event.what)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_scan_is_stopped_by_one_frame() {
    let scene = Scene::start(&quiet_scanning(LONG), 2).await;
    for host in 0..2 {
        let id = scene.ask("compliance_scan", host, Value::Null).await;
        scene.state(&id, "running").await;
        let answer = scene.cancel(&id).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert!(answer.body["cancel_requested_at"].is_string(), "{}", answer.body);
        // Asked twice, sent once.
        let again = scene.cancel(&id).await.status;
        assert!(again == 202 || again == 200, "{again}");
        let row = scene.end(&id, "cancelled").await;
        assert_eq!(row["evidence"]["deed"], "compliance/scans", "{row}");
        assert_eq!(scene.cancel(&id).await.status, 200);
        scene.marker(host).await;
        assert_eq!(scene.frames(host, "compliance_scan_cancel").len(), 1);
        assert_eq!(outcomes(&scene, host), [ScanOutcome::Cancelled]);
        // The host is free again.
        let next = scene.ask("compliance_scan", host, Value::Null).await;
        scene.state(&next, "running").await;
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_is_called_off_at_once_and_never_sent() {
    let mut scene = Scene::without_agents(1).await;
    let mut ids = Vec::new();
    for (kind, payload) in [
        ("compliance_scan", Value::Null),
        ("report_now", Value::Null),
        ("settings_update", json!({"update_interval": 5})),
    ] {
        let id = scene.ask(kind, 0, payload).await;
        scene.state(&id, "waiting").await;
        let answer = scene.cancel(&id).await;
        assert_eq!((answer.status.as_u16(), &answer.body["state"]), (202, &json!("cancelled")), "{}", answer.body);
        assert_eq!(answer.body["final"], true);
        assert_eq!(scene.cancel(&id).await.status, 200);
        ids.push((kind, id));
    }
    scene.come(&quiet()).await;
    scene.marker(0).await;
    for (kind, id) in ids {
        // The interval is still what its owner wants, so the system tells it; the command that was called off stays so.
        let by_system = usize::from(kind == "settings_update");
        assert!(scene.frames(0, kind).len() <= by_system, "{kind}");
        assert_eq!(scene.row(&id).await["state"], "cancelled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_waits_for_its_turn_is_called_off_and_the_next_one_is_rung() {
    let scene = Scene::start(&quiet_scanning(Duration::from_secs(2)), 1).await;
    let first = scene.ask("compliance_scan", 0, json!({"profile_id": "level1_server"})).await;
    scene.state(&first, "running").await;
    let second = scene.ask("compliance_scan", 0, json!({"profile_id": "level2_server"})).await;
    let third = scene.ask("compliance_scan", 0, json!({"fetch_remote_resources": true})).await;
    let answer = scene.cancel(&second).await;
    assert_eq!((answer.status.as_u16(), &answer.body["state"]), (202, &json!("cancelled")));
    scene.end(&first, "succeeded").await;
    scene.end(&third, "succeeded").await;
    assert_eq!(scene.frames(0, "compliance_scan").len(), 2);
    assert!(scene.frames(0, "compliance_scan_cancel").is_empty());
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_called_off_any_more_says_so() {
    let scene = Scene::start(&quiet(), 1).await;
    let done = scene.ask("compliance_scan", 0, Value::Null).await;
    scene.end(&done, "succeeded").await;
    let answer = scene.cancel(&done).await;
    assert_eq!((answer.status.as_u16(), &answer.body["state"]), (409, &json!("succeeded")), "{}", answer.body);

    scene.agent(0).misbehave(Some(Misbehaviour::Silent));
    let read = scene.ask("report_now", 0, Value::Null).await;
    scene.state(&read, "delivered").await;
    let answer = scene.cancel(&read).await;
    assert_eq!((answer.status.as_u16(), &answer.body["state"]), (409, &json!("delivered")), "{}", answer.body);
    assert!(answer.body["cancel_requested_at"].is_null());

    let nobody = scene.cancel("018f0000-0000-7000-8000-000000000000").await;
    assert_eq!((nobody.status.as_u16(), nobody.body["error"].is_string()), (404, true));
    assert!(scene.frames(0, "compliance_scan_cancel").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_agent_when_it_returns() {
    let mut scene = Scene::without_agents(2).await;
    let agents = timed(&quiet_scanning(LONG), &scene.hosts, |timing| timing.backoff_unit = Duration::from_secs(2));
    scene.come_as(agents).await;
    let mut ids = Vec::new();
    for host in 0..2 {
        let id = scene.ask("compliance_scan", host, Value::Null).await;
        scene.state(&id, "running").await;
        ids.push(id);
    }
    for host in 0..2 {
        scene.agent(host).hang_up(Hangup::Fin).await;
    }
    scene.fleet.wait_until(PATIENCE, |counts| counts.disconnects == 2).await.unwrap();
    for id in &ids {
        assert_eq!(scene.cancel(id).await.status, 202);
    }
    for (host, id) in ids.iter().enumerate() {
        // The process has lived on, and the scan with it (protocol 1.4).
        scene.end(id, "cancelled").await;
        let frames = scene.frames(host, "compliance_scan_cancel");
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].conn, 2);
        assert_eq!(scene.frames(host, "compliance_scan").len(), 1);
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_ends_well_before_its_cancel_arrives_has_succeeded() {
    let scene = Scene::start(&quiet_scanning(Duration::from_secs(3)), 1).await;
    let id = scene.ask("compliance_scan", 0, Value::Null).await;
    scene.state(&id, "running").await;
    // From now on the agent reads nothing: the cancel lies in its socket while the scan comes to its end.
    scene.agent(0).pause_reading(Duration::from_secs(6)).await;
    assert_eq!(scene.cancel(&id).await.status, 202);
    let row = scene.end(&id, "succeeded").await;
    assert!(row["cancel_requested_at"].is_string(), "{row}");
    assert_eq!(scene.cancel(&id).await.status, 409);
    assert_eq!(outcomes(&scene, 0), [ScanOutcome::Succeeded]);
}

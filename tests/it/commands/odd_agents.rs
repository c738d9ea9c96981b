//! Agents that are slow, silent, deaf, or gone after a frame: each command at most once on a connection, and no state that
//! says more than what came and was done.

use std::time::Duration;

use serde_json::{Value, json};
use tests::misbehaviour::{Hangup, Misbehaviour};

use super::scene::{PATIENCE, Scene, quiet};

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_each_command_once_and_proves_it_late() {
    let scene = Scene::start(&quiet(), 2).await;
    for host in 0..2 {
        scene.agent(host).misbehave(Some(Misbehaviour::SlowReader(Duration::from_secs(4))));
    }
    let mut ids = Vec::new();
    for host in 0..2 {
        ids.push(scene.ask("settings_update", host, json!({"update_interval": 20})).await);
        ids.push(scene.ask("report_now", host, Value::Null).await);
    }
    for id in &ids[..] {
        // Written, and the ping behind it not answered: that is all that is known, until the report comes, which may be at once.
        let row = scene.admin.wait_command(id, PATIENCE, |row| !row["sent_at"].is_null()).await.unwrap();
        let only_sent = row.get("delivered_at").is_none() && row["final"] == false;
        assert!(row["state"] != "sent" || only_sent, "{row}");
    }
    for (n, id) in ids.iter().enumerate() {
        let row = scene.end(id, if n % 2 == 0 { "delivered" } else { "succeeded" }).await;
        assert_eq!(row["attempt"], 1, "{row}");
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_has_read_it_and_nothing_more() {
    let scene = Scene::start(&quiet(), 2).await;
    let mut ids = Vec::new();
    for host in 0..2 {
        scene.agent(host).misbehave(Some(Misbehaviour::Silent));
        ids.push(scene.ask("report_now", host, Value::Null).await);
        ids.push(scene.ask("compliance_scan", host, Value::Null).await);
    }
    for id in &ids {
        let row = scene.state(id, "delivered").await;
        assert_eq!((&row["final"], &row["evidence"]), (&json!(false), &Value::Null), "{row}");
    }
    // A kind that shows nothing has its end there.
    let id = scene.ask("settings_update", 0, json!({"update_interval": 20})).await;
    scene.end(&id, "delivered").await;
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deaf_agent_may_have_got_it_and_nobody_says_more() {
    let scene = Scene::start(&quiet(), 1).await;
    scene.agent(0).misbehave(Some(Misbehaviour::Deaf));
    let id = scene.ask("settings_update", 0, json!({"update_interval": 20})).await;
    let scan = scene.ask("compliance_scan", 0, json!({"enable_remediation": true})).await;
    for id in [&id, &scan] {
        scene.state(id, "sent").await;
    }
    // It hears again: the next pong proves what was written before its ping, the command of before included.
    scene.agent(0).misbehave(None);
    scene.marker(0).await;
    scene.end(&id, "delivered").await;
    let row = scene.row(&scan).await;
    // Read while it was deaf, and not done: a repair is not sent a second time for that.
    assert_eq!((&row["state"], &row["attempt"]), (&json!("delivered"), &json!(1)), "{row}");
    assert_eq!(scene.frames(0, "compliance_scan").len(), 1);
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_up_after_some_frames_gets_the_lost_one_again_on_its_next_connection() {
    let scene = Scene::start(&quiet(), 4).await;
    for host in 0..4 {
        let how = if host < 2 { Hangup::Fin } else { Hangup::Reset };
        scene.agent(host).misbehave(Some(Misbehaviour::DropAfter(3, how)));
    }
    let mut ids = Vec::new();
    for host in 0..4 {
        for (kind, payload, end) in [
            ("settings_update", json!({"update_interval": 10}), "delivered"),
            ("settings_update", json!({"update_interval": 15}), "delivered"),
            ("compliance_scan", Value::Null, "succeeded"),
        ] {
            let id = scene.ask(kind, host, payload).await;
            if kind == "settings_update" {
                scene.end(&id, end).await;
            }
            ids.push((host, kind, id, end));
        }
    }
    for (host, kind, id, end) in &ids {
        let row = scene.end(id, end).await;
        let lost = *kind == "compliance_scan";
        assert_eq!(row["attempt"].as_u64().unwrap() > 1, lost, "{row}");
        if lost {
            let frames: Vec<_> = scene.frames(*host, kind).iter().map(|frame| frame.conn).collect();
            assert_eq!(frames, [1, 2], "once on each connection");
        }
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_no_connection_survives_ends_unconfirmed_and_a_repair_is_tried_once() {
    let scene = Scene::start(&quiet(), 2).await;
    for host in 0..2 {
        scene.agent(host).misbehave(Some(Misbehaviour::DropAfter(1, Hangup::Fin)));
    }
    let again = scene.ask("settings_update", 0, json!({"update_interval": 10})).await;
    let once = scene.ask("compliance_scan", 1, json!({"enable_remediation": true})).await;
    let row = scene.end(&again, "unconfirmed").await;
    assert_eq!(row["error"], "lost on the way 5 times", "{row}");
    let connections: Vec<_> = scene.frames(0, "settings_update").iter().map(|frame| frame.conn).collect();
    assert_eq!(connections, [1, 2, 3, 4, 5]);

    scene.fleet.wait_until(PATIENCE, |counts| counts.connected == 2).await.unwrap();
    let row = scene.state(&once, "sent").await;
    assert_eq!((&row["attempt"], &row["final"]), (&json!(1), &json!(false)), "{row}");
    scene.agent(1).misbehave(None);
    scene.marker(1).await;
    assert_eq!(scene.row(&once).await["state"], "sent");
    assert_eq!(scene.frames(1, "compliance_scan").len(), 1);
    scene.assert_claims().await;
}

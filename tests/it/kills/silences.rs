//! Agents that stay silent: whatever the server was doing when it was killed, each row ends within its silence, and not
//! before. Minutes pass by the store's clock, which each restart sets further ahead.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{agent::Start, fleet::Recipe, misbehaviour::Misbehaviour};

use super::{died_at, scene_on};
use crate::{
    commands::scene::{PATIENCE, Scene, quiet},
    harness::Server,
};

const AHEAD: &str = "PATCHBAY_TEST_CLOCK_AHEAD_MS";

/// Kills the server and starts it again with its clock so many minutes ahead of ours.
async fn minutes_later(scene: &mut Scene, minutes: u64) {
    scene.server.kill();
    scene.server.set_env(AHEAD, Some(&(minutes * 60_000).to_string()));
    scene.restart().await;
}

async fn open(scene: &Scene, ids: &[(&str, &String)]) {
    for (what, id) in ids {
        let row = scene.row(id).await;
        assert_eq!(row["final"], false, "{what}: {row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_a_silent_host_ends_within_its_silence_and_not_before() {
    // Hosts 0, 2 and 4 are 1.4, the others 2.1; nobody ever comes for host 6.
    let mut scene = scene_on(Server::start().await, &quiet(), 7).await;
    for host in [0, 1, 2] {
        scene.agent(host).misbehave(Some(Misbehaviour::Silent));
    }
    for host in [4, 5] {
        scene.agent(host).misbehave(Some(Misbehaviour::Deaf));
    }
    scene.agent(6).power_off().await;
    scene.fleet.wait_until(PATIENCE, |counts| counts.connected == 6).await.unwrap();
    // The silence of a report depends on the generation, which a report has told.
    for host in [3, 1, 0] {
        scene.agent(host).misbehave(None);
        let id = scene.ask("report_now", host, Value::Null).await;
        scene.end(&id, "succeeded").await;
        scene.agent(host).misbehave(Some(Misbehaviour::Silent));
    }
    let repair = json!({"enable_remediation": true});
    let slow = scene.ask("report_now", 0, Value::Null).await;
    let quick = scene.ask("report_now", 1, Value::Null).await;
    let read = scene.ask("compliance_scan", 2, repair.clone()).await;
    let unread = scene.ask("compliance_scan", 4, repair.clone()).await;
    let hour = scene.post("report_now", &[6], &json!({"expires_in": 3_600})).await;
    let hour = hour.body["commands"][0]["id"].as_str().unwrap().to_owned();
    let day = scene.ask("settings_update", 6, json!({"update_interval": 10})).await;
    for id in [&slow, &quick, &read] {
        scene.state(id, "delivered").await;
    }
    scene.state(&unread, "sent").await;
    for id in [&hour, &day] {
        scene.state(id, "waiting").await;
    }
    let (slow, quick, read) = (("slow", &slow), ("quick", &quick), ("read", &read));
    let (unread, hour, day) = (("unread", &unread), ("hour", &hour), ("day", &day));

    minutes_later(&mut scene, 9).await;
    open(&scene, &[slow, quick, read, unread, hour, day]).await;

    minutes_later(&mut scene, 11).await;
    let row = scene.end(quick.1, "unconfirmed").await;
    assert_eq!(row["error"], "delivered, then nothing was heard of it", "{row}");
    open(&scene, &[slow, read, unread, hour, day]).await;

    minutes_later(&mut scene, 31).await;
    for (id, why) in [
        (slow.1, "delivered, then nothing was heard of it"),
        (read.1, "delivered, then nothing was heard of it"),
        (unread.1, "perhaps sent, then nothing was heard of it"),
    ] {
        let row = scene.end(id, "unconfirmed").await;
        assert_eq!((&row["error"], &row["evidence"]), (&json!(why), &Value::Null), "{row}");
    }
    open(&scene, &[hour, day]).await;

    minutes_later(&mut scene, 61).await;
    scene.end(hour.1, "expired").await;
    open(&scene, &[day]).await;

    minutes_later(&mut scene, 24 * 60 + 1).await;
    scene.end(day.1, "expired").await;

    // What comes too late is named, and moves nothing.
    scene.fleet.wait_until(PATIENCE, |counts| counts.connected == 6).await.unwrap();
    scene.agent(0).misbehave(None);
    let late = scene.ask("report_now", 0, Value::Null).await;
    scene.end(&late, "succeeded").await;
    let row = scene.row(slow.1).await;
    assert_eq!((&row["state"], &row["evidence"]["late"]["deed"]), (&json!("unconfirmed"), &json!("hosts/update")));

    // A repair went out once, whatever became of it.
    for host in [2, 4] {
        assert_eq!(scene.frames(host, "compliance_scan").len(), 1, "host {host}");
    }
    assert!(scene.frames(6, "report_now").is_empty() && scene.frames(6, "settings_update").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_nobody_knows_of_is_not_sent_again_and_ends_unconfirmed() {
    let server = Server::start_with(&[("PATCHBAY_FAILPOINT", "sending_written")]).await;
    let mut scene = scene_on(server, &quiet(), 1).await;
    let body = scene.request("compliance_scan", &[0], &json!({"payload": {"enable_remediation": true}}));
    let _ = super::post_with_key(&scene.admin, "once", &body).await;
    died_at(&mut scene.server, "sending_written").await;
    scene.server.set_env("PATCHBAY_FAILPOINT", None);
    scene.restart().await;
    let id = scene.rows().await[0]["id"].as_str().unwrap().to_owned();
    scene.fleet.all_connected(PATIENCE).await.unwrap();
    // Perhaps it was written: that is all that anybody can know.
    scene.state(&id, "sent").await;
    scene.marker(0).await;
    minutes_later(&mut scene, 31).await;
    let row = scene.end(&id, "unconfirmed").await;
    assert_eq!(row["attempt"], 1, "{row}");
    scene.fleet.all_connected(PATIENCE).await.unwrap();
    scene.marker(0).await;
    assert!(scene.frames(0, "compliance_scan").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_scan_is_given_up_after_its_silence_and_a_result_of_later_is_named() {
    let recipe = Recipe { start: Start::Quiet, scan: Some(Duration::from_secs(6)), ..quiet() };
    let mut scene = scene_on(Server::start().await, &recipe, 1).await;
    let id = scene.ask("compliance_scan", 0, json!({"enable_remediation": true})).await;
    scene.state(&id, "running").await;
    minutes_later(&mut scene, 31).await;
    let row = scene.end(&id, "unconfirmed").await;
    assert_eq!(row["error"], "began, then nothing more was heard of it", "{row}");
    // The host is free for the next one, and the late result belongs to the one that was given up.
    scene.fleet.wait_until(PATIENCE, |counts| counts.scans_succeeded == 1).await.unwrap();
    let row = scene.row(&id).await;
    assert_eq!(row["evidence"]["late"]["deed"], "compliance/scans", "{row}");
    let next = scene.ask("compliance_scan", 0, Value::Null).await;
    scene.end(&next, "succeeded").await;
}

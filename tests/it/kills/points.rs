//! One command, and a server that dies at one point of its way (`store::failpoint`).

use std::time::Duration;

use serde_json::{Value, json};
use tests::{
    agent::Start,
    fleet::{Generations, Recipe},
    generation::Generation,
};

use super::{died_at, post_with_key, scene_on};
use crate::{
    commands::scene::{PATIENCE, Scene},
    database::Database,
    harness::Server,
};

/// A command on its way: what is asked of which agent, and how it must end.
#[derive(Clone, Copy)]
struct Way {
    generation: Generation,
    kind: &'static str,
    end: &'static str,
}

const fn way(generation: Generation, kind: &'static str, end: &'static str) -> Way {
    Way { generation, kind, end }
}

const REPORT_14: Way = way(Generation::V1, "report_now", "succeeded");
const REPORT_21: Way = way(Generation::V2, "report_now", "succeeded");
const SCAN_14: Way = way(Generation::V1, "compliance_scan", "succeeded");
const SCAN_21: Way = way(Generation::V2, "compliance_scan", "succeeded");
const SETTINGS_14: Way = way(Generation::V1, "settings_update", "delivered");
const SETTINGS_21: Way = way(Generation::V2, "settings_update", "delivered");
const CANCEL_14: Way = way(Generation::V1, "compliance_scan", "cancelled");
const CANCEL_21: Way = way(Generation::V2, "compliance_scan", "cancelled");

/// What must hold when the process has died there.
struct Left {
    /// The row is in one of these states.
    states: &'static [&'static str],
    /// The agent has got the frame: `Some(n)` so many times, `None` once or not at all.
    frames: Option<usize>,
}

/// Plays two commands, each on a server of its own, side by side.
async fn dies_at(point: &'static str, ways: [Way; 2], left: Left) {
    let left = &left;
    let [a, b] = ways.map(|way| play(point, way, left));
    tokio::join!(a, b);
}

async fn play(point: &str, way: Way, left: &Left) {
    let cancels = way.end == "cancelled";
    let scan = Duration::from_millis(if cancels { 60_000 } else { 1_200 });
    let recipe = Recipe { start: Start::Quiet, scan: Some(scan), ..Recipe::fast(Generations::All(way.generation)) };
    let server = Server::start_with(&[("PATCHBAY_FAILPOINT", point)]).await;
    let mut scene = scene_on(server, &recipe, 1).await;
    let payload = if way.kind == "settings_update" { json!({"update_interval": 15}) } else { json!({}) };
    let body = scene.request(way.kind, &[0], &json!({ "payload": payload }));

    let first = post_with_key(&scene.admin, "once", &body).await;
    if point == "row_inserted" {
        assert_eq!(first, None, "the answer came before the row");
    }
    if cancels {
        let id = id_of(&first.as_ref().unwrap().1);
        scene.state(&id, "running").await;
        // The answer to the cancel may be lost with the process; the wish is in the row.
        let _ = scene.admin.post(&format!("/commands/{id}/cancel"), &json!({})).await;
    }
    died_at(&mut scene.server, point).await;
    let id = look(&scene, way, left).await;

    scene.server.set_env("PATCHBAY_FAILPOINT", None);
    scene.restart().await;
    // Whoever has seen no answer asks again, and it is the same command; whoever has seen it gets the same.
    let again = post_with_key(&scene.admin, "once", &body).await.expect("it lives");
    assert_eq!((again.0, &again.1["count"]), (202, &json!(1)), "{}", again.1);
    assert_eq!(id_of(&again.1), id);
    if let Some(first) = first {
        assert_eq!(first, again);
    }
    scene.fleet.all_connected(PATIENCE).await.unwrap();
    let row = scene.end(&id, way.end).await;
    assert_eq!(scene.rows().await.len(), 1, "{row}");
    scene.assert_claims().await;
}

/// What the dead process has left: in its file, and on the host. Answers the command's id.
async fn look(scene: &Scene, way: Way, left: &Left) -> String {
    let mut database = Database::open(&scene.server).await;
    assert_eq!(database.number("SELECT COUNT(*) FROM commands").await, 1);
    let id = database.text("SELECT id FROM commands").await.unwrap();
    let state = database.text("SELECT state FROM commands").await.unwrap();
    assert!(left.states.contains(&state.as_str()), "{state}");
    if way.end == "cancelled" {
        assert!(database.text("SELECT cancel_requested_at FROM commands").await.is_some());
    }
    database.close().await;
    // The agent has noticed the end of the process, and so has read all there was before it.
    scene.fleet.wait_until(PATIENCE, |counts| counts.disconnects >= 1).await.unwrap();
    let frames = scene.log().select(|event| event.conn == 1 && event.is_frame(way.kind)).len();
    match left.frames {
        Some(wanted) => assert_eq!(frames, wanted),
        None => assert!(frames <= 1, "{frames}"),
    }
    id
}

fn id_of(answer: &Value) -> String {
    answer["commands"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn row_inserted() {
    // A worker of its own lives a moment longer than the gateway, and may have taken the row in it; nobody holds the agent.
    let states: &[_] = if crate::harness::is_spread() { &["queued", "sending", "waiting"] } else { &["queued"] };
    let left = Left { states, frames: Some(0) };
    dies_at("row_inserted", [REPORT_14, SETTINGS_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn task_fetched() {
    let left = Left { states: &["queued"], frames: Some(0) };
    dies_at("task_fetched", [SETTINGS_14, SCAN_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_written() {
    let left = Left { states: &["sending"], frames: Some(0) };
    dies_at("sending_written", [SCAN_14, REPORT_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_out() {
    let left = Left { states: &["sending"], frames: None };
    dies_at("request_out", [REPORT_14, SCAN_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frame_written() {
    let left = Left { states: &["sending"], frames: None };
    dies_at("frame_written", [SCAN_14, SETTINGS_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pong_in() {
    let left = Left { states: &["sending"], frames: Some(1) };
    dies_at("pong_in", [REPORT_14, SCAN_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reply_lost() {
    let left = Left { states: &["sending"], frames: Some(1) };
    dies_at("reply_lost", [SETTINGS_14, SCAN_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_written() {
    let left = Left { states: &["delivered", "running"], frames: Some(1) };
    dies_at("delivered_written", [SCAN_14, SETTINGS_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn result_stored() {
    let left = Left { states: &["succeeded"], frames: Some(1) };
    dies_at("result_stored", [SCAN_14, REPORT_21], left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_written() {
    // A gateway of its own lives a moment longer than the worker: the agent's last word may get in.
    let states: &[_] = if crate::harness::is_spread() { &["running", "cancelled"] } else { &["running"] };
    let left = Left { states, frames: Some(1) };
    dies_at("cancel_written", [CANCEL_14, CANCEL_21], left).await;
}

//! The real server, killed with SIGKILL at every point between a request and its end, and at random under load; started
//! again on what it left behind. No command may be lost, none sent twice on one connection, no state may claim more than
//! the hosts' own log shows, and each row must come to its end.

mod points;
mod random;
mod silences;

use std::os::unix::process::ExitStatusExt;

use reqwest::Method;
use serde_json::Value;
use tests::{admin::Admin, fleet::Recipe, timing::Timing};

use crate::{
    commands::scene::{PATIENCE, Scene},
    harness::Server,
};

/// Sends `POST /commands` with a key. `None` when the server died before it had answered.
async fn post_with_key(admin: &Admin, key: &str, body: &Value) -> Option<(u16, Value)> {
    let request = admin.request(Method::POST, "/commands").header("Idempotency-Key", key).json(body);
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.ok()?))
}

/// Waits until the server has killed itself at an armed point.
async fn died_at(server: &mut Server, point: &str) {
    let status = server.wait_exit(PATIENCE).await;
    assert_eq!(status.signal(), Some(9), "{status}");
    server.wait_log(&format!("failpoint {point}"), PATIENCE).await;
}

/// Agents as they are in the times that matter when a server is gone: a post is tried for six seconds (protocol 6-10), a
/// full inbox waits for five (protocol 6-3). The rest is short.
fn patient(timing: &mut Timing) {
    let real = Timing::real(tests::generation::Generation::V1);
    timing.http_retry = real.http_retry;
    timing.inbox_wait = real.inbox_wait;
    timing.backoff_unit = std::time::Duration::from_millis(50);
}

/// A scene on this server, its agents patient.
async fn scene_on(server: Server, recipe: &Recipe, hosts: usize) -> Scene {
    let mut scene = Scene::on(server, hosts).await;
    let agents = crate::commands::scene::timed(recipe, &scene.hosts, patient);
    scene.come_as(agents).await;
    scene
}

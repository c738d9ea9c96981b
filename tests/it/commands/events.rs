//! `GET /events` while commands move: each scan phase in its order, each row only forwards.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use super::scene::{PATIENCE, Scene, quiet_scanning};

/// A client of the stream.
pub struct Listener {
    events: mpsc::Receiver<(String, Value)>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Listens from now on.
    pub async fn to(scene: &Scene, query: &str) -> Self {
        let request = scene.admin.request(Method::GET, &format!("/events{query}")).timeout(Duration::from_secs(600));
        let answer = request.send().await.unwrap().error_for_status().unwrap();
        let mut body = answer.bytes_stream();
        let (sender, events) = mpsc::channel(100_000);
        let task = tokio::spawn(async move {
            let mut text = String::new();
            while let Some(Ok(chunk)) = body.next().await {
                text.push_str(&String::from_utf8_lossy(&chunk));
                while let Some((block, rest)) = text.split_once("\n\n").map(|(b, r)| (b.to_owned(), r.to_owned())) {
                    text = rest;
                    if let Some(event) = read(&block)
                        && sender.send(event).await.is_err()
                    {
                        return;
                    }
                }
            }
        });
        Self { events, task }
    }

    /// The next event: its kind and its data.
    pub async fn next(&mut self) -> (String, Value) {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("no event in time").expect("the stream ended")
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read(block: &str) -> Option<(String, Value)> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("event:")?.to_owned(), serde_json::from_str(field("data:")?).ok()?))
}

/// The order of states within one attempt.
fn rank(state: &str) -> usize {
    let order = ["queued", "waiting", "sending", "sent", "delivered", "running", "succeeded"];
    order.iter().position(|known| *known == state).unwrap_or_else(|| panic!("{state}"))
}

const PHASES: [&str; 5] = ["started", "evaluating", "parsing", "sending", "completed"];

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_sees_each_phase_and_each_move_in_order() {
    const HOSTS: usize = 40;
    let scene = Scene::start(&quiet_scanning(Duration::from_millis(800)), HOSTS).await;
    let mut all = Listener::to(&scene, "").await;
    let mut one = Listener::to(&scene, &format!("?host_id={}&types=command,scan_progress", scene.hosts[3].id)).await;
    let everybody: Vec<usize> = (0..HOSTS).collect();
    let answer = scene.post("compliance_scan", &everybody, &json!({})).await;
    assert_eq!(answer.status, 202);

    let mut moves: HashMap<String, Vec<Value>> = HashMap::new();
    let mut phases: HashMap<String, Vec<String>> = HashMap::new();
    while moves.values().filter(|rows| rows.last().is_some_and(|row| row["final"] == true)).count() < HOSTS
        || phases.values().filter(|seen| seen.last().is_some_and(|phase| phase == "completed")).count() < HOSTS
    {
        let (kind, data) = all.next().await;
        let host = data["host_id"].as_str().unwrap().to_owned();
        match kind.as_str() {
            "command" => moves.entry(host).or_default().push(data),
            "scan_progress" => phases.entry(host).or_default().push(data["phase"].as_str().unwrap().to_owned()),
            // The agents that had connected just before.
            "presence" => {}
            other => panic!("{other}: {data}"),
        }
    }
    for host in &scene.hosts {
        assert_eq!(phases[&host.id], PHASES, "{}", host.name);
        let rows = &moves[&host.id];
        let states: Vec<_> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
        assert!(states.is_sorted_by(|a, b| rank(a) < rank(b)), "{}: {states:?}", host.name);
        assert!(states.contains(&"sending") && states.contains(&"running"), "{states:?}");
        // What is told is the row, whole.
        let last = rows.last().unwrap();
        assert_eq!(*last, scene.row(last["id"].as_str().unwrap()).await);
    }
    // Who asked for one host hears of that one alone.
    let mut seen = Vec::new();
    while seen.last().is_none_or(|phase| phase != "completed") {
        let (kind, data) = one.next().await;
        assert_eq!(data["host_id"], scene.hosts[3].id.as_str(), "{kind}: {data}");
        if kind == "scan_progress" {
            seen.push(data["phase"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(seen, PHASES);
    scene.assert_claims().await;
}

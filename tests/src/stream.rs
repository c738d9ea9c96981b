//! Commands at a steady rate, to hosts drawn by chance, through either gateway. A request without an answer is sent again
//! with its key, to the other one.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::admin::Admin;

/// Requests that are not answered yet; more are not made.
const UNDER_WAY: usize = 32;
/// For one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// For one request, however often it is sent. Outlasts the longest outage.
const ACCEPTED: Duration = Duration::from_secs(120);

/// What was accepted, and what the API said that it should not have said.
#[derive(Default)]
pub struct Asked {
    pub ids: BTreeSet<String>,
    pub retries: usize,
    pub wrong: Vec<String>,
}

/// A stream that runs.
pub struct Stream {
    asked: Arc<Mutex<Asked>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Stream {
    /// So many a second, to these hosts by their ids, through any of these.
    pub fn start(admins: Vec<Admin>, hosts: Vec<String>, rate: u32, seed: u64) -> Self {
        let (asked, stop) = (Arc::<Mutex<Asked>>::default(), watch::Sender::new(false));
        let mut dice = StdRng::seed_from_u64(seed);
        let (shared, mut stopped) = (asked.clone(), stop.subscribe());
        let task = tokio::spawn(async move {
            let mut requests = JoinSet::new();
            let mut ticks = interval(Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0_u64.. {
                tokio::select! {
                    _ = stopped.wait_for(|stop| *stop) => break,
                    _ = ticks.tick() => {}
                }
                while requests.try_join_next().is_some() {}
                if requests.len() < UNDER_WAY {
                    let host = &hosts[dice.random_range(0..hosts.len())];
                    let request = Request {
                        key: format!("{seed}-{number}"),
                        body: order(&mut dice, host),
                        first: dice.random_range(0..admins.len()),
                    };
                    requests.spawn(request.accepted(admins.clone(), shared.clone()));
                }
            }
            requests.join_all().await;
        });
        Self { asked, stop, task }
    }

    /// Waits until so many were accepted.
    pub async fn accepted(&self, count: usize) {
        let deadline = Instant::now() + ACCEPTED;
        while self.asked.lock().ids.len() < count {
            assert!(Instant::now() < deadline, "{} accepted, not {count}", self.asked.lock().ids.len());
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn count(&self) -> usize {
        self.asked.lock().ids.len()
    }

    /// Asks for nothing more, and waits until all that was asked for is accepted.
    pub async fn stop(self) -> Asked {
        self.stop.send_replace(true);
        self.task.await.expect("the stream does not panic");
        std::mem::take(&mut *self.asked.lock())
    }
}

fn order(dice: &mut StdRng, host: &str) -> Value {
    let (kind, payload) = match dice.random_range(0..4) {
        0 => ("report_now", json!({})),
        1 => ("compliance_scan", scan(dice)),
        _ => ("settings_update", json!({"update_interval": dice.random_range(1..288) * 5})),
    };
    json!({"kind": kind, "host_ids": [host], "payload": payload})
}

/// One in four is for a profile that no host has and that nobody else asks for: its frame names its command.
fn scan(dice: &mut StdRng) -> Value {
    let profile = match dice.random_range(0..4) {
        0 => format!("missing_{:08x}", dice.random::<u32>()),
        1 => "level2_server".to_owned(),
        _ => "level1_server".to_owned(),
    };
    json!({"profile_id": profile, "fetch_remote_resources": dice.random_bool(0.5)})
}

struct Request {
    key: String,
    body: Value,
    first: usize,
}

impl Request {
    async fn accepted(self, admins: Vec<Admin>, asked: Arc<Mutex<Asked>>) {
        let deadline = Instant::now() + ACCEPTED;
        for attempt in self.first.. {
            match self.send(&admins[attempt % admins.len()]).await {
                Some((202, answer)) => {
                    let ids = answer["commands"].as_array().into_iter().flatten();
                    let ids: Vec<_> = ids.filter_map(|command| command["id"].as_str().map(str::to_owned)).collect();
                    let mut asked = asked.lock();
                    if ids.len() != 1 {
                        asked.wrong.push(format!("accepted as {} commands: {answer}", ids.len()));
                    }
                    asked.ids.extend(ids);
                    return;
                }
                None | Some((503, _)) => asked.lock().retries += 1,
                Some((status, answer)) => {
                    asked.lock().wrong.push(format!("POST /commands was answered with {status}: {answer}"));
                    return;
                }
            }
            if Instant::now() >= deadline {
                asked.lock().wrong.push(format!("not accepted within {ACCEPTED:?}: {}", self.body));
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn send(&self, admin: &Admin) -> Option<(u16, Value)> {
        let request = admin.request(Method::POST, "/commands").header("Idempotency-Key", &self.key);
        let answer = request.timeout(ANSWER).json(&self.body).send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.ok()?))
    }
}

//! A fleet under a stream of commands, and a server that dies again and again: at moments drawn by chance, and at points
//! of its own code drawn by chance. The seed is printed; `PATCHBAY_TEST_SEED` plays it again.

use std::{
    collections::{BTreeMap, HashSet},
    os::unix::process::ExitStatusExt,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng, rngs::StdRng, seq::SliceRandom as _};
use serde_json::{Value, json};
use tests::{
    admin::Admin,
    log::{Event, What},
    misbehaviour::Hangup,
};
use tokio::time::{Instant, sleep, timeout};

use super::{post_with_key, scene_on};
use crate::{
    commands::scene::{PATIENCE, Scene, quiet_scanning},
    harness::Server,
};

const AGENTS: usize = 40;
const DEATHS: usize = 6;
/// Clients that ask side by side.
const CLIENTS: usize = 4;
const POINTS: [&str; 9] = [
    "row_inserted",
    "task_fetched",
    "sending_written",
    "request_out",
    "frame_written",
    "pong_in",
    "reply_lost",
    "delivered_written",
    "result_stored",
];

/// One request, and what came of it.
#[derive(Debug)]
struct Order {
    key: String,
    body: Value,
    hosts: usize,
    /// Called off after this long, if it is a scan and the dice said so.
    cancel_after: Option<Duration>,
}

/// What a host is asked for: no frame twice, so that each frame in the log names its command.
fn orders(scene: &Scene, dice: &mut StdRng) -> Vec<Order> {
    let mut orders = Vec::new();
    for host in 0..AGENTS {
        let mut intervals: Vec<u32> = (1..12).map(|n| n * 5).collect();
        intervals.shuffle(dice);
        let mut of_host: Vec<(&str, Value)> =
            vec![("report_now", json!({})), ("refresh_integration_status", json!({}))];
        of_host.extend(intervals.iter().take(4).map(|n| ("settings_update", json!({ "update_interval": n }))));
        for profile in ["level1_server", "level2_server"] {
            let remote = dice.random_bool(0.5);
            of_host.push(("compliance_scan", json!({"profile_id": profile, "fetch_remote_resources": remote})));
        }
        let called_off = dice.random_bool(0.4);
        for (kind, payload) in of_host {
            let off = called_off && kind == "compliance_scan" && payload["profile_id"] == "level2_server";
            orders.push(Order {
                key: format!("{host}-{}", orders.len()),
                body: scene.request(kind, &[host], &json!({ "payload": payload })),
                hosts: 1,
                cancel_after: off.then(|| Duration::from_millis(dice.random_range(0..1_500))),
            });
        }
    }
    orders.shuffle(dice);
    orders
}

/// For the whole fleet at once: something for each death to fall into.
fn bursts() -> [Order; DEATHS] {
    let everybody = |n: usize, kind: &str, payload: Value| Order {
        key: format!("all-{n}"),
        body: json!({"kind": kind, "all": true, "payload": payload}),
        hosts: AGENTS,
        cancel_after: None,
    };
    let settings = |n, minutes: u32| everybody(n, "settings_update", json!({ "update_interval": minutes }));
    let scan = |n, remote: bool| {
        everybody(n, "compliance_scan", json!({"profile_type": "openscap", "fetch_remote_resources": remote}))
    };
    [settings(1, 120), scan(2, true), settings(3, 180), settings(4, 360), scan(5, false), settings(6, 720)]
}

/// Sends until there is an answer, however often the server dies meanwhile.
async fn accepted(admin: &Admin, order: &Order) -> Value {
    let deadline = Instant::now() + PATIENCE * 3;
    loop {
        if let Some((status, answer)) = post_with_key(admin, &order.key, &order.body).await {
            assert_eq!((status, &answer["count"]), (202, &json!(order.hosts)), "{answer}");
            return answer;
        }
        assert!(Instant::now() < deadline, "never answered: {order:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn call_off(admin: &Admin, id: &str) {
    let deadline = Instant::now() + PATIENCE * 3;
    while admin.post(&format!("/commands/{id}/cancel"), &json!({})).await.is_err() {
        assert!(Instant::now() < deadline, "the cancel of {id} was never answered");
        sleep(Duration::from_millis(50)).await;
    }
}

/// One of the clients: asks for what is left, with pauses, and remembers what was accepted.
async fn client(admin: Admin, orders: Arc<Mutex<Vec<Order>>>, seed: u64, taken: Arc<Mutex<Vec<String>>>) {
    let mut dice = StdRng::seed_from_u64(seed);
    loop {
        let Some(order) = orders.lock().pop() else { return };
        let answer = accepted(&admin, &order).await;
        let ids: Vec<String> =
            answer["commands"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect();
        taken.lock().extend(ids.iter().cloned());
        if let Some(after) = order.cancel_after {
            sleep(after).await;
            call_off(&admin, &ids[0]).await;
        }
        sleep(Duration::from_millis(dice.random_range(0..200))).await;
    }
}

/// Lets the server die once, and starts it again. Says how it died.
async fn death(scene: &mut Scene, dice: &mut StdRng, armed: &mut Option<String>, last: bool) -> String {
    let how = match armed.take() {
        None => {
            sleep(Duration::from_millis(dice.random_range(200..1_800))).await;
            if dice.random_bool(0.25) && scene.server.exit_status().is_none() {
                scene.server.ready(PATIENCE).await;
                let status = scene.server.stop(PATIENCE).await;
                assert_eq!(status.code(), Some(0), "SIGTERM: {status}");
                "in order".to_owned()
            } else {
                scene.server.kill();
                "at random".to_owned()
            }
        }
        Some(point) => match timeout(Duration::from_secs(6), scene.server.wait_exit(PATIENCE)).await {
            Ok(status) => {
                assert_eq!(status.signal(), Some(9), "{point}: {status}");
                point
            }
            Err(_) => {
                scene.server.kill();
                format!("at random ({point} was not reached)")
            }
        },
    };
    if !last && dice.random_bool(0.5) {
        let point = POINTS[dice.random_range(0..POINTS.len())];
        *armed = Some(format!("{point}:{}", dice.random_range(2..12)));
    }
    scene.server.set_env("PATCHBAY_FAILPOINT", armed.as_deref());
    scene.server.spawn();
    how
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_done_twice_when_the_server_dies_again_and_again() {
    let seed = std::env::var("PATCHBAY_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("PATCHBAY_TEST_SEED={seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut scene = scene_on(Server::start().await, &quiet_scanning(Duration::from_millis(600)), AGENTS).await;

    let orders = orders(&scene, &mut dice);
    let asked = orders.len() + DEATHS * AGENTS;
    let orders = Arc::new(Mutex::new(orders));
    let taken: Arc<Mutex<Vec<String>>> = Arc::default();
    let ask = |admin: &Admin, orders: Arc<Mutex<Vec<Order>>>, seed| {
        tokio::spawn(client(admin.clone(), orders, seed, taken.clone()))
    };
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| ask(&scene.admin, orders.clone(), dice.random())).collect();
    let (mut deaths, mut armed) = (Vec::new(), None);
    for (n, burst) in (1..).zip(bursts()) {
        clients.push(ask(&scene.admin, Arc::new(Mutex::new(vec![burst])), dice.random()));
        for _ in 0..2 {
            let agent = &scene.fleet.agents()[dice.random_range(0..AGENTS)];
            agent.hang_up(if dice.random_bool(0.5) { Hangup::Fin } else { Hangup::Reset }).await;
        }
        deaths.push(death(&mut scene, &mut dice, &mut armed, n == DEATHS).await);
    }
    scene.server.ready(PATIENCE).await;
    for client in clients {
        timeout(PATIENCE * 4, client).await.expect("a client does not come to its end").unwrap();
    }
    scene.admin = scene.server.admin().await;
    scene.fleet.all_connected(PATIENCE).await.unwrap();

    let rows = settled(&mut scene).await;
    table(&rows, &scene, &deaths, asked);
    let ids: Vec<_> = rows.iter().map(|row| row["id"].as_str().unwrap()).collect();
    let taken = taken.lock().clone();
    assert_eq!((taken.len(), ids.len()), (asked, asked), "one row for each request, retries or not");
    assert!(taken.iter().all(|id| ids.contains(&id.as_str())), "accepted and lost");
    for host in &scene.hosts {
        let wanted = scene.admin.get(&format!("/hosts/{}", host.id)).await.unwrap().ok().unwrap();
        let applied = scene.fleet.agent(&host.api_id).unwrap().update_interval();
        assert_eq!(wanted["update_interval"], applied, "{}", host.name);
    }
    scene.assert_claims().await;
    let hasty = scene.server.logs().into_iter().find(|line| line.contains("did not end in time"));
    assert_eq!(hasty, None, "a stop in order left deliveries behind");
}

/// Waits until all rows are final. One whose host has given up to tell its deed stays open until its silence is over:
/// that time is let pass.
async fn settled(scene: &mut Scene) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE * 2;
    let (mut fewest, mut moved) = (usize::MAX, Instant::now());
    loop {
        let rows = scene.rows().await;
        let open: Vec<_> = rows.iter().filter(|row| row["final"] == false).collect();
        if open.is_empty() {
            return rows;
        }
        if open.len() < fewest {
            (fewest, moved) = (open.len(), Instant::now());
        }
        let silent: HashSet<_> = scene.log().select(gave_up).into_iter().map(|event| event.agent).collect();
        let excused = |row: &&Value| {
            let host = scene.hosts.iter().find(|host| host.id == row["host_id"].as_str().unwrap()).unwrap();
            silent.contains(host.api_id.as_str())
        };
        if open.iter().all(excused) && moved.elapsed() > Duration::from_secs(5) {
            break;
        }
        assert!(Instant::now() < deadline, "open, though their hosts told all: {open:?}\n{}", scene.fleet.counts());
        sleep(Duration::from_millis(100)).await;
    }
    println!("{fewest} rows of hosts that gave up to tell what they did: three hours pass");
    scene.server.kill();
    scene.server.set_env("PATCHBAY_TEST_CLOCK_AHEAD_MS", Some("10860000"));
    scene.restart().await;
    // What waits for its turn then waits for the sweep: the queue's own clock has not been set ahead.
    for row in scene.rows().await {
        scene.admin.wait_final(row["id"].as_str().unwrap(), PATIENCE * 3).await.unwrap();
    }
    scene.rows().await
}

/// A post that found no server four times (protocol 6-10).
fn gave_up(event: &Event) -> bool {
    matches!(&event.what, What::Http { status: None, attempt: 4, .. })
}

fn table(rows: &[Value], scene: &Scene, deaths: &[String], asked: usize) {
    let mut states: BTreeMap<(String, String), usize> = BTreeMap::new();
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        *states.entry((text("kind"), text("state"))).or_default() += 1;
    }
    let counts = scene.fleet.counts();
    println!("the server died {} times: {}", deaths.len(), deaths.join(", "));
    println!("asked for {asked} commands; {} rows:", rows.len());
    for ((kind, state), n) in &states {
        println!("  {kind:<28} {state:<12} {n:>4}");
    }
    for row in rows.iter().filter(|row| row["state"] == "failed" || row["state"] == "unconfirmed") {
        println!("  {} by {}: {}", row["state"], row["evidence"]["deed"], row["error"]);
    }
    println!(
        "{:<30} {:>4}",
        "sent more than once",
        rows.iter().filter(|row| row["attempt"].as_u64() > Some(1)).count()
    );
    for (kind, n) in &counts.frames_by_type {
        println!("  frames of {kind:<28} {n:>4}");
    }
    println!("{counts}");
}

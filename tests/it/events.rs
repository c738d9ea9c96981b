//! `GET /events`: what happens to hosts, as it happens, and what becomes of clients that were away, are slow, or may look
//! no longer.

mod ends;
mod slow;
mod stream;

use serde_json::{Value, json};
use tests::{
    admin::Admin,
    credentials::Credentials,
    fleet::{Generations, Recipe},
    generation::Generation,
    raw::{self, PATIENCE, Wire},
};

use crate::harness::Server;
use stream::{Block, Stream};

/// The frame of a scan that has begun.
fn progress(phase: &str, percent: u32, message: &str) -> Vec<u8> {
    let body = json!({
        "type": "compliance_scan_progress", "phase": phase, "profile_name": "default", "message": message,
        "progress": percent, "error": "", "timestamp": "2026-01-01T00:00:00Z",
    });
    raw::frame(raw::TEXT, body.to_string().as_bytes())
}

/// Something to see: a host comes.
async fn come(server: &Server, host: &Credentials) -> Wire {
    Wire::agent(&server.target(), host).await.unwrap()
}

fn is_presence(block: &Block, host: &Credentials, connected: bool) -> bool {
    block.event == "presence" && block.data["host_id"] == host.id.as_str() && block.data["connected"] == connected
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_commands_and_progress_are_told_in_their_order() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 2).await;
    let mut all = Stream::open(&admin, "", None).await;
    let mut one = Stream::open(&admin, &format!("?host_id={}", hosts[1].id), None).await;
    let mut commands = Stream::open(&admin, "?types=command", None).await;

    let fleet = server.fleet(&Recipe::fast(Generations::All(Generation::V2)), &hosts[..1]);
    let came = all.until(|block| is_presence(block, &hosts[0], true)).await;
    let told = came.last().unwrap();
    assert_eq!(told.data["secure"], false, "{told:?}");
    assert!(told.data["at"].is_string() && told.id.contains('.'), "{told:?}");

    let answer = admin.command("compliance_scan", &[&hosts[0].id], None).await.unwrap().ok().unwrap();
    let id = answer["commands"][0]["id"].as_str().unwrap().to_owned();
    let done =
        |block: &Block| block.event == "command" && block.data["id"] == id.as_str() && block.data["final"] == true;
    let seen = all.until(done).await;
    let states: Vec<_> = seen
        .iter()
        .filter(|block| block.event == "command" && block.data["id"] == id.as_str())
        .map(|block| block.data["state"].as_str().unwrap())
        .collect();
    // A sign of the host's can come before the proof of delivery: a step may be left out, none is told out of order.
    const ORDER: [&str; 6] = ["queued", "sending", "sent", "delivered", "running", "succeeded"];
    assert!(states.is_sorted_by_key(|state| ORDER.iter().position(|known| known == state)), "{states:?}");
    assert!(["sending", "running"].iter().all(|state| states.contains(state)), "{states:?}");
    assert_eq!(states.last(), Some(&"succeeded"));
    assert!(seen.iter().all(|block| block.data["host_id"] == hosts[0].id.as_str()));
    // The row is what the event said.
    let row = admin.command_row(&id).await.unwrap();
    assert_eq!(seen.last().unwrap().data, row);
    // `completed` comes when the upload was answered: after the row's end, or just before its event.
    let completed = |block: &Block| block.event == "scan_progress" && block.data["phase"] == "completed";
    let seen = if seen.iter().any(completed) { seen } else { [seen, all.until(completed).await].concat() };
    let phases: Vec<_> = seen
        .iter()
        .filter(|block| block.event == "scan_progress")
        .map(|block| block.data["phase"].as_str().unwrap())
        .collect();
    assert_eq!(phases, ["started", "evaluating", "parsing", "sending", "completed"]);
    fleet.stop().await;
    all.until(|block| is_presence(block, &hosts[0], false)).await;

    // Filters let through what they say, and nothing that came before it.
    let socket = come(&server, &hosts[1]).await;
    let first = one.next().await;
    assert!(is_presence(&first, &hosts[1], true), "{first:?}");
    drop(socket);
    assert!(is_presence(&one.next().await, &hosts[1], false));
    let only = commands.until(done).await;
    assert!(only.iter().all(|block| block.event == "command"), "{only:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_was_away_gets_exactly_what_it_missed() {
    let server = Server::start_with(&[("PATCHBAY_EVENTS_WINDOW", "40")]).await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 2).await;
    let mut stream = Stream::open(&admin, "", None).await;
    // Before anything has happened there is a place to come back to.
    let beginning = stream.last_id().to_owned();
    assert!(!beginning.is_empty());
    let mut agent = come(&server, &hosts[0]).await;
    let first = stream.until(|block| is_presence(block, &hosts[0], true)).await.pop().unwrap();
    drop(stream);

    for n in 0..10 {
        agent.write(&progress("evaluating", n, "missed")).await.unwrap();
    }
    let percents = |blocks: &[Block]| -> Vec<Value> {
        blocks
            .iter()
            .filter(|block| block.event == "scan_progress")
            .map(|block| block.data["progress"].clone())
            .collect()
    };
    let last = |block: &Block| block.event == "scan_progress" && block.data["progress"] == 9.0;
    let mut back = Stream::open(&admin, "", Some(&first.id)).await;
    let missed = back.until(last).await;
    assert_eq!(percents(&missed), (0..10).map(|n| json!(f64::from(n))).collect::<Vec<_>>());
    assert!(!missed.iter().any(|block| block.id == first.id || block.event == "reset"), "{missed:?}");
    // With ids that count on, each of them once.
    let numbers: Vec<u64> = missed.iter().map(|block| block.id.rsplit_once('.').unwrap().1.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    // From the middle, with a filter, and from the very beginning.
    let middle = &missed[4];
    let rest = Stream::open(&admin, "?types=scan_progress", Some(&middle.id)).await.until(last).await;
    assert_eq!(rest.len(), 10 - 5, "{rest:?}");
    let whole = Stream::open(&admin, "", Some(&beginning)).await.until(last).await;
    assert_eq!(whole.len(), missed.len() + 1, "{whole:?}");

    // What is not in the window is not made up: foreign ids, future ones, words, and what is too old.
    let (gateway, number) = first.id.rsplit_once('.').unwrap();
    let newest: u64 = numbers.last().copied().unwrap();
    for id in [
        format!("{}.{number}", "0194d0d8-0000-7000-8000-000000000001"),
        format!("{gateway}.{}", newest + 1_000),
        format!("{gateway}.x"),
        "7".to_owned(),
        String::new(),
    ] {
        let mut lost = Stream::open(&admin, "", Some(&id)).await;
        let block = lost.next().await;
        assert_eq!(block.event, "reset", "{id:?}: {block:?}");
        assert!(!block.id.is_empty(), "{block:?}");
        // From there on it is as good as any.
        let again = Stream::open(&admin, "", Some(&block.id)).await;
        drop((lost, again));
    }
    // Of one agent only so many are looked at in a second.
    let mut other = come(&server, &hosts[1]).await;
    for half in [50..73, 73..95] {
        let end = json!(f64::from(half.end - 1));
        for n in half {
            other.write(&progress("evaluating", n, "more than the window holds")).await.unwrap();
        }
        // Who keeps up misses nothing.
        let seen = back.until(|block| block.data["progress"] == end).await;
        assert!(seen.iter().all(|block| block.event != "reset"), "{seen:?}");
    }
    let mut late = Stream::open(&admin, "", Some(&first.id)).await;
    assert_eq!(late.next().await.event, "reset");
    agent.write(&progress("parsing", 99, "and on it goes")).await.unwrap();
    assert_eq!(late.next().await.data["progress"], 99.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_every_client_is_told_to_read_anew() {
    let mut server = Server::start().await;
    let admin = server.admin().await;
    let host = server.add_hosts("host", 1).await.remove(0);
    let mut stream = Stream::open(&admin, "", None).await;
    let agent = come(&server, &host).await;
    let before = stream.until(|block| is_presence(block, &host, true)).await.pop().unwrap();
    server.stop(PATIENCE).await;
    stream.end(PATIENCE).await;
    drop(agent);
    server.restart().await;
    let mut back = Stream::open(&admin, "", Some(&before.id)).await;
    let reset = back.next().await;
    assert_eq!((reset.event.as_str(), reset.id.split('.').next() == before.id.split('.').next()), ("reset", false));
    let _agent = come(&server, &host).await;
    assert!(is_presence(&back.next().await, &host, true));
    assert_eq!(Admin::new(&server.url()).unwrap().get("/events").await.unwrap().status, 401);
}

//! What the socket shows, and what it bears.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use tests::{
    admin::Admin,
    agent::Start,
    fleet::{Generations, Recipe},
    internal,
    raw::{self, PATIENCE},
};

use super::peer::{Dashboard, cookie, count};
use crate::harness::Server;

const OPEN: &str = "patchbay_dashboards_connected";

fn all_counts(status: &Value) -> u64 {
    let queues = status["queues"].as_array().map(Vec::as_slice).unwrap_or_default();
    queues.iter().flat_map(|queue| queue["counts"].as_object().unwrap().values()).map(|n| n.as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_snapshot_is_true_while_commands_move() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 40).await;
    let mut dashboard = Dashboard::open(&server, &admin).await;
    let first = dashboard.until("a worker that answers", |status| status.is_object()).await;
    assert_eq!((all_counts(&first), &first["running_count"]), (0, &json!(0)), "{first}");
    assert_eq!(first["workers"].as_array().unwrap().len(), 1);
    assert_eq!(first["workers"][0]["id"], first["worker"]);
    assert_eq!(first["schedules"][0]["name"], "retention");
    assert!(first["schedules"][0]["next_at"].as_str().unwrap() > first["at"].as_str().unwrap(), "{first}");

    // All for hosts that are away, then half of them come.
    let batch = admin.post("/commands", &json!({"kind": "compliance_scan", "all": true})).await.unwrap().ok().unwrap();
    let status = dashboard.until("40 waiting", |status| count(status, "compliance", "waiting") == 40).await;
    let compliance = status["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "compliance").unwrap();
    assert!(compliance["oldest_waiting_at"].is_string() && compliance["oldest_queued_at"].is_null(), "{status}");
    assert!(compliance["oldest_waiting_at"].as_str() <= status["at"].as_str(), "{status}");
    let recipe = Recipe { start: Start::Quiet, scan: Some(Duration::from_secs(2)), ..Recipe::fast(Generations::Mixed) };
    let fleet = server.fleet(&recipe, &hosts[..20]);
    let names: BTreeSet<&str> = hosts[..20].iter().map(|host| host.name.as_str()).collect();
    let mut seen_running = false;
    loop {
        let shown = dashboard.shown().await;
        let status = &shown["status"];
        assert_eq!((all_counts(status), shown["stale"].clone()), (40, json!(false)), "none lost, none twice: {status}");
        let running = status["running"].as_array().unwrap();
        let under_way: u64 =
            ["sending", "sent", "delivered", "running"].iter().map(|state| count(status, "compliance", state)).sum();
        assert_eq!(status["running_count"], json!(under_way), "{status}");
        assert_eq!(running.len() as u64, under_way, "{status}");
        for row in running {
            assert!(names.contains(row["host"].as_str().unwrap()), "{row}");
            assert!(row["created_at"].as_str() <= row["since"].as_str(), "{row}");
            assert!(row["since"].as_str() <= status["at"].as_str(), "{row}");
        }
        assert!(running.iter().map(|row| row["id"].as_str().unwrap()).is_sorted(), "the oldest first: {status}");
        seen_running |= count(status, "compliance", "running") > 0;
        if count(status, "compliance", "succeeded") == 20 {
            let ended: u64 = status["queues"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|queue| queue["ended"].as_array().unwrap())
                .map(|n| n.as_u64().unwrap())
                .sum();
            assert_eq!(ended, 20, "{status}");
            assert_eq!(count(status, "compliance", "waiting"), 20);
            break;
        }
    }
    assert!(seen_running);
    // And it is what the rows say.
    let path = format!("/commands?batch_id={}&state=succeeded&limit=100", batch["batch_id"].as_str().unwrap());
    assert_eq!(admin.get(&path).await.unwrap().ok().unwrap()["items"].as_array().unwrap().len(), 20);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_shown_the_newest_at_once_and_text_comes_back() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut early = Dashboard::open(&server, &admin).await;
    early.until("a worker that answers", |status| status.is_object()).await;
    let mut dashboard = Dashboard::open_by_cookie(&server, &cookie(&server, &admin).await).await;
    let shown = dashboard.shown().await;
    assert_eq!((&shown["stale"], shown["status"].is_object()), (&json!(false), true), "{shown}");
    internal::wait(&server.internal_url(), OPEN, |n| n == 2.0).await.unwrap();

    let echo = async |dashboard: &mut Dashboard, frames: Vec<u8>, text: &str| {
        dashboard.0.write(&frames).await.unwrap();
        loop {
            let came = dashboard.text().await;
            if came == text {
                return;
            }
            assert!(came.starts_with(r#"{"type":"status""#), "neither the echo nor a snapshot: {came}");
        }
    };
    let long = "ä".repeat(2_048);
    for text in ["hello", "", "{\"type\":\"ping\"}", long.as_str()] {
        echo(&mut dashboard, raw::frame(raw::TEXT, text.as_bytes()), text).await;
    }
    let halves = [raw::frame(0x01, "fräg".as_bytes()), raw::frame(0x80, b"ment")].concat();
    echo(&mut dashboard, halves, "frägment").await;
    // What is no text is left alone.
    dashboard.0.write(&raw::frame(raw::BINARY, &[0, 1, 2])).await.unwrap();
    echo(&mut dashboard, raw::frame(raw::TEXT, b"still there"), "still there").await;
    dashboard.0.write(&raw::frame(raw::CLOSE, &1000_u16.to_be_bytes())).await.unwrap();
    assert_eq!(dashboard.closed().await, Some(1000));
    drop(early);
    internal::wait(&server.internal_url(), OPEN, |n| n == 0.0).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_big_too_much_or_broken_ends_the_socket_and_no_other() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut beside = Dashboard::open(&server, &admin).await;
    beside.shown().await;
    let big = vec![b'x'; 4_097];
    let flood: Vec<u8> = (0..200).flat_map(|n: u8| raw::frame(raw::TEXT, &[b'a' + n % 26])).collect();
    let pings: Vec<u8> = (0..200).flat_map(|n: u8| raw::frame(raw::PING, &[n])).collect();
    let halves = [raw::frame(0x01, &big[..4_000]), raw::frame(0x80, &big[..97])].concat();
    for (what, bytes, code) in [
        ("4,097 bytes", raw::frame(raw::TEXT, &big), 1009),
        ("4,097 bytes in two frames", halves, 1009),
        ("an announced gigabyte", raw::frame_head(raw::TEXT, true, 1 << 30), 1009),
        ("a flood of texts", flood, 1008),
        ("a flood of pings", pings, 1008),
        ("no UTF-8", raw::frame(raw::TEXT, &[0xff, 0xfe]), 1007),
        ("no mask", raw::unmasked_frame(raw::TEXT, b"x"), 1002),
    ] {
        let mut dashboard = Dashboard::open(&server, &admin).await;
        dashboard.shown().await;
        // The server may close before it has taken all of it.
        let _ = dashboard.0.write(&bytes).await;
        assert_eq!(dashboard.closed().await, Some(code), "{what}");
    }
    beside.0.write(&raw::frame(raw::TEXT, b"undisturbed")).await.unwrap();
    while beside.text().await != "undisturbed" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_the_newest_and_no_backlog() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let host = server.add_hosts("host", 1).await.remove(0);
    let mut quick = Dashboard::open(&server, &admin).await;
    quick.until("a worker that answers", |status| status.is_object()).await;
    let mut slow = Dashboard::open(&server, &admin).await;
    // It has read the first snapshot, and does not say so: the ping behind it stays without its pong.
    let first = slow.0.frame().await.unwrap();
    assert_eq!(first.first, raw::TEXT);
    for (n, kind) in ["report_now", "refresh_integration_status", "settings_update"].into_iter().enumerate() {
        let payload = (kind == "settings_update").then(|| json!({"update_interval": 30}));
        admin.command(kind, &[&host.id], payload).await.unwrap().ok().unwrap();
        let waiting = n as u64 + 1;
        quick.until("one more waiting", |status| count(status, "agent-commands", "waiting") == waiting).await;
    }
    // Three changes later nothing was piled up for it: the next frame is the pong of this ping.
    slow.0.ping(b"anything else?").await.unwrap();
    slow.0.write(&raw::frame(raw::PONG, &1_u64.to_be_bytes())).await.unwrap();
    let next = slow.0.frame().await.unwrap();
    let shown: Value = serde_json::from_slice(&next.payload).unwrap();
    assert_eq!(count(&shown["status"], "agent-commands", "waiting"), 3, "{shown}");
    slow.0.ping(b"and that is all").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_room_for_so_many_dashboards() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let refused = async |client: &Admin| {
        let bearer = format!("Bearer {}", client.token().unwrap());
        Dashboard::try_open(&server, "/bullboard", &[("Authorization", &bearer)]).await.err().expect("no room")
    };
    // A login has so many of them, and others find room all the same.
    let mut open = Vec::new();
    for _ in 0..12 {
        let client = server.admin().await;
        for _ in 0..16 {
            open.push(Dashboard::open(&server, &client).await);
        }
        assert_eq!(refused(&client).await.status, 503);
    }
    for _ in 12 * 16..200 {
        open.push(Dashboard::open(&server, &admin).await);
    }
    let full = refused(&server.admin().await).await;
    assert_eq!(full.status, 503, "{full:?}");
    assert!(full.header("retry-after").is_some() && full.json()["error"].is_string(), "{full:?}");
    // Who may not look is told that, not that it is full.
    let stranger = Dashboard::try_open(&server, "/bullboard", &[]).await.err().expect("refused");
    assert_eq!(stranger.status, 401);
    open.pop();
    internal::wait(&server.internal_url(), OPEN, |n| n == 199.0).await.unwrap();
    let mut last = Dashboard::open(&server, &admin).await;
    last.shown().await;
    tokio::time::timeout(PATIENCE, open[0].shown()).await.unwrap();
}

//! Who holds the agent, and what of two of them, or of none.

use std::time::Duration;

use jobs::{Kind, State};
use schemas::message::{CommandReply, Mode};
use serde_json::Value;
use store::Hosts;
use tests::{
    agent::{AgentConfig, Start},
    fleet::Fleet,
    generation::Generation,
    log::FrameLog,
    misbehaviour::Misbehaviour,
};

use super::house::{House, PATIENCE};

fn quiet(host: &tests::credentials::Credentials) -> AgentConfig {
    AgentConfig { start: Start::Quiet, ..AgentConfig::fast(host.clone(), Generation::V2) }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_holders_the_newer_ones_answer_counts() {
    let house = House::new().await;
    let host = house.host("web").await;
    let (mut older, mut newer) = (house.holder(&host).await, house.holder(&host).await);
    house.connect(&host).await;
    let epoch = house.connect(&host).await;
    let deliverer = house.deliverer();
    let id = house.command(Kind::SettingsUpdate, &host, serde_json::json!({"update_interval": 15})).await;
    let (delivered, ()) = tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), async {
        let (stale, asked) = (older.asked().await, newer.asked().await);
        assert_eq!((asked.request.asked_epoch, asked.request.mode), (epoch, Mode::Deliver));
        stale.answer(CommandReply::Superseded).await;
        // The better answer comes a little later: its pong took a moment.
        tokio::time::sleep(Duration::from_millis(40)).await;
        asked.answer(CommandReply::Delivered { epoch }).await;
    });
    delivered.unwrap();
    let row = house.row(id).await;
    assert_eq!((row.state, row.attempt, row.held_epoch), (State::Delivered, 1, Some(epoch)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_holder_alone_sends_it_back_into_the_queue() {
    let house = House::new().await;
    let host = house.host("web").await;
    let mut older = house.holder(&host).await;
    house.connect(&host).await;
    let epoch = house.connect(&host).await;
    let deliverer = house.deliverer();
    let id = house.command(Kind::ReportNow, &host, Value::Null).await;
    let answers = async {
        older.asked().await.answer(CommandReply::Superseded).await;
    };
    tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), answers).0.unwrap();
    let row = house.row(id).await;
    assert_eq!((row.state, row.refusals), (State::Queued, 1));
    drop(older);
    // Later, when it is taken again, the newer one is there.
    let mut newer = house.holder(&host).await;
    house.advance(Duration::from_secs(2));
    let answers = async {
        let asked = newer.asked().await;
        assert_eq!((asked.request.attempt, asked.request.mode), (2, Mode::Deliver));
        asked.answer(CommandReply::Delivered { epoch }).await;
    };
    tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), answers).0.unwrap();
    assert_eq!(house.row(id).await.state, State::Delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_of_one_host_on_two_gateways_get_one_frame() {
    let mut house = House::whole().await;
    house.open_gateway("127.0.0.1:0").await;
    let host = house.host("web").await;
    // The claims get lost, so that both connections stay: a network between two gateways that is cut for a moment.
    *house.bus.lose.lock() = Some(|subject| subject.ends_with(".claim"));
    let log = FrameLog::in_memory();
    let first = Fleet::start(house.target(0), vec![quiet(&host)], None, log.clone());
    first.all_connected(PATIENCE).await.unwrap();
    let second = Fleet::start(house.target(1), vec![quiet(&host)], None, log.clone());
    second.wait_until(PATIENCE, |counts| counts.connected == 2).await.unwrap();

    let id = house.command(Kind::ReportNow, &host, Value::Null).await;
    let row = house.until(id, State::Succeeded).await;
    assert_eq!((row.attempt, row.asked_epoch), (1, 2));
    assert_eq!(log.frames(&host.api_id, "report_now").len(), 1);
    // The older one has learnt by the question that it is the older one.
    second.wait_until(PATIENCE, |counts| counts.disconnects >= 1).await.unwrap();
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pong_forty_seconds_late_proves_it_all_the_same() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let late = Misbehaviour::LatePongs(Duration::from_secs(4));
    let fleet = house.agents(vec![AgentConfig { misbehaviour: Some(late), ..quiet(&host) }]).await;
    let id = house.command(Kind::SettingsUpdate, &host, serde_json::json!({"update_interval": 15})).await;
    house.until(id, State::Sent).await;
    // Most of the forty seconds pass by the store's clock; the sweep asks what became of it, and nobody writes it again.
    house.advance(Duration::from_secs(38));
    house.until_row(id, |_| house.asked_for(id).iter().any(|request| request.mode == Mode::Probe)).await;
    let row = house.until(id, State::Delivered).await;
    let took = row.times.at(State::Delivered).unwrap() - row.times.at(State::Sending).unwrap();
    assert!(took >= 40_000, "{took} ms");
    assert_eq!((row.attempt, fleet.log().frames(&host.api_id, "settings_update").len()), (1, 1));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_connects_while_nobody_is_found_is_asked_at_once() {
    let mut house = House::new().await;
    house.open_gateway("127.0.0.1:0").await;
    let host = house.host("web").await;
    let (target, log) = (house.target(0), FrameLog::in_memory());
    let (fleet, came) = tokio::sync::oneshot::channel();
    let (agent, store, host_id) = (quiet(&host), house.store.clone(), host.id.parse().unwrap());
    let frames = log.clone();
    // Between the question that finds nobody and its answer, the agent connects: its wake finds nothing that waits.
    *house.bus.nobody.lock() = Some(Box::new(move || {
        Box::pin(async move {
            let started = Fleet::start(target, vec![agent], None, frames);
            started.all_connected(PATIENCE).await.unwrap();
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while !store.host(host_id).await.unwrap().unwrap().facts.connected {
                assert!(tokio::time::Instant::now() < deadline);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let _ = fleet.send(started);
        })
    }));
    let id = house.command(Kind::ReportNow, &host, Value::Null).await;
    house.start_worker();
    let row = house.until(id, State::Succeeded).await;
    assert_eq!(row.attempt, 2);
    assert_eq!(row.times.at(State::Waiting), None, "it would have waited for the next connect");
    assert_eq!(log.frames(&host.api_id, "report_now").len(), 1);
    came.await.unwrap().stop().await;
}

//! The store or the bus is away for a while.

use std::time::Duration;

use jobs::{Kind, State};
use schemas::message::Mode;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tests::{
    agent::{AgentConfig, Start},
    credentials::Credentials,
    generation::Generation,
    log::What,
    misbehaviour::Misbehaviour,
};
use tokio::time::{Instant, sleep};

use super::house::{House, PATIENCE};

/// Longer than the store's own patience, twice over; shorter than what agents post only once is held.
const AWAY: Duration = Duration::from_secs(6);

fn quiet(host: &Credentials, generation: Generation) -> AgentConfig {
    AgentConfig { start: Start::Quiet, ..AgentConfig::fast(host.clone(), generation) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_comes_while_the_store_is_away_is_held_and_answered_200() {
    let house = House::whole().await;
    let mut hosts = Vec::new();
    for name in ["a", "b"] {
        hosts.push(house.host(name).await);
    }
    let mut agents = Vec::new();
    for (host, generation) in hosts.iter().zip([Generation::V1, Generation::V2]) {
        let mut agent = quiet(host, generation);
        let mut timing = (*agent.timing).clone();
        timing.scan = Duration::from_secs(1);
        timing.collect = Duration::from_secs(1);
        agent.timing = timing.into();
        agents.push(agent);
    }
    let fleet = house.agents(agents).await;
    let scan = house.command(Kind::ComplianceScan, &hosts[0], Value::Null).await;
    let report = house.command(Kind::ReportNow, &hosts[1], Value::Null).await;
    house.until(scan, State::Running).await;
    house.until(report, State::Delivered).await;

    // Another program holds the file.
    let path = house.dir.path().join("patchbay.db");
    let mut other = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let locked = Instant::now();
    sleep(AWAY).await;
    assert_eq!((house.row(scan).await.state, house.row(report).await.state), (State::Running, State::Delivered));
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    let away = locked.elapsed();
    other.close().await.unwrap();

    house.until(scan, State::Succeeded).await;
    house.until(report, State::Succeeded).await;
    fleet.wait_until(PATIENCE, |counts| counts.scans_succeeded == 1 && counts.reports == 1).await.unwrap();
    for (host, path) in [(&hosts[0], "compliance/scans"), (&hosts[1], "hosts/update")] {
        let posts = fleet.log().calls(&host.api_id, path);
        assert_eq!(posts.len(), 1, "{path}: an agent does not try again what was answered");
        let What::Http { millis, status, .. } = posts[0].0.what else { panic!("{posts:?}") };
        assert_eq!(status, Some(200));
        assert!(u128::from(millis) + 2_000 >= away.as_millis(), "{path}: answered after {millis} ms of {away:?}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_the_store_cannot_take_is_kept_and_nothing_is_sent_again() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let late = Misbehaviour::LatePongs(Duration::from_millis(700));
    let fleet = house.agents(vec![AgentConfig { misbehaviour: Some(late), ..quiet(&host, Generation::V2) }]).await;
    let id = house.command(Kind::SettingsUpdate, &host, json!({"update_interval": 15})).await;
    fleet
        .log()
        .wait_for(PATIENCE, |events| events.iter().any(|event| event.is_frame("settings_update")).then_some(()))
        .await
        .unwrap();
    let path = house.dir.path().join("patchbay.db");
    let mut other = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    sleep(AWAY).await;
    assert_eq!(house.row(id).await.state, State::Sending);
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    let row = house.until(id, State::Delivered).await;
    assert_eq!((row.attempt, fleet.log().frames(&host.api_id, "settings_update").len()), (1, 1));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_away_between_frame_and_answer_makes_nobody_send_twice() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let late = Misbehaviour::LatePongs(Duration::from_millis(500));
    let fleet = house.agents(vec![AgentConfig { misbehaviour: Some(late), ..quiet(&host, Generation::V2) }]).await;
    let id = house.command(Kind::SettingsUpdate, &host, json!({"update_interval": 15})).await;
    let written = |events: &[tests::log::Event]| events.iter().any(|e| e.is_frame("settings_update")).then_some(());
    fleet.log().wait_for(PATIENCE, written).await.unwrap();
    house.bus.set_away(true);
    // The pong comes, its answer finds no way. Whoever asked gives up after a while, and asks again.
    let again = |mode: Mode| house.asked_for(id).iter().filter(|request| request.mode == mode).count();
    house.until_row(id, |_| again(Mode::Again) > 0).await;
    assert_eq!(house.row(id).await.state, State::Sending, "nobody knows yet");
    house.bus.set_away(false);
    house.until_row(id, |row| row.is_final() || row.next_check_at.is_some_and(|at| at > 0)).await;
    house.advance(Duration::from_secs(5));
    let row = house.until(id, State::Delivered).await;
    assert_eq!((row.attempt, again(Mode::Deliver)), (1, 1));
    assert_eq!(fleet.log().frames(&host.api_id, "settings_update").len(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_the_bus_did_not_carry_is_carried_once_when_the_bus_is_back() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let fleet = house.agents(vec![quiet(&host, Generation::V1)]).await;
    house.bus.set_away(true);
    let id = house.command(Kind::ComplianceScan, &host, json!({"enable_remediation": true})).await;
    house.until_row(id, |_| !house.asked_for(id).is_empty()).await;
    house.bus.set_away(false);
    // The connection that was to be asked is still there: it alone may write.
    house.until_row(id, |row| row.state == State::Sending && row.next_check_at.is_some()).await;
    house.advance(Duration::from_secs(16));
    let row = house.until(id, State::Succeeded).await;
    assert_eq!(row.attempt, 1);
    assert!(house.asked_for(id).iter().any(|request| request.mode == Mode::Again));
    assert_eq!(fleet.log().frames(&host.api_id, "compliance_scan").len(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_are_said_again_when_the_bus_is_back() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let fleet = house.agents(vec![quiet(&host, Generation::V2)]).await;
    let shown = async || store::Hosts::connected_count(house.store.as_ref()).await.unwrap();
    let becomes = async |wanted| {
        let deadline = Instant::now() + PATIENCE;
        while shown().await != wanted {
            assert!(Instant::now() < deadline, "{} hints instead of {wanted}", shown().await);
            sleep(Duration::from_millis(5)).await;
        }
    };
    becomes(1).await;
    house.bus.set_away(true);
    store::Hosts::clear_hints(house.store.as_ref()).await.unwrap();
    becomes(0).await;
    house.bus.set_away(false);
    becomes(1).await;
    assert_eq!(fleet.counts().disconnects, 0, "the sockets stay");
    fleet.stop().await;
}

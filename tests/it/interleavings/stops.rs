//! A stop in order, with commands under way.

use std::time::Duration;

use jobs::{Kind, State};
use serde_json::{Value, json};
use store::{Commands, Hosts};
use tests::{
    agent::{AgentConfig, Start},
    generation::Generation,
    log::{Event, What},
    misbehaviour::Misbehaviour,
};

use super::house::{House, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_closes_with_1001_and_leaves_no_hint() {
    let house = House::whole().await;
    let mut agents = Vec::new();
    for n in 0..20 {
        let host = house.host(&format!("host-{n}")).await;
        let generation = if n % 2 == 0 { Generation::V1 } else { Generation::V2 };
        agents.push(AgentConfig { start: Start::Quiet, ..AgentConfig::fast(host, generation) });
    }
    let fleet = house.agents(agents).await;
    let worker = house.worker.as_ref().unwrap();
    tokio::join!(house.gateways[0].stop(), worker.stop());
    fleet.wait_until(PATIENCE, |counts| counts.disconnects >= 20).await.unwrap();
    let reasons = fleet.log().select(|event| matches!(event.what, What::Disconnected { .. }));
    let told = |event: &Event| matches!(&event.what, What::Disconnected { reason } if reason.ends_with(": 1001"));
    assert_eq!(reasons.iter().filter(|event| told(event)).count(), 20, "{reasons:?}");
    assert_eq!(house.store.connected_count().await.unwrap(), 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_with_commands_under_way_loses_none_and_sends_none_twice() {
    let mut house = House::whole().await;
    let (late, busy, away) = (house.host("late").await, house.host("busy").await, house.host("away").await);
    let mut scans = AgentConfig::fast(busy.clone(), Generation::V1);
    let mut timing = (*scans.timing).clone();
    timing.scan = Duration::from_secs(4);
    timing.http_retry = Duration::from_secs(2);
    scans.timing = timing.into();
    let pongs = Misbehaviour::LatePongs(Duration::from_secs(1));
    let fleet = house
        .agents(vec![
            AgentConfig { start: Start::Quiet, ..scans },
            AgentConfig {
                start: Start::Quiet,
                misbehaviour: Some(pongs),
                ..AgentConfig::fast(late.clone(), Generation::V2)
            },
        ])
        .await;
    let running = house.command(Kind::ComplianceScan, &busy, json!({"profile_id": "level1_server"})).await;
    house.until(running, State::Running).await;
    let queued = house.command(Kind::ComplianceScan, &busy, json!({"profile_id": "level2_server"})).await;
    let waiting = house.command(Kind::ReportNow, &away, Value::Null).await;
    house.until(waiting, State::Waiting).await;
    let sending = house.command(Kind::SettingsUpdate, &late, json!({"update_interval": 15})).await;
    let written = |events: &[Event]| events.iter().any(|event| event.is_frame("settings_update")).then_some(());
    fleet.log().wait_for(PATIENCE, written).await.unwrap();
    assert_eq!(house.row(sending).await.state, State::Sending);

    // As a process does it at SIGTERM, and the next one at its start.
    let address = house.gateways[0].address().to_string();
    let worker = house.worker.take().unwrap();
    tokio::join!(house.gateways[0].stop(), worker.stop());
    house.store.clear_hints().await.unwrap();
    house.store.recover().await.unwrap();
    house.gateways.clear();
    house.open_gateway(&address).await;
    house.start_worker();

    fleet.agents().iter().for_each(|agent| agent.misbehave(None));
    fleet.all_connected(PATIENCE).await.unwrap();
    for (id, end) in [(running, State::Succeeded), (queued, State::Succeeded), (sending, State::Delivered)] {
        house.until(id, end).await;
    }
    assert!(!house.row(waiting).await.is_final());
    let frames = fleet.log().select(|event| matches!(&event.what, What::Frame { kind, .. } if kind != "connected"));
    for frame in &frames {
        let same = |other: &&Event| other.agent == frame.agent && other.conn == frame.conn && other.what == frame.what;
        assert_eq!(frames.iter().filter(same).count(), 1, "twice on one connection: {frame:?}");
    }
    fleet.stop().await;
}

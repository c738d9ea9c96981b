//! Deeds of the host, cancels and expiry that come between two of our own steps.

use std::time::Duration;

use gateway::facts::{Fact, Facts};
use jobs::{Deed, Event, Kind, State};
use schemas::{
    agent::ScanPhase,
    message::{CommandReply, Part},
    scan::{ScanFact, ScanStatus},
};
use serde_json::{Value, json};
use store::{Commands, Reports};
use tests::{
    agent::{AgentConfig, Start},
    credentials::Credentials,
    generation::Generation,
    misbehaviour::Misbehaviour,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::house::{House, PATIENCE};

/// What an agent posts, by hand.
async fn post(house: &House, host: &Credentials, path: &str, body: &Value) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.post(format!("http://{}/api/v1/{path}", house.gateways[0].address())).json(body);
    let answer = request.header("X-Api-Id", &host.api_id).header("X-Api-Key", &host.api_key).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
}

fn report() -> Value {
    json!({"packages": [], "repositories": [], "osType": "debian", "osVersion": "13", "hostname": "web",
        "ip": "192.0.2.1", "architecture": "amd64", "agentVersion": "2.1.4", "machineId": "m"})
}

fn phase(phase: ScanPhase) -> Deed {
    Deed::ScanPhase { phase, host_ms: None, profile: "default".into(), text: String::new() }
}

/// Each scan's is another: the same once more would be a post made again.
fn result() -> Value {
    let began = schemas::timestamp::rfc3339(store::Clock::default().now_ms());
    json!({"scans": [{"profile_name": "level1_server", "profile_type": "openscap", "status": "completed", "score": 50.0,
        "total_rules": 2, "passed": 1, "failed": 1, "warnings": 0, "skipped": 0, "not_applicable": 0, "results": [],
        "started_at": began}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deed_before_our_own_write_counts_if_the_frame_was_written_and_is_forgotten_if_not() {
    let mut house = House::new().await;
    house.open_gateway("127.0.0.1:0").await;
    let deliverer = house.deliverer();
    let ways: [(_, _, _, fn() -> Value); 2] = [
        ("report", Kind::ReportNow, "hosts/update", report),
        ("scan", Kind::ComplianceScan, "compliance/scans", result),
    ];
    for (name, kind, path, body) in ways {
        let host = house.host(name).await;
        let (mut holder, epoch) = (house.holder(&host).await, house.connect(&host).await);
        let id = house.command(kind, &host, Value::Null).await;
        let deed_first = async |holder: &mut super::house::Holder, reply| {
            tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), async {
                let asked = holder.asked().await;
                post(&house, &host, path, &body()).await;
                let row = house.row(id).await;
                assert_eq!((row.state, row.notes.kept.len()), (State::Sending, 1), "{name}");
                asked.answer(reply).await;
            })
            .0
            .unwrap();
        };
        // A terminal was open: the frame was not written, so the deed was of something else.
        deed_first(&mut holder, CommandReply::Busy).await;
        let row = house.row(id).await;
        assert_eq!((row.state, row.notes.kept.len()), (State::Queued, 0), "{name}");
        house.advance(Duration::from_secs(2));
        deed_first(&mut holder, CommandReply::Delivered { epoch }).await;
        let row = house.row(id).await;
        assert_eq!((row.state, row.evidence.unwrap().deed.as_str()), (State::Succeeded, path), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_posted_again_does_not_end_the_next_scan() {
    let mut house = House::new().await;
    house.open_gateway("127.0.0.1:0").await;
    let (host, deliverer) = (house.host("web").await, house.deliverer());
    let (mut holder, epoch) = (house.holder(&host).await, house.connect(&host).await);
    let mut send = async |payload, reply| {
        let id = house.command(Kind::ComplianceScan, &host, payload).await;
        let answer = async { holder.asked().await.answer(reply).await };
        tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), answer).0.unwrap();
        id
    };
    let first = send(json!({"profile_id": "level1_server"}), CommandReply::Delivered { epoch }).await;
    let results = result();
    post(&house, &host, "compliance/scans", &results).await;
    assert_eq!(house.row(first).await.state, State::Succeeded);
    // The answer got lost on its way, so the agent posts it once more; meanwhile the next scan is out, and not proved read.
    let second = send(json!({"profile_type": "openscap"}), CommandReply::Sent { epoch }).await;
    post(&house, &host, "compliance/scans", &results).await;
    let row = house.row(second).await;
    assert_eq!((row.state, row.notes.results_seen), (State::Sent, false));
    assert_eq!(house.store.scans(row.host_id, 10).await.unwrap().len(), 1);
    post(&house, &host, "compliance/scans", &result()).await;
    assert_eq!(house.row(second).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_told_though_the_next_sign_of_the_same_batch_moves_nothing() {
    let house = House::new().await;
    let (host, deliverer) = (house.host("web").await, house.deliverer());
    let (mut holder, epoch) = (house.holder(&host).await, house.connect(&host).await);
    let id = house.command(Kind::ComplianceScan, &host, Value::Null).await;
    let answer = async { holder.asked().await.answer(CommandReply::Delivered { epoch }).await };
    tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), answer).0.unwrap();
    let deeds = [ScanPhase::Started, ScanPhase::Evaluating].map(phase);
    let applied = house.store.observe(house.row(id).await.host_id, &deeds).await.unwrap();
    assert_eq!(applied.len(), 1);
    assert_eq!((applied[0].command.state, applied[0].step.moved), (State::Running, true));
}

/// On one thread, so that the facts' writer finds both at once.
#[tokio::test]
async fn a_scan_that_told_of_itself_before_its_connection_was_lost_is_not_lost() {
    let house = House::new().await;
    let (host, deliverer) = (house.host("web").await, house.deliverer());
    let (mut holder, epoch) = (house.holder(&host).await, house.connect(&host).await);
    let id = house.command(Kind::ComplianceScan, &host, Value::Null).await;
    let answer = async { holder.asked().await.answer(CommandReply::Sent { epoch }).await };
    tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), answer).0.unwrap();
    let row = house.row(id).await;
    assert_eq!(row.state, State::Sent);

    let tasks = TaskTracker::new();
    let facts = Facts::start(house.store.clone(), house.bus.clone(), &tasks, CancellationToken::new());
    let progress = json!({"type": "compliance_scan_progress", "phase": "started", "profile_name": "default"});
    facts.record(Fact::Progress {
        host_id: row.host_id,
        progress: serde_json::from_value(progress).unwrap(),
        deed: Box::new(phase(ScanPhase::Started)),
    });
    facts.record(Fact::Lost { id, attempt: row.attempt });
    facts.flush().await;
    let row = house.row(id).await;
    assert_eq!((row.state, row.losses), (State::Running, 0));
}

#[derive(Clone, Copy, PartialEq)]
enum Meanwhile {
    Cancelled,
    Expired,
}

/// An attempt during which something is decided about the command, and how it ends.
async fn attempt(house: &House, name: &str, meanwhile: Meanwhile, reply: CommandReply) -> Uuid {
    let host = house.host(name).await;
    let (mut holder, deliverer) = (house.holder(&host).await, house.deliverer());
    house.connect(&host).await;
    let id = house.command_within(Kind::ComplianceScan, &host, Value::Null, 60_000).await;
    let decide = async {
        let asked = holder.asked().await;
        match meanwhile {
            Meanwhile::Cancelled => {
                let row = house.store.apply(&[(id, Event::Cancel)]).await.unwrap().pop().unwrap().command;
                assert_eq!((row.state, row.cancel_requested_at.is_some()), (State::Sending, true));
            }
            Meanwhile::Expired => house.advance(Duration::from_secs(61)),
        }
        asked.answer(reply).await;
    };
    tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), decide).0.unwrap();
    if meanwhile == Meanwhile::Cancelled && !house.row(id).await.is_final() {
        // The wish goes out behind the frame, by the same way.
        let stop = async {
            let asked = holder.asked().await;
            assert_eq!((asked.request.id, asked.request.part), (id, Part::Cancel));
            asked.answer(CommandReply::Delivered { epoch: 1 }).await;
        };
        tokio::join!(deliverer.deliver(std::slice::from_ref(&id)), stop).0.unwrap();
    }
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_sending_is_decided_by_what_became_of_the_frame() {
    let house = House::new().await;
    let unsent = attempt(&house, "a", Meanwhile::Cancelled, CommandReply::Busy).await;
    assert_eq!(house.row(unsent).await.state, State::Cancelled);
    for (name, reply) in [("b", CommandReply::Delivered { epoch: 1 }), ("c", CommandReply::Sent { epoch: 1 })] {
        let sent = attempt(&house, name, Meanwhile::Cancelled, reply).await;
        let row = house.row(sent).await;
        assert!(!row.is_final() && row.cancel_requested_at.is_some(), "{row:?}");
        // What the agent then posts, after our cancel, is the end.
        let deed = Deed::ScanResults {
            scans: vec![ScanFact {
                profile_type: "openscap".into(),
                profile_name: "level1_server".into(),
                status: ScanStatus::Failed,
                started_at_ms: None,
                error: "scan cancelled or timed out: context canceled".into(),
            }],
        };
        let moved = house.store.observe(row.host_id, &[deed]).await.unwrap();
        assert_eq!(moved[0].command.state, State::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_while_sending_is_decided_by_what_became_of_the_frame() {
    let house = House::new().await;
    let unsent = attempt(&house, "a", Meanwhile::Expired, CommandReply::Busy).await;
    assert_eq!(house.row(unsent).await.state, State::Expired);
    let sent = attempt(&house, "b", Meanwhile::Expired, CommandReply::Sent { epoch: 1 }).await;
    assert_eq!(house.row(sent).await.state, State::Sent, "what is out no longer expires");
}

fn scanning(host: &Credentials, habit: Misbehaviour, scan: Duration) -> AgentConfig {
    let mut agent = AgentConfig::fast(host.clone(), Generation::V1);
    let mut timing = (*agent.timing).clone();
    timing.scan = scan;
    timing.restart = Duration::from_millis(300);
    agent.timing = timing.into();
    AgentConfig { misbehaviour: Some(habit), start: Start::Quiet, ..agent }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_whose_agent_restarted_is_sent_once_more_after_a_minute_without_a_sign() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let scan = Duration::from_millis(600);
    let fleet = house.agents(vec![scanning(&host, Misbehaviour::RestartMidScan, scan)]).await;
    let id = house.command(Kind::ComplianceScan, &host, Value::Null).await;
    house.until_row(id, |row| row.state == State::Running && row.returned_at.is_some()).await;
    house.advance(Duration::from_secs(50));
    // Not yet: it might still speak. A command behind it shows that the sweep has been there.
    let behind = house.command_within(Kind::ComplianceScan, &host, json!({"profile_id": "level2_server"}), 500).await;
    house.until(behind, State::Expired).await;
    assert_eq!(house.row(id).await.state, State::Running);
    house.advance(Duration::from_secs(11));
    let row = house.until(id, State::Succeeded).await;
    assert_eq!((row.attempt, row.losses), (2, 1));
    let connections: Vec<_> = fleet.log().frames(&host.api_id, "compliance_scan").iter().map(|f| f.conn).collect();
    assert_eq!(connections, [1, 2]);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_whose_agent_restarted_is_never_sent_again() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let scan = Duration::from_millis(600);
    let fleet = house.agents(vec![scanning(&host, Misbehaviour::RestartMidScan, scan)]).await;
    let id = house.command(Kind::ComplianceScan, &host, json!({"enable_remediation": true})).await;
    house.until(id, State::Running).await;
    fleet.wait_until(PATIENCE, |counts| counts.connects == 2).await.unwrap();
    house.advance(Duration::from_secs(29 * 60));
    let behind = house.command_within(Kind::ComplianceScan, &host, json!({"profile_id": "level2_server"}), 500).await;
    house.until(behind, State::Expired).await;
    assert_eq!(house.row(id).await.state, State::Running);
    house.advance(Duration::from_secs(2 * 60));
    house.until(id, State::Unconfirmed).await;
    assert_eq!(fleet.log().frames(&host.api_id, "compliance_scan").len(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_whose_socket_was_lost_goes_on_and_its_result_ends_it() {
    let house = House::whole().await;
    let host = house.host("web").await;
    let fleet = house.agents(vec![scanning(&host, Misbehaviour::DropMidScan, Duration::from_secs(1))]).await;
    let id = house.command(Kind::ComplianceScan, &host, Value::Null).await;
    let row = house.until(id, State::Succeeded).await;
    assert_eq!(row.attempt, 1);
    assert_eq!(fleet.log().frames(&host.api_id, "compliance_scan").len(), 1);
    assert!(fleet.counts().connects >= 1);
    fleet.stop().await;
}

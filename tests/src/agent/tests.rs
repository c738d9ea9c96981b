//! Agents against a stand-in server.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::{Agent, AgentConfig};
use crate::{
    generation::Generation::{self, V1, V2},
    log::{FrameLog, ScanOutcome, What},
    misbehaviour::{Hangup, Misbehaviour},
    standin::{ServerSocket, StandIn, host},
    timing::Timing,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Times that tests can wait for: reports and scans of a few milliseconds.
fn config(generation: Generation) -> AgentConfig {
    let mut timing = Timing::fast(generation);
    timing.collect = Duration::from_millis(20);
    timing.scan = Duration::from_millis(60);
    timing.scan_setup = Duration::from_millis(1);
    AgentConfig { timing: Arc::new(timing), ..AgentConfig::new(host(1), generation) }
}

fn start(stand_in: &StandIn, config: AgentConfig) -> (Agent, FrameLog) {
    let log = FrameLog::in_memory();
    (Agent::start(config, &Arc::new(stand_in.server.clone()), &log), log)
}

async fn connected(
    generation: Generation,
    misbehaviour: Option<Misbehaviour>,
) -> (StandIn, ServerSocket, Agent, FrameLog) {
    let mut stand_in = StandIn::start().await;
    let (agent, log) = start(&stand_in, AgentConfig { misbehaviour, ..config(generation) });
    let socket = stand_in.socket().await;
    (stand_in, socket, agent, log)
}

async fn phases(socket: &mut ServerSocket, count: usize) -> Vec<String> {
    let mut phases = Vec::new();
    while phases.len() < count {
        let message = socket.text().await;
        assert_eq!(message["type"], "compliance_scan_progress");
        phases.push(message["phase"].as_str().unwrap().to_owned());
    }
    phases
}

fn scan() -> serde_json::Value {
    json!({
        "type": "compliance_scan", "profile_type": "openscap", "profile_id": "level1_server",
        "enable_remediation": false, "fetch_remote_resources": false, "openscap_enabled": true, "docker_bench_enabled": false,
    })
}

const ALL_PHASES: [&str; 5] = ["started", "evaluating", "parsing", "sending", "completed"];

#[tokio::test]
async fn the_start_makes_the_calls_of_the_protocol_in_their_order() {
    for generation in [V1, V2] {
        let (stand_in, mut socket, agent, log) = connected(generation, None).await;
        socket.send(json!({"type": "connected"})).await;
        log.wait_counts(PATIENCE, |counts| counts.http_calls == 6).await.unwrap();
        let paths = stand_in.paths();
        assert_eq!(
            paths[..4],
            [
                "/api/v1/settings/update-interval",
                "/api/v1/hosts/integrations",
                "/api/v1/hosts/ping",
                "/api/v1/agents/ws"
            ]
        );
        let mut rest: Vec<_> = paths[4..].iter().map(|path| path.split('?').next().unwrap()).collect();
        rest.sort_unstable();
        assert_eq!(rest, ["/api/v1/hosts/agent/version", "/api/v1/hosts/integration-status", "/api/v1/hosts/update"]);
        assert_eq!(agent.update_interval(), 30);
        let ping = &stand_in.seen("hosts/ping")[0].head;
        let bodiless =
            if generation == V1 { "\r\nContent-Length: 0\r\n" } else { "\r\nTransfer-Encoding: chunked\r\n" };
        assert!(ping.contains(bodiless), "{ping}");
        assert!(ping.contains("\r\nX-Api-Id: patchmon_0000000000000001\r\n"), "{ping}");
        let update = &stand_in.seen("hosts/update")[0].body;
        assert_eq!(update["agentVersion"], generation.agent_version());
        assert_eq!(update["hostname"], "web-1");
        let version = &stand_in.seen("hosts/agent/version?arch=amd64&os=linux&type=go&currentVersion=1.4.2");
        assert_eq!(version.len(), usize::from(generation == V1));
        agent.stop().await;
    }
}

#[tokio::test]
async fn pings_are_ponged_with_their_payload() {
    let (_stand_in, mut socket, _agent, _log) = connected(V2, None).await;
    socket.ping("7").await;
    assert_eq!(socket.next().await, Message::Pong("7".into()));
}

#[tokio::test]
async fn a_deaf_agent_pongs_nothing_and_a_late_one_late() {
    let (_stand_in, mut socket, agent, log) = connected(V2, Some(Misbehaviour::Deaf)).await;
    socket.ping("1").await;
    log.wait_counts(PATIENCE, |counts| counts.pings == 1).await.unwrap();
    let late = Duration::from_millis(80);
    agent.misbehave(Some(Misbehaviour::LatePongs(late)));
    let sent = tokio::time::Instant::now();
    socket.ping("2").await;
    assert_eq!(socket.next().await, Message::Pong("2".into()));
    assert!(sent.elapsed() >= late);
}

#[tokio::test]
async fn a_scan_shows_its_phases_and_posts_its_result() {
    for generation in [V1, V2] {
        let (stand_in, mut socket, _agent, log) = connected(generation, None).await;
        socket.send(scan()).await;
        assert_eq!(phases(&mut socket, 5).await, ALL_PHASES);
        let posted = &stand_in.seen("compliance/scans")[0].body;
        assert_eq!(posted["scans"][0]["status"], "completed");
        assert_eq!(posted["scans"][0]["profile_name"], "level1_server");
        assert_eq!(posted["hostname"], "web-1");
        assert_eq!(posted.get("scan_type").is_some(), generation == V2);
        let counts = log.wait_counts(PATIENCE, |counts| counts.scans_running == 0).await.unwrap();
        assert_eq!(counts.scans_succeeded, 1);
    }
}

#[tokio::test]
async fn a_cancelled_scan_posts_a_failed_result_and_completes() {
    let (stand_in, mut socket, _agent, log) = connected(V2, None).await;
    socket.send(scan()).await;
    assert_eq!(phases(&mut socket, 2).await, ALL_PHASES[..2]);
    socket.send(json!({"type": "compliance_scan_cancel"})).await;
    assert_eq!(phases(&mut socket, 3).await, ALL_PHASES[2..]);
    let posted = &stand_in.seen("compliance/scans")[0].body["scans"][0];
    assert_eq!(posted["status"], "failed");
    assert_eq!(posted["error"], "scan cancelled or timed out: context canceled");
    log.wait_counts(PATIENCE, |counts| counts.scans_cancelled == 1).await.unwrap();
    // Nothing runs any more: a cancel finds nothing, and the next scan is not touched.
    socket.send(json!({"type": "compliance_scan_cancel"})).await;
    socket.send(scan()).await;
    assert_eq!(phases(&mut socket, 5).await, ALL_PHASES);
    log.wait_counts(PATIENCE, |counts| counts.scans_succeeded == 1).await.unwrap();
}

#[tokio::test]
async fn odd_scans_end_as_recorded() {
    // compliance-scan-edges: unknown profile, forbidden character, no scanner.
    let (stand_in, mut socket, _agent, log) = connected(V1, None).await;
    let mut request = scan();
    request["profile_id"] = json!("a b;c");
    socket.send(request.clone()).await;
    request["profile_id"] = json!("no_such_profile");
    socket.send(request.clone()).await;
    assert_eq!(phases(&mut socket, 5).await, ALL_PHASES);
    let posted = &stand_in.seen("compliance/scans")[0].body["scans"][0];
    assert_eq!(posted["profile_name"], "level1_server");
    assert_eq!(posted["error"], "profile no_such_profile not available for debian");
    request["profile_id"] = json!(null);
    request["openscap_enabled"] = json!(false);
    socket.send(request).await;
    assert_eq!(phases(&mut socket, 4).await, ["started", "evaluating", "parsing", "completed"]);
    assert_eq!(stand_in.seen("compliance/scans").len(), 1);
    let counts = log.wait_counts(PATIENCE, |counts| counts.scans_lost == 1).await.unwrap();
    assert_eq!((counts.scans_started, counts.scans_failed), (2, 1));
}

#[tokio::test]
async fn a_result_is_posted_again_only_when_there_was_no_answer() {
    let (stand_in, mut socket, _agent, log) = connected(V1, None).await;
    stand_in.refuse_results(&[0, 0]);
    socket.send(scan()).await;
    assert_eq!(phases(&mut socket, 5).await, ALL_PHASES);
    assert_eq!(stand_in.seen("compliance/scans").len(), 3);
    stand_in.refuse_results(&[429]);
    socket.send(scan()).await;
    assert_eq!(phases(&mut socket, 5).await, ["started", "evaluating", "parsing", "sending", "failed"]);
    assert_eq!(stand_in.seen("compliance/scans").len(), 4);
    let ended = log.select(|event| matches!(event.what, What::ScanEnded { .. }));
    assert!(matches!(ended[1].what, What::ScanEnded { outcome: ScanOutcome::NotAccepted, .. }));
}

#[tokio::test]
async fn a_report_blocks_the_loop_and_the_frames_behind_it_come_later_in_order() {
    let (stand_in, mut socket, agent, log) = connected(V1, None).await;
    log.wait_counts(PATIENCE, |counts| counts.reports == 1).await.unwrap();
    socket.send(json!({"type": "report_now"})).await;
    for minutes in 100..125 {
        socket.send(json!({"type": "settings_update", "update_interval": minutes})).await;
    }
    socket.ping("behind").await;
    // busy: the pong waits for the reader, which waits for the report.
    assert_eq!(socket.next().await, Message::Pong("behind".into()));
    assert!(stand_in.seen("hosts/update").len() == 2);
    log.wait_for(PATIENCE, |_| (agent.update_interval() == 124).then_some(())).await;
    assert_eq!(agent.update_interval(), 124);
    assert_eq!(log.counts().frames_lost, 0);
}

#[tokio::test]
async fn a_2_1_agent_drops_what_waits_too_long() {
    let mut stand_in = StandIn::start().await;
    let mut config = config(V2);
    let mut timing = (*config.timing).clone();
    timing.collect = Duration::from_millis(400);
    timing.inbox_wait = Duration::from_millis(20);
    config.timing = Arc::new(timing);
    let (_agent, log) = start(&stand_in, config);
    let mut socket = stand_in.socket().await;
    socket.send(json!({"type": "report_now"})).await;
    for minutes in 100..125 {
        socket.send(json!({"type": "settings_update", "update_interval": minutes})).await;
    }
    let counts = log.wait_counts(PATIENCE, |counts| counts.frames == 26 && counts.reports == 2).await.unwrap();
    assert!(counts.frames_lost > 0, "{counts:?}");
}

#[tokio::test]
async fn a_dropped_agent_comes_back_and_its_scan_went_on() {
    let (mut stand_in, mut socket, _agent, log) = connected(V2, Some(Misbehaviour::DropMidScan)).await;
    socket.send(scan()).await;
    assert_eq!(phases(&mut socket, 2).await, ALL_PHASES[..2]);
    let mut again = stand_in.socket().await;
    assert_eq!(phases(&mut again, 3).await, ALL_PHASES[2..]);
    let counts = log.wait_counts(PATIENCE, |counts| counts.scans_succeeded == 1).await.unwrap();
    assert_eq!((counts.connects, counts.disconnects, counts.misbehaved), (2, 1, 1));
}

#[tokio::test]
async fn a_restart_kills_the_scan_and_starts_anew() {
    let (mut stand_in, mut socket, _agent, log) = connected(V1, Some(Misbehaviour::RestartMidScan)).await;
    socket.send(scan()).await;
    let mut again = stand_in.socket().await;
    assert_eq!(stand_in.seen("hosts/ping").len(), 2);
    assert_eq!(stand_in.seen("compliance/scans").len(), 0);
    assert_eq!(log.counts().scans_lost, 1);
    again.send(scan()).await;
    assert_eq!(phases(&mut again, 5).await, ALL_PHASES);
}

#[tokio::test]
async fn refused_upgrades_are_tried_again_by_the_table() {
    let mut stand_in = StandIn::start().await;
    stand_in.refuse_upgrades(&[503, 401]);
    let (_agent, log) = start(&stand_in, config(V1));
    stand_in.socket().await;
    let counts = log.wait_counts(PATIENCE, |counts| counts.connected == 1).await.unwrap();
    assert_eq!((counts.refused["503"], counts.refused["401"]), (1, 1));
    let times: Vec<_> = log
        .select(|event| matches!(event.what, What::Refused { .. } | What::Connected { .. }))
        .iter()
        .map(|event| event.time_ms)
        .collect();
    assert!(times[1] - times[0] >= 10 && times[2] - times[1] >= 20, "{times:?}");
}

#[tokio::test]
async fn closes_are_echoed_with_their_code_and_without_a_reason() {
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    let (_stand_in, mut socket, _agent, log) = connected(V1, None).await;
    socket.0.close(Some(CloseFrame { code: 1012.into(), reason: "x".into() })).await.unwrap();
    let Message::Close(Some(echo)) = socket.next().await else { panic!("no close frame") };
    assert_eq!((u16::from(echo.code), echo.reason.as_str()), (1012, ""));
    log.wait_counts(PATIENCE, |counts| counts.disconnects == 1).await.unwrap();
}

#[tokio::test]
async fn an_agent_that_drops_after_n_commands_counts_them_for_each_connection() {
    let habit = Misbehaviour::DropAfter(2, Hangup::Reset);
    let (mut stand_in, mut socket, _agent, log) = connected(V2, Some(habit)).await;
    for connection in 1..=2 {
        socket.send(json!({"type": "connected"})).await;
        socket.send(json!({"type": "refresh_integration_status"})).await;
        socket.send(json!({"type": "no_such_type"})).await;
        socket = stand_in.socket().await;
        assert_eq!(log.counts().misbehaved, connection);
    }
    assert_eq!(log.counts().frames_by_type["no_such_type"], 2);
}

#[tokio::test]
async fn a_switched_off_machine_is_gone_until_it_is_switched_on() {
    let (mut stand_in, _socket, agent, log) = connected(V1, None).await;
    agent.power_off().await;
    log.wait_counts(PATIENCE, |counts| counts.running == 0 && counts.connected == 0).await.unwrap();
    agent.power_on().await;
    stand_in.socket().await;
    agent.stop().await;
    assert_eq!((log.counts().running, log.counts().connected, log.counts().connecting), (0, 0, 0));
}

#[tokio::test]
async fn the_90_s_deadline_is_re_armed_as_each_generation_does() {
    for (generation, stays) in [(V1, false), (V2, true)] {
        let mut stand_in = StandIn::start().await;
        let mut config = config(generation);
        let mut timing = (*config.timing).clone();
        timing.read_deadline = Duration::from_millis(300);
        config.timing = Arc::new(timing);
        let (_agent, log) = start(&stand_in, config);
        let mut socket = stand_in.socket().await;
        // no-pong: server pings without pongs keep a 2.1 agent, and lose a 1.4 one.
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            use futures_util::SinkExt;
            let _ = socket.0.send(Message::Ping("sp".into())).await;
        }
        assert_eq!(log.counts().disconnects == 0, stays, "{generation:?}");
    }
}

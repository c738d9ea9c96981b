//! `compliance_scan`: running when it has begun, ended by its result and by nothing else (protocol 1.4).

use std::time::Duration;

use serde_json::{Value, json};
use tests::{agent::ComplianceMode, fleet::Recipe, misbehaviour::Misbehaviour};

use super::scene::{PATIENCE, Scene, quiet, quiet_scanning};

const A_WHILE: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_runs_once_it_has_begun_and_is_done_with_its_result() {
    let scene = Scene::start(&quiet_scanning(A_WHILE), 2).await;
    let mut ids = Vec::new();
    for host in 0..2 {
        ids.push(scene.ask("compliance_scan", host, json!({"profile_type": "openscap"})).await);
    }
    for (host, id) in ids.iter().enumerate() {
        let row = scene.admin.wait_command(id, PATIENCE, |row| row.get("running_at").is_some()).await.unwrap();
        assert!(row["state"] == "running" || row["state"] == "succeeded", "{row}");
        let row = scene.end(id, "succeeded").await;
        assert_eq!(row["evidence"]["deed"], "compliance/scans", "{row}");
        assert_eq!(row["evidence"]["detail"], "openscap level1_server completed", "{row}");
        let path = format!("/hosts/{}/scans", scene.hosts[host].id);
        let scans = scene.admin.get(&path).await.unwrap().ok().unwrap();
        assert_eq!(scans["items"].as_array().unwrap().len(), 1, "{scans}");
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_proves_nothing_but_that_it_runs() {
    let scene = Scene::start(&quiet(), 1).await;
    let agent = scene.agent(0);
    agent.misbehave(Some(Misbehaviour::Silent));
    let say = |phase: &str| {
        json!({"type": "compliance_scan_progress", "phase": phase, "profile_name": "default", "message": "", "progress": 5,
            "error": "", "timestamp": "2026-01-01T00:00:00Z"})
        .to_string()
    };
    let id = scene.ask("compliance_scan", 0, Value::Null).await;
    scene.state(&id, "delivered").await;
    // What another scan had left in the agent's buffer opens nothing and ends nothing.
    for phase in ["evaluating", "completed"] {
        agent.send_text(&say(phase)).await;
    }
    agent.send_text(&say("started")).await;
    let row = scene.state(&id, "running").await;
    assert_eq!(row["final"], false);
    agent.send_text(&say("completed")).await;
    let row = scene.end(&id, "failed").await;
    assert_eq!(row["error"], "no scanner ran", "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_fails_on_the_host_says_why() {
    let disabled = Recipe { compliance: ComplianceMode::Disabled, ..quiet() };
    let mut scene = Scene::without_agents(4).await;
    // Hosts 0 and 2 are 1.4, 1 and 3 are 2.1; the last one's own configuration has compliance disabled.
    let mut agents = quiet().agents(&scene.hosts);
    agents[0].misbehaviour = Some(Misbehaviour::ScanFails);
    agents[1].misbehaviour = Some(Misbehaviour::ScanFails);
    agents[3].compliance = disabled.compliance;
    scene.come_as(agents).await;
    for (host, payload, why) in [
        (0, json!({}), "failed to run oscap: exit status 1"),
        (1, json!({"profile_type": "openscap"}), "failed to run oscap: exit status 1"),
        (2, json!({"profile_id": "no_such_profile"}), "profile no_such_profile not available for debian"),
        (3, json!({}), "compliance integration is not enabled"),
    ] {
        let id = scene.ask("compliance_scan", host, payload).await;
        let row = scene.end(&id, "failed").await;
        assert_eq!(row["error"], why, "host {host}: {row}");
        assert!(row.get("succeeded_at").is_none());
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_agent_would_do_is_refused_or_fails_without_being_sent() {
    let scene = Scene::start(&quiet(), 1).await;
    for payload in [
        json!({"profile_id": "a b"}),
        json!({"profile_id": ""}),
        json!({"profile_id": "x".repeat(257)}),
        json!({"profile_type": "cis"}),
        json!({"profile": "x"}),
        json!({"enable_remediation": "yes"}),
    ] {
        let answer = scene.post("compliance_scan", &[0], &json!({ "payload": payload })).await;
        assert_eq!(answer.status, 400, "{payload}: {}", answer.body);
    }
    scene.integrations(0, json!({"openscap_enabled": false, "docker_bench_enabled": false})).await;
    let id = scene.ask("compliance_scan", 0, Value::Null).await;
    let row = scene.end(&id, "failed").await;
    assert_eq!((&row["error"], &row["attempt"]), (&json!("both scanners are off for this host"), &json!(0)));
    scene.marker(0).await;
    assert!(scene.frames(0, "compliance_scan").is_empty());
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_toggles_fill_in_what_was_not_asked() {
    let recipe = Recipe { docker_bench: true, ..quiet() };
    let scene = Scene::start(&recipe, 1).await;
    scene.integrations(0, json!({"docker_bench_enabled": true})).await;
    for (payload, openscap, bench) in [
        (json!({}), true, true),
        (json!({"profile_type": "openscap"}), true, false),
        (json!({"profile_type": "docker-bench"}), false, true),
    ] {
        let before = scene.frames(0, "compliance_scan").len();
        let id = scene.ask("compliance_scan", 0, payload.clone()).await;
        scene.end(&id, "succeeded").await;
        let frame = scene.frames(0, "compliance_scan")[before].payload().unwrap();
        let sent = (&frame["openscap_enabled"], &frame["docker_bench_enabled"]);
        assert_eq!(sent, (&json!(openscap), &json!(bench)), "{payload}: {frame}");
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_scans_one_thing_at_a_time_and_the_next_is_rung() {
    let scene = Scene::start(&quiet_scanning(Duration::from_secs(2)), 2).await;
    for host in 0..2 {
        let first = scene.ask("compliance_scan", host, json!({"profile_id": "level1_server"})).await;
        scene.state(&first, "running").await;
        let second = scene.ask("compliance_scan", host, json!({"profile_id": "level2_server"})).await;
        // The same again is the one that runs.
        let again = scene.post("compliance_scan", &[host], &json!({"payload": {"profile_id": "level1_server"}})).await;
        assert_eq!((&again.body["count"], &again.body["coalesced"]), (&json!(0), &json!(1)), "{}", again.body);
        assert_eq!(again.body["commands"][0]["id"], first.as_str());
        let row = scene.row(&second).await;
        assert_eq!((&row["state"], &row["attempt"]), (&json!("queued"), &json!(0)), "{row}");

        scene.end(&first, "succeeded").await;
        scene.end(&second, "succeeded").await;
        let frames = scene.frames(host, "compliance_scan");
        assert_eq!(frames.len(), 2);
        let posts = scene.log().calls(&scene.hosts[host].api_id, "compliance/scans");
        let began = posts[0].0.time_ms.saturating_sub(1);
        assert!(frames[1].time_ms >= began, "the second was sent before the first had a result");
    }
    scene.assert_claims().await;
}

//! What agents post, and what it moves.

use jobs::{Deed, Kind, State};
use serde_json::{Value, json};
use store::{ReportBody, StoreError};
use uuid::Uuid;

use super::{
    store_moves::{results, started},
    store_world::{SECOND, World, new_host},
};

on_every_store! {
    a_report_is_stored_as_it_came,
    a_full_report_replaces_the_one_before,
    a_partial_report_keeps_the_other_sections,
    a_partial_report_may_come_first,
    the_summary_counts_packages_and_updates,
    a_report_ends_report_now_in_its_own_transaction,
    statuses_are_kept_by_integration,
    a_status_ends_the_refresh,
    scans_are_kept_newest_first,
    fifty_scans_a_host_are_kept,
    a_result_ends_its_scan,
    a_removed_host_can_store_nothing,
    reports_go_with_their_host,
}

fn report(body: &Value) -> ReportBody {
    ReportBody { body: body.as_object().unwrap().clone(), summary: serde_json::from_value(body.clone()).unwrap() }
}

fn full() -> Value {
    json!({
        "packages": [
            {"name": "a", "needsUpdate": true, "isSecurityUpdate": true},
            {"name": "b", "needsUpdate": true},
            {"name": "c", "needsUpdate": false, "isSecurityUpdate": true},
            {"name": "d"},
        ],
        "repositories": [{"name": "main"}],
        "osType": "Debian", "osVersion": "13", "hostname": "web", "ip": "192.0.2.1", "architecture": "amd64",
        "agentVersion": "1.4.2", "kernelVersion": "6.12", "needsReboot": true, "rebootReason": "kernel",
    })
}

async fn a_report_is_stored_as_it_came(world: World) {
    let host = world.host().await;
    assert_eq!(world.store.report(host).await.unwrap(), None);
    let (counts, moved) = world.store.save_report(host, report(&full())).await.unwrap();
    assert_eq!((counts, moved.len()), ([4, 2, 1], 0));
    assert_eq!(world.store.report(host).await.unwrap(), Some(full()));
    let row = world.store.host(host).await.unwrap().unwrap();
    let summary = row.report.unwrap();
    assert_eq!((summary.packages, summary.updates, summary.security_updates), (4, 2, 1));
    assert_eq!(
        (summary.os_type.as_str(), summary.os_version.as_str(), summary.hostname.as_str()),
        ("Debian", "13", "web")
    );
    assert_eq!(
        (summary.ip.as_str(), summary.architecture.as_str(), summary.kernel_version.as_str()),
        ("192.0.2.1", "amd64", "6.12")
    );
    assert_eq!((summary.needs_reboot, summary.reboot_reason.as_str()), (true, "kernel"));
    assert_eq!(row.agent_version.as_deref(), Some("1.4.2"));
    assert!(row.last_seen_at.is_some() && summary.reported_at <= world.now());
}

async fn a_full_report_replaces_the_one_before(world: World) {
    let host = world.host().await;
    world.store.save_report(host, report(&full())).await.unwrap();
    let next = json!({"packages": null, "osType": "Debian", "hostname": "web-2", "agentVersion": ""});
    let (counts, _) = world.store.save_report(host, report(&next)).await.unwrap();
    assert_eq!(counts, [0, 0, 0]);
    assert_eq!(world.store.report(host).await.unwrap(), Some(next));
    let row = world.store.host(host).await.unwrap().unwrap();
    let summary = row.report.unwrap();
    assert_eq!((summary.hostname.as_str(), summary.packages, summary.needs_reboot), ("web-2", 0, false));
    assert_eq!(row.agent_version.as_deref(), Some("1.4.2"), "a version that is not told is not forgotten");
}

async fn a_partial_report_keeps_the_other_sections(world: World) {
    let host = world.host().await;
    world.store.save_report(host, report(&full())).await.unwrap();
    let partial = json!({
        "sections": ["packages"], "packages": [{"name": "z", "needsUpdate": true, "isSecurityUpdate": true}],
        "repositories": null, "osType": "", "hostname": "ignored", "needsReboot": false, "agentVersion": "2.1.4",
    });
    let (counts, _) = world.store.save_report(host, report(&partial)).await.unwrap();
    assert_eq!(counts, [1, 1, 1]);
    let stored = world.store.report(host).await.unwrap().unwrap();
    assert_eq!(stored["packages"], partial["packages"]);
    assert_eq!((&stored["repositories"], &stored["hostname"]), (&full()["repositories"], &json!("web")));
    let row = world.store.host(host).await.unwrap().unwrap();
    let summary = row.report.unwrap();
    assert_eq!((summary.os_type.as_str(), summary.hostname.as_str(), summary.needs_reboot), ("Debian", "web", true));
    assert_eq!((summary.packages, row.agent_version.as_deref()), (1, Some("2.1.4")));

    let (counts, _) =
        world.store.save_report(host, report(&json!({"sections": ["docker"], "docker": {"n": 1}}))).await.unwrap();
    assert_eq!(counts, [1, 1, 1], "the counts are of what is stored");
}

async fn a_partial_report_may_come_first(world: World) {
    let host = world.host().await;
    let partial = json!({"sections": ["hostname"], "hostname": "web", "osType": "ignored"});
    world.store.save_report(host, report(&partial)).await.unwrap();
    assert_eq!(world.store.report(host).await.unwrap(), Some(json!({"hostname": "web"})));
    assert_eq!(world.store.host(host).await.unwrap().unwrap().report.unwrap().hostname, "web");
}

async fn the_summary_counts_packages_and_updates(world: World) {
    let host = world.host().await;
    let packages: Vec<Value> = (0..10_000)
        .map(|n| json!({"name": format!("p{n}"), "needsUpdate": n % 10 == 0, "isSecurityUpdate": n % 20 == 0}))
        .collect();
    let (counts, _) = world.store.save_report(host, report(&json!({"packages": packages}))).await.unwrap();
    assert_eq!(counts, [10_000, 1_000, 500]);
}

async fn a_report_ends_report_now_in_its_own_transaction(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::ReportNow, host).await;
    let (_, moved) = world.store.save_report(host, report(&full())).await.unwrap();
    assert_eq!(moved.len(), 1);
    assert_eq!((moved[0].command.id, moved[0].command.state), (id, State::Succeeded));
    assert_eq!(world.row(id).await, moved[0].command);
    assert_eq!(
        world.store.host(host).await.unwrap().unwrap().report.unwrap().reported_at,
        moved[0].command.evidence.as_ref().unwrap().at
    );
}

fn status_deed(integration: &str) -> Deed {
    Deed::IntegrationStatus { integration: integration.to_owned(), status: "ready".to_owned() }
}

async fn statuses_are_kept_by_integration(world: World) {
    let [host, other] = world.hosts().await;
    for (host, integration, n) in
        [(host, "docker", 1), (host, "compliance", 2), (host, "docker", 3), (other, "docker", 4)]
    {
        world
            .store
            .save_integration_status(host, integration, &json!({"n": n}), &status_deed(integration))
            .await
            .unwrap();
    }
    let stored = world.store.integration_status(host).await.unwrap();
    let kept: Vec<_> = stored.iter().map(|s| (s.integration.as_str(), s.body["n"].as_i64().unwrap())).collect();
    assert_eq!(kept, [("compliance", 2), ("docker", 3)]);
    assert!(world.store.integration_status(Uuid::now_v7()).await.unwrap().is_empty());
}

async fn a_status_ends_the_refresh(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::RefreshIntegrationStatus, host).await;
    let moved = world.store.save_integration_status(host, "docker", &json!({}), &status_deed("docker")).await.unwrap();
    assert_eq!((moved.len(), world.state(id).await), (1, State::Succeeded));
}

fn scan_body(n: usize) -> Value {
    json!({"profile_type": "openscap", "profile_name": format!("p{n}"), "status": "completed", "score": 90.5, "n": n})
}

async fn scans_are_kept_newest_first(world: World) {
    let [host, other] = world.hosts().await;
    let deed = results("completed");
    world.store.save_scans(host, &[scan_body(0), scan_body(1)], &deed).await.unwrap();
    world.store.save_scans(other, &[scan_body(9)], &deed).await.unwrap();
    world.advance(SECOND);
    world.store.save_scans(host, &[json!({"profile_type": "docker-bench", "status": "failed"})], &deed).await.unwrap();
    let stored = world.store.scans(host, 10).await.unwrap();
    let kept: Vec<_> =
        stored.iter().map(|s| (s.profile_type.as_str(), s.profile_name.as_str(), s.status.as_str(), s.score)).collect();
    assert_eq!(
        kept,
        [
            ("docker-bench", "", "failed", None),
            ("openscap", "p1", "completed", Some(90.5)),
            ("openscap", "p0", "completed", Some(90.5)),
        ]
    );
    assert_eq!(stored[1].body, scan_body(1));
    assert!(stored.iter().all(|s| s.host_id == host));
    assert_eq!(world.store.scans(host, 2).await.unwrap(), stored[..2]);
}

async fn fifty_scans_a_host_are_kept(world: World) {
    let [host, other] = world.hosts().await;
    let deed = results("completed");
    world.store.save_scans(other, &[scan_body(0)], &deed).await.unwrap();
    for n in 0..60 {
        world.store.save_scans(host, &[scan_body(n)], &deed).await.unwrap();
    }
    let stored = world.store.scans(host, 100).await.unwrap();
    assert_eq!((stored.len(), &stored[0].body, &stored[49].body), (50, &scan_body(59), &scan_body(10)));
    assert_eq!(world.store.scans(other, 100).await.unwrap().len(), 1);
}

async fn a_result_ends_its_scan(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::ComplianceScan, host).await;
    world.observe(host, started()).await;
    let moved = world.store.save_scans(host, &[scan_body(0)], &results("completed")).await.unwrap();
    assert_eq!((moved.len(), world.state(id).await), (1, State::Succeeded));
    let late = world.store.save_scans(host, &[scan_body(1)], &results("failed")).await.unwrap();
    assert_eq!((late.len(), world.state(id).await), (0, State::Succeeded), "the first end wins");
    assert_eq!(world.store.scans(host, 9).await.unwrap().len(), 2, "a late result is stored all the same");
}

async fn a_removed_host_can_store_nothing(world: World) {
    let host = world.host().await;
    world.store.remove_host(host).await.unwrap();
    let stored = world.store.save_report(host, report(&full())).await;
    assert!(matches!(stored, Err(StoreError::Gone)), "trying again would not help: {stored:?}");
    let stored = world.store.save_integration_status(host, "docker", &json!({}), &status_deed("docker")).await;
    assert!(matches!(stored, Err(StoreError::Gone)), "{stored:?}");
    let stored = world.store.save_scans(host, &[scan_body(0)], &results("completed")).await;
    assert!(matches!(stored, Err(StoreError::Gone)), "{stored:?}");
    for table in ["host_reports", "integration_status", "compliance_scans"] {
        assert_eq!(world.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    world.store.add_hosts(&[new_host("next")]).await.unwrap();
}

async fn reports_go_with_their_host(world: World) {
    let host = world.host().await;
    world.store.save_report(host, report(&full())).await.unwrap();
    world.store.save_integration_status(host, "docker", &json!({}), &status_deed("docker")).await.unwrap();
    world.store.save_scans(host, &[scan_body(0)], &results("completed")).await.unwrap();
    world.store.remove_host(host).await.unwrap();
    for table in ["host_reports", "integration_status", "compliance_scans"] {
        assert_eq!(world.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
}

//! Many hosts at once, and a server that dies in the middle.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use tests::log::{ScanOutcome, What};

use super::scene::{PATIENCE, Scene, quiet_scanning, timed};

const AGENTS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_scans_outlive_a_killed_server() {
    let mut scene = Scene::without_agents(AGENTS).await;
    let recipe = quiet_scanning(Duration::from_secs(3));
    let agents = timed(&recipe, &scene.hosts, |timing| {
        // A result that finds no server is posted again for six seconds, as real agents do (protocol 6-10).
        timing.http_retry = Duration::from_secs(2);
        timing.backoff_unit = Duration::from_millis(100);
    });
    scene.come_as(agents).await;
    let answer = scene.admin.post("/commands", &json!({"kind": "compliance_scan", "all": true})).await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body["count"]), (202, &json!(AGENTS)));
    let batch = answer.body["batch_id"].as_str().unwrap();

    // Some are done, some run, some were never sent.
    scene.fleet.wait_until(PATIENCE, |counts| counts.scans_succeeded >= 60).await.unwrap();
    scene.server.kill();
    let counts = scene.fleet.counts();
    assert!(counts.scans_succeeded < AGENTS as u64, "{counts}");
    scene.restart().await;

    let listed = format!("batch_id={batch}&");
    let deadline = tokio::time::Instant::now() + PATIENCE * 2;
    let rows = loop {
        let rows = scene.listed(&listed).await;
        if rows.iter().all(|row| row["final"] == true) {
            break rows;
        }
        let open: Vec<_> = rows.iter().filter(|row| row["final"] == false).take(5).collect();
        assert!(tokio::time::Instant::now() < deadline, "still open: {open:?}\n{}", scene.fleet.counts());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(rows.len(), AGENTS);
    let others: Vec<_> = rows.iter().filter(|row| row["state"] != "succeeded").collect();
    assert!(others.is_empty(), "{others:?}");

    // And so say the hosts.
    let succeeded = |what: &What| matches!(what, What::ScanEnded { outcome: ScanOutcome::Succeeded, .. });
    let done: BTreeSet<_> =
        scene.log().select(|event| succeeded(&event.what)).into_iter().map(|event| event.agent).collect();
    assert_eq!(done.len(), AGENTS);
    scene.assert_claims().await;
    println!("{}", scene.fleet.counts());
}

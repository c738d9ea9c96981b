//! `report_now` and `refresh_integration_status`.

use serde_json::{Value, json};
use tests::{
    agent::ComplianceMode,
    claims::at,
    fleet::{Generations, Recipe},
};

use super::scene::{Scene, quiet};

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_done_when_it_has_come_from_either_generation() {
    let scene = Scene::start(&quiet(), 2).await;
    for host in 0..2 {
        let id = scene.ask("report_now", host, Value::Null).await;
        let row = scene.end(&id, "succeeded").await;
        assert_eq!((&row["evidence"]["deed"], &row["attempt"]), (&json!("hosts/update"), &json!(1)), "{row}");
        let times: Vec<_> = ["queued", "sending", "delivered", "succeeded"].map(|state| at(&row, state)).into();
        assert!(times.is_sorted() && times[0].is_some(), "{row}");
        let path = format!("/hosts/{}/report", scene.hosts[host].id);
        let report = scene.admin.get(&path).await.unwrap().ok().unwrap();
        assert_eq!(report["hostname"], scene.hosts[host].name.as_str());
        assert_eq!(scene.frames(host, "report_now").len(), 1);
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_an_agent_goes_out_when_it_comes() {
    let mut scene = Scene::without_agents(2).await;
    let mut ids = Vec::new();
    for host in 0..2 {
        let id = scene.ask("report_now", host, Value::Null).await;
        let row = scene.state(&id, "waiting").await;
        assert_eq!((&row["final"], &row["attempt"]), (&json!(false), &json!(1)));
        ids.push(id);
    }
    // A start as real agents make it, with a report of its own.
    scene.come(&Recipe::fast(Generations::Mixed)).await;
    for (host, id) in ids.iter().enumerate() {
        let row = scene.end(id, "succeeded").await;
        assert_eq!(row["attempt"], 2, "{row}");
        assert_eq!(scene.frames(host, "report_now").len(), 1);
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_reports_one_after_the_other_are_two_frames_and_two_reports() {
    let scene = Scene::start(&quiet(), 1).await;
    for n in 1..=2 {
        let id = scene.ask("report_now", 0, Value::Null).await;
        scene.end(&id, "succeeded").await;
        assert_eq!(scene.frames(0, "report_now").len(), n);
        assert_eq!(scene.log().calls(&scene.hosts[0].api_id, "hosts/update").len(), n);
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enabled_integrations_tell_their_state_and_a_host_without_any_is_not_asked() {
    let scene = Scene::start(&quiet(), 3).await;
    scene.integrations(2, json!({"compliance_mode": "disabled", "docker_enabled": false})).await;
    for host in 0..2 {
        let id = scene.ask("refresh_integration_status", host, Value::Null).await;
        let row = scene.end(&id, "succeeded").await;
        assert_eq!(row["evidence"]["deed"], "hosts/integration-status", "{row}");
        assert_eq!(row["evidence"]["detail"], "compliance is ready", "{row}");
    }
    let id = scene.ask("refresh_integration_status", 2, Value::Null).await;
    let row = scene.end(&id, "succeeded").await;
    assert_eq!(row["evidence"]["deed"], "none", "{row}");
    assert!(row["evidence"]["detail"].as_str().unwrap().starts_with("nothing to report"), "{row}");
    assert!(row.get("sending_at").is_none(), "{row}");
    // What is sent behind it finds nothing of it on the way.
    let behind = scene.ask("report_now", 2, Value::Null).await;
    scene.end(&behind, "succeeded").await;
    assert!(scene.frames(2, "refresh_integration_status").is_empty());
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_nothing_to_tell_is_not_taken_to_have_told_it() {
    // The owner wants compliance, the host's own configuration has none: read, and no post follows (protocol 1.3).
    let recipe = Recipe { compliance: ComplianceMode::Disabled, ..quiet() };
    let scene = Scene::start(&recipe, 1).await;
    let id = scene.ask("refresh_integration_status", 0, Value::Null).await;
    scene.state(&id, "delivered").await;
    let behind = scene.ask("report_now", 0, Value::Null).await;
    scene.end(&behind, "succeeded").await;
    let row = scene.row(&id).await;
    assert_eq!((&row["state"], &row["final"]), (&json!("delivered"), &json!(false)), "{row}");
    scene.assert_claims().await;
}

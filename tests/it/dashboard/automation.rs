//! The queues in upstream's words (protocol 4.5).

use serde_json::{Value, json};
use tests::raw::{PATIENCE, Wire};

use super::peer::get;
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_told_in_upstreams_words() {
    let server = Server::start().await;
    let (admin, hosts) = (server.admin().await, server.add_hosts("host", 3).await);
    let read = async |path: &str| admin.get(path).await.unwrap().ok().unwrap();
    let none = json!({"waiting": 0, "active": 0, "completed": 0, "failed": 0, "delayed": 0});
    let stats = read("/automation/stats").await;
    assert_eq!(stats, json!({"success": true, "data": {"agent-commands": none, "compliance": none}}));

    // One is read by its host and not done, one waits for its host, one is called off, and settings only have to be read.
    let _agent = Wire::agent(&server.target(), &hosts[0]).await.unwrap();
    let made = async |kind: &str, host: usize, payload: Option<Value>| {
        let answer = admin.command(kind, &[&hosts[host].id], payload).await.unwrap().ok().unwrap();
        answer["commands"][0]["id"].as_str().unwrap().to_owned()
    };
    let active = made("report_now", 0, None).await;
    let delayed = made("report_now", 1, None).await;
    let cancelled = made("report_now", 2, None).await;
    admin.wait_state(&active, PATIENCE, "sent").await.unwrap();
    admin.wait_state(&delayed, PATIENCE, "waiting").await.unwrap();
    admin.wait_state(&cancelled, PATIENCE, "waiting").await.unwrap();
    admin.post(&format!("/commands/{cancelled}/cancel"), &json!({})).await.unwrap().ok().unwrap();
    let stats = read("/automation/stats/agent-commands").await;
    let some = json!({"waiting": 0, "active": 1, "completed": 0, "failed": 0, "delayed": 1});
    assert_eq!(stats, json!({"success": true, "data": {"agent-commands": some}}));

    let jobs = read("/automation/jobs/agent-commands").await;
    let listed: Vec<_> = jobs["data"].as_array().unwrap().iter().map(|job| (&job["id"], &job["status"])).collect();
    let (cancelled, delayed, active) = (json!(cancelled), json!(delayed), json!(active));
    let words = [json!("cancelled"), json!("delayed"), json!("active")];
    assert_eq!(listed, [(&cancelled, &words[0]), (&delayed, &words[1]), (&active, &words[2])]);
    let job = &jobs["data"][0];
    for (name, fits) in [
        ("name", job["name"] == "report_now"),
        ("attemptsMade", job["attemptsMade"].is_i64()),
        ("createdAt", job["createdAt"].is_string()),
        ("finishedOn", job["finishedOn"].is_i64()),
        ("processedOn", job["processedOn"].is_i64()),
        ("delay", job["delay"].is_i64()),
        ("failedReason", job["failedReason"].is_null()),
    ] {
        assert!(fits, "{name}: {job}");
    }
    assert_eq!(read("/automation/jobs/agent-commands?limit=1").await["data"].as_array().unwrap().len(), 1);
    assert_eq!(read("/automation/jobs/compliance").await, json!({"success": true, "data": []}));

    let health = read("/automation/health").await;
    assert_eq!(health["success"], true);
    let data = &health["data"];
    assert_eq!(
        (&data["status"], &data["totalJobs"], &data["queues"]["agent-commands"]),
        (&json!("healthy"), &json!(2), &some)
    );
    assert!(data["timestamp"].is_string() && data.get("message").is_none(), "{health}");

    for path in ["/automation/stats/nothing", "/automation/jobs/nothing", "/automation/stats/maintenance"] {
        let answer = admin.get(path).await.unwrap();
        let body = json!({"success": false, "error": "Invalid queue name"});
        assert_eq!((answer.status.as_u16(), answer.body), (400, body), "{path}");
    }
    for path in ["/automation/jobs/compliance?limit=0", "/automation/jobs/compliance?limt=1"] {
        assert_eq!(admin.get(path).await.unwrap().status, 400, "{path}");
    }
    let alive = get(&server, "/health", &[]).await;
    assert_eq!((alive.status, &alive.json()["status"]), (200, &json!("ok")));
    assert!(alive.json()["timestamp"].is_string());
}

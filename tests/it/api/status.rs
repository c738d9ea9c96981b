//! `GET /ws/status` (protocol 4.2).

use serde_json::json;
use tests::raw::{PATIENCE, Wire};

use super::{assert_secrets_kept, start, token};

#[tokio::test(flavor = "multi_thread")]
async fn status_is_told_for_one_for_many_and_in_sum() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 4).await;
    let get = |path: String| {
        let admin = admin.clone();
        async move { admin.get(&path).await.unwrap() }
    };
    let never = json!({"connected": false, "secure": false, "disconnected_seconds_ago": null});
    let here = json!({"connected": true, "secure": false, "disconnected_seconds_ago": null});
    let sockets = [
        Wire::agent(&server.target(), &hosts[0]).await.unwrap(),
        Wire::agent(&server.target(), &hosts[1]).await.unwrap(),
    ];
    let [id0, id1, id2, _] = [0, 1, 2, 3].map(|n| hosts[n].api_id.clone());
    let one = get(format!("/ws/status/{id0}")).await.ok().unwrap();
    assert_eq!(one, json!({"success": true, "data": here}));
    for nobody in [id2.as_str(), "patchmon_nobody", "*", "agent.x", "%3E", &"x".repeat(65), "%C3%A4"] {
        let answer = get(format!("/ws/status/{nobody}")).await.ok().unwrap();
        assert_eq!(answer, json!({"success": true, "data": never}), "{nobody}");
    }
    let many = get(format!("/ws/status?apiIds={id0},{id1},{id2},nobody,a.b,{id0}")).await.ok().unwrap();
    let expected = json!({id0.as_str(): here, id1.as_str(): here, id2.as_str(): never, "nobody": never, "a.b": never});
    assert_eq!(many, json!({"success": true, "data": expected}));
    assert_eq!(get("/ws/status".into()).await.ok().unwrap(), json!({"success": true, "data": {}}));
    assert_eq!(get("/ws/status/summary".into()).await.ok().unwrap(), json!({"connected": 2}));

    let [gone, mut left] = sockets;
    gone.reset();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while get("/ws/status/summary".into()).await.ok().unwrap() != json!({"connected": 1}) {
        assert!(tokio::time::Instant::now() < deadline, "it is counted still");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for path in [format!("/ws/status/{id0}"), format!("/ws/status?apiIds={id0}")] {
        let answer = get(path).await.ok().unwrap();
        let data = if answer["data"].get(&id0).is_some() { &answer["data"][&id0] } else { &answer["data"] };
        assert_eq!(data["connected"], false, "{answer}");
        assert!(data["disconnected_seconds_ago"].as_i64().is_some_and(|secs| (0..60).contains(&secs)), "{answer}");
    }
    left.ping(b"undisturbed").await.unwrap();

    let ids = |count: usize, length: usize| (0..count).map(|n| format!("{n:0length$}")).collect::<Vec<_>>().join(",");
    for (query, error) in [(ids(1001, 4), "too many apiIds requested"), (ids(999, 25), "apiIds query is too large")] {
        let answer = get(format!("/ws/status?apiIds={query}")).await;
        assert_eq!((answer.status.as_u16(), &answer.body["error"]), (400, &error.into()));
    }
    assert_eq!(
        get(format!("/ws/status?apiIds={}", ids(1000, 4))).await.ok().unwrap()["data"].as_object().unwrap().len(),
        1000
    );
    assert_secrets_kept(&server, &[token(&admin), &hosts[0].api_key]);
}

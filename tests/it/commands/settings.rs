//! `settings_update`: the owner's wish is kept on the host first, then told.

use serde_json::{Value, json};
use tests::{
    credentials::Credentials,
    fleet::{Generations, Recipe},
};

use super::scene::{Scene, eventually, quiet};

/// `GET settings/update-interval`, as the host's agent asks it.
async fn asked_by_the_agent(scene: &Scene, host: &Credentials) -> Value {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("{}/api/v1/settings/update-interval", scene.server.url()));
    let answer = request.header("X-Api-Id", &host.api_id).header("X-Api-Key", &host.api_key).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_is_normalised_kept_told_and_applied() {
    let scene = Scene::start(&quiet(), 2).await;
    for host in 0..2 {
        let id = scene.ask("settings_update", host, json!({"update_interval": 17})).await;
        let row = scene.end(&id, "delivered").await;
        assert_eq!((&row["payload"]["update_interval"], &row["final"]), (&json!(15), &json!(true)), "{row}");
        assert_eq!(asked_by_the_agent(&scene, &scene.hosts[host]).await["updateInterval"], 15);
        eventually("the agent applies it", || scene.agent(host).update_interval() == 15).await;
        assert_eq!(scene.frames(host, "settings_update").len(), 1);
        // It is final: nothing that the host does later moves it.
        scene.marker(host).await;
        assert_eq!(scene.row(&id).await["state"], "delivered");
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_interval_is_refused_and_changes_nothing() {
    let scene = Scene::without_agents(1).await;
    for payload in [json!({}), json!({"update_interval": "30"}), json!({"update_interval": 0}), json!({"interval": 5})]
    {
        let answer = scene.post("settings_update", &[0], &json!({ "payload": payload })).await;
        assert_eq!(answer.status, 400, "{payload}: {}", answer.body);
        assert!(answer.body["error"].is_string());
    }
    assert_eq!(asked_by_the_agent(&scene, &scene.hosts[0]).await["updateInterval"], 60);
    assert!(scene.rows().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_wanted_while_the_agent_was_away_is_there_when_it_starts() {
    let mut scene = Scene::without_agents(2).await;
    let mut ids = Vec::new();
    for host in 0..2 {
        let id = scene.ask("settings_update", host, json!({"update_interval": 30})).await;
        scene.state(&id, "waiting").await;
        ids.push(id);
    }
    scene.come(&Recipe::fast(Generations::Mixed)).await;
    for (host, id) in ids.iter().enumerate() {
        // The start-up GET has told it before the socket was there, and the command ends all the same.
        assert_eq!(scene.agent(host).update_interval(), 30);
        scene.end(id, "delivered").await;
    }
    scene.assert_claims().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_outlives_its_command() {
    let mut scene = Scene::without_agents(1).await;
    let payload = json!({"payload": {"update_interval": 45}, "expires_in": 1});
    let answer = scene.post("settings_update", &[0], &payload).await;
    let id = answer.body["commands"][0]["id"].as_str().unwrap();
    scene.end(id, "expired").await;
    // An agent that asks nothing at its start, as one that lost only its socket.
    scene.come(&quiet()).await;
    eventually("the agent is told by the system", || scene.agent(0).update_interval() == 45).await;
    let rows = scene.rows().await;
    assert_eq!((rows.len(), &rows[1]["requested_by"]), (2, &json!("system")), "{rows:?}");
    scene.end(rows[1]["id"].as_str().unwrap(), "delivered").await;
    // Once seen it is not told again.
    scene.fleet.agents()[0].hang_up(tests::misbehaviour::Hangup::Fin).await;
    scene.fleet.wait_until(super::scene::PATIENCE, |counts| counts.connects == 2).await.unwrap();
    scene.marker(0).await;
    assert_eq!(scene.frames(0, "settings_update").len(), 1);
}

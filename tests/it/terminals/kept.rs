//! What is written down of a terminal: the audit log, and its recording.

use serde_json::{Value, json};
use tests::services::openssh::Variant;

use super::scene::{PATIENCE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_who_did_what_from_where_and_for_how_long() {
    let scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    terminal.input("exit 3\r").await;
    terminal.until_closed(PATIENCE).await.unwrap();
    scene.row(|row| row["ended_at"].is_string()).await;
    let log = scene.audit(&format!("host_id={}", scene.host.id)).await;
    let events: Vec<&str> = log.iter().map(|entry| entry["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["ssh_terminal_closed", "ssh_terminal_opened", "ssh_terminal_access_granted"]);
    let target = format!("{}@{}", scene.ssh.user(), scene.ssh.address());
    for entry in &log {
        assert_eq!((&entry["username"], &entry["host_name"]), (&json!("admin"), &json!("web-1")), "{entry}");
        assert!(entry["address"].as_str().unwrap().starts_with("127."), "{entry}");
    }
    for entry in &log[..2] {
        assert_eq!((&entry["mode"], &entry["target"]), (&json!("direct"), &json!(target)), "{entry}");
    }
    assert_eq!(log[0]["reason"], "the shell ended");
    assert_eq!(log[0]["bytes_in"], "exit 3\r".len());
    assert!(log[0]["bytes_out"].as_i64().unwrap() > 0 && log[0]["duration_ms"].as_i64().unwrap() >= 0, "{}", log[0]);
    let session = log[0]["session_id"].as_str().unwrap();
    assert_eq!(scene.audit(&format!("session_id={session}")).await.len(), 2);
    assert_eq!(scene.audit("until=2020-01-01T00:00:00Z").await.len(), 0);
    let bad = scene.admin.get("/audit?from=yesterday").await.unwrap();
    assert_eq!((bad.status.as_u16(), bad.body["error"].as_str()), (400, Some("from must be a time as in RFC 3339")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_plays_what_was_written_and_nothing_that_was_typed() {
    let scene = Scene::with(Variant::Password, &[]).await;
    // Off by default, on for this host.
    drop(scene.shell().await);
    let path = format!("/hosts/{}/terminals", scene.host.id);
    let put = async |change: Value| scene.admin.call(reqwest::Method::PUT, &path, Some(&change)).await.unwrap();
    assert_eq!(put(json!({"record": true})).await.status, 200);
    let mut terminal = scene.shell().await;
    terminal.resize(77, 11).await;
    terminal.input("stty -echo; echo s''hown; read secret\r").await;
    terminal.until("shown\r\n", PATIENCE).await.unwrap();
    terminal.input("hunter2-typed-unseen\r").await;
    terminal.input("stty echo; exit\r").await;
    terminal.until_closed(PATIENCE).await.unwrap();
    let row = scene.row(|row| row["ended_at"].is_string() && row["recorded"] == true).await;
    let id = row["id"].as_str().unwrap();

    let list = scene.admin.get("/recordings").await.unwrap().ok().unwrap();
    let items = list["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["terminal"]["id"]), (1, &json!(id)), "{list}");
    let request = scene.admin.request(reqwest::Method::GET, &format!("/recordings/{id}"));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "application/x-asciicast");
    let cast = answer.text().await.unwrap();
    assert_eq!(cast.len() as u64, items[0]["bytes"].as_u64().unwrap());
    let mut lines = cast.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let header = lines.next().unwrap();
    assert_eq!((&header["version"], &header["width"], &header["height"]), (&json!(2), &json!(80), &json!(24)));
    let (mut shown, mut last, mut sizes) = (String::new(), 0.0, Vec::new());
    for event in lines {
        let at = event[0].as_f64().unwrap();
        assert!(at >= last, "{event}");
        last = at;
        match event[1].as_str().unwrap() {
            "o" => shown.push_str(event[2].as_str().unwrap()),
            "r" => sizes.push(event[2].as_str().unwrap().to_owned()),
            other => panic!("{other}"),
        }
    }
    assert!(shown.contains("shown\r\n") && !cast.contains("hunter2-typed-unseen"), "{shown:?}");
    assert!(!cast.contains(scene.ssh.password()));
    assert_eq!(sizes, ["77x11"]);
    assert_eq!(scene.audit("event=recording_read").await.len(), 1);

    let gone = scene.admin.call(reqwest::Method::DELETE, &format!("/recordings/{id}"), None).await.unwrap();
    assert_eq!(gone.status, 204);
    assert_eq!(scene.admin.get(&format!("/recordings/{id}")).await.unwrap().status, 404);
    assert_eq!(put(json!({"record": "yes"})).await.status, 400);
}

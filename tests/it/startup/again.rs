//! Stops and starts: in order, by SIGKILL, and beside another server.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tests::{
    internal,
    raw::{PATIENCE, Wire},
};

use crate::{
    cli::{patchbay, run},
    harness::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_finds_everything_again() {
    let mut server = Server::start().await;
    let admin = server.admin().await;
    let host = server.add_hosts("host", 1).await.remove(0);
    let secret = std::fs::read(server.data_dir().join("secret")).unwrap();
    let mut agent = Wire::agent(&server.target(), &host).await.unwrap();
    // An hour of waiting is nothing that a start may lose.
    let answer =
        admin.command("settings_update", &[&host.id], Some(serde_json::json!({"update_interval": 30}))).await.unwrap();
    let id = answer.ok().unwrap()["commands"][0]["id"].as_str().unwrap().to_owned();

    server.terminate();
    loop {
        let frame = agent.frame().await.unwrap();
        if let Some(code) = frame.close_code() {
            assert_eq!(code, 1001);
            break;
        }
    }
    assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(0));
    server.wait_log("stopped", Duration::ZERO).await;
    assert!(!server.data_dir().join("admin.sock").exists(), "the socket was left");
    server.restart().await;
    let same = admin.get("/auth/me").await.unwrap();
    assert_eq!(same.status, 200, "the session: {same:?}");
    assert_eq!(server.admin().await.get("/hosts").await.unwrap().body["items"][0]["id"], host.id.as_str());
    assert!(admin.command_row(&id).await.is_ok());
    assert_eq!(std::fs::read(server.data_dir().join("secret")).unwrap(), secret);
    Wire::agent(&server.target(), &host).await.unwrap().ping(b"again").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_sigkill_nobody_is_shown_as_connected_and_all_is_there() {
    let mut server = Server::start().await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 2).await;
    let agent = Wire::agent(&server.target(), &hosts[0]).await.unwrap();
    assert_eq!(admin.get("/ws/status/summary").await.unwrap().body["connected"], 1);
    server.kill();
    drop(agent);
    assert!(server.data_dir().join("admin.sock").exists(), "the dead leave their socket");
    // Admin commands do not fall for it.
    let listed = patchbay(&server, &["host", "list", "--json"]).await.json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    server.restart().await;
    assert_eq!(admin.get("/ws/status/summary").await.unwrap().body["connected"], 0);
    assert_eq!(admin.get("/hosts?connected=true").await.unwrap().body["items"], serde_json::json!([]));
    let mut again = Wire::agent(&server.target(), &hosts[0]).await.unwrap();
    again.ping(b"again").await.unwrap();
    assert_eq!(admin.get("/ws/status/summary").await.unwrap().body["connected"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_and_a_taken_port_are_one_line() {
    let server = Server::start().await;
    let pid = server.pid().unwrap().to_string();
    // On the same data dir: the lock says more than the port would.
    let line = run(server.command(), "").await.refusal().to_owned();
    let dir = server.data_dir().to_str().unwrap();
    assert!(
        line.contains("another Patchbay holds the data directory") && line.contains(dir) && line.contains(&pid),
        "{line}"
    );
    // Another data dir, the same ports.
    for (setting, other, port) in [
        ("PATCHBAY_LISTEN", "PATCHBAY_INTERNAL_LISTEN", server.url().replace("http://", "")),
        ("PATCHBAY_INTERNAL_LISTEN", "PATCHBAY_LISTEN", server.internal_url().replace("http://", "")),
    ] {
        let second = Server::prepare(&[(setting, port.as_str()), (other, "127.0.0.1:0")]);
        let line = run(second.command(), "").await.refusal().to_owned();
        assert!(line.contains(&port) && line.contains(setting) && line.contains("in use"), "{line}");
    }
    assert_eq!(internal::readyz(&server.internal_url()).await.unwrap(), 200, "the first one is undisturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_by_command_and_by_signal_end_it_in_order_and_a_second_signal_at_once() {
    let mut server = Server::start_with(&[("PATCHBAY_DRAIN_SECS", "60")]).await;
    let hosts = server.add_hosts("host", 20).await;
    let mut agents = Vec::new();
    for host in &hosts {
        agents.push(Wire::agent(&server.target(), host).await.unwrap());
    }
    let drained = patchbay(&server, &["drain", "--json"]).await.json();
    assert_eq!(drained["draining"], true);
    server.wait_log("draining", PATIENCE).await;
    // Who has no time for all of that says it again; the drain was the first word.
    let pid = Pid::from_raw(i32::try_from(server.pid().unwrap()).unwrap()).unwrap();
    server.terminate();
    server.wait_log("already stopping", PATIENCE).await;
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(130));
    let nobody = patchbay(&server, &["drain"]).await;
    assert!(nobody.refusal().contains("no server runs"), "{nobody:?}");
    server.set_env("PATCHBAY_DRAIN_SECS", None);
    server.restart().await;
    assert_eq!(patchbay(&server, &["drain"]).await.code, Some(0));
    assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(0));
}

//! `patchbay gateway` and `patchbay worker` on their own: their start, what keeps them from it, and their end. That they do
//! what the one process does, the other suites show with `PATCHBAY_TEST_ON=split`.

use std::time::Duration;

use serde_json::json;
use tests::raw::{self, PATIENCE, Wire};

use crate::{
    cli::{patchbay, run},
    harness::Server,
};

async fn started(env: &[(&str, &str)]) -> Server {
    let mut server = Server::spread_out(env);
    server.restart().await;
    server
}

/// Starts a role with something wrong, and gives the one line that it says.
async fn refusal(role: &str, env: &[(&str, &str)]) -> String {
    let server = Server::spread_out(&[]);
    let mut command = server.command();
    command.arg(role).envs(env.iter().copied());
    run(command, "").await.refusal().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_or_a_bus_that_cannot_be_used_is_one_line_without_the_password() {
    let nobody = "127.0.0.1:9";
    let (database, bus) = (format!("postgres://ann:hunter2@{nobody}/d"), format!("nats://ann:hunter2@{nobody}"));
    for (role, name, url) in [
        ("gateway", "DATABASE_URL", &database),
        ("worker", "PATCHBAY_BUS_URL", &bus),
        ("gateway", "PATCHBAY_BUS_URL", &bus),
    ] {
        let line = refusal(role, &[(name, url)]).await;
        assert!(line.contains(nobody) && !line.contains("hunter2"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_user_is_made_once_whoever_starts_first() {
    let mut server = Server::spread_out(&[("PATCHBAY_ADMIN_PASSWORD", "")]);
    server.restart().await;
    let made = server.logs().iter().filter(|line| line.contains("created the first user")).count();
    assert_eq!(made, 1);
    let password = std::fs::read_to_string(server.data_dir().join("admin-password")).unwrap();
    tests::admin::Admin::login(&server.url(), "admin", password.trim()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_commands_reach_live_sockets_over_the_bus() {
    let server = started(&[]).await;
    let added = patchbay(&server, &["host", "add", "web-14", "--json"]).await.json();
    let text = |name: &str| added[name].as_str().unwrap().to_owned();
    let host = tests::credentials::Credentials {
        id: text("id"),
        name: text("name"),
        api_id: text("api_id"),
        api_key: text("api_key"),
    };
    let mut wire = Wire::agent(&server.target(), &host).await.unwrap();
    wire.ping(b"here").await.unwrap();
    let listed = patchbay(&server, &["host", "list", "--json"]).await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
    patchbay(&server, &["host", "rotate-key", &host.id, "--json"]).await.json();
    assert_eq!(wire.closed().await.unwrap(), Some(4401));
    assert!(Wire::agent(&server.target(), &host).await.is_err(), "the old key is no longer good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_drained_by_command_and_leaves_nobody_behind() {
    let mut server = started(&[("PATCHBAY_DRAIN_SECS", "4")]).await;
    let hosts = server.add_hosts("host", 21).await;
    let mut sockets = Vec::new();
    for host in &hosts[..20] {
        sockets.push(Wire::agent(&server.target(), host).await.unwrap());
    }
    assert_eq!(patchbay(&server, &["drain", "--json"]).await.json(), json!({"draining": true}));
    server.wait_log("draining", PATIENCE).await;
    for mut socket in sockets {
        assert_eq!(socket.closed().await.unwrap(), Some(1001));
        let _ = socket.write(&raw::frame(raw::CLOSE, &1001_u16.to_be_bytes())).await;
    }
    assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(0));
    let nobody = patchbay(&server, &["drain"]).await;
    assert!(nobody.refusal().contains("PATCHBAY_INTERNAL_LISTEN"), "{nobody:?}");
    server.restart().await;
    let summary = server.admin().await.get("/hosts?connected=true").await.unwrap().ok().unwrap();
    assert_eq!(summary["items"].as_array().map(Vec::len), Some(0), "a hint was left: {summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_ends_and_the_next_goes_on() {
    let mut server = started(&[]).await;
    let hosts = server.add_hosts("host", 30).await;
    let fleet = server.fleet(&crate::commands::scene::quiet(), &hosts);
    fleet.all_connected(Duration::from_secs(60)).await.unwrap();
    let admin = server.admin().await;
    let asked = admin.post("/commands", &json!({"kind": "report_now", "all": true, "spread_secs": 3})).await.unwrap();
    assert_eq!(asked.status, 202);
    server.stop_worker().await;
    server.start_worker().await;
    let batch = asked.body["batch_id"].as_str().unwrap().to_owned();
    let done = async {
        loop {
            let rows = admin.get(&format!("/commands?batch_id={batch}&limit=100")).await.unwrap().ok().unwrap();
            let rows = rows["items"].as_array().unwrap().clone();
            if rows.len() == 30 && rows.iter().all(|row| row["state"] == "succeeded") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE * 4, done).await.expect("some were left");
}

//! `patchbay check`: an agent of a host of its own connects, a command is delivered to it, and nothing is left behind.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tests::raw::PATIENCE;
use tokio::time::{sleep, timeout};

use crate::{cli::patchbay, harness::Server};

async fn hosts(server: &Server) -> usize {
    let list = server.admin().await.get("/hosts").await.unwrap().ok().unwrap();
    list["items"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_is_checked_through_its_front_door() {
    let mut server = Server::spread_out(&[]);
    server.restart().await;
    let told = patchbay(&server, &["--json", "check", &server.url()]).await.json();
    let millis = |name: &str| told[name].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
    assert!(millis("frame_ms") <= millis("delivered_ms"), "{told}");
    assert_eq!(hosts(&server).await, 0, "its host is gone");

    let nobody = patchbay(&server, &["check", "http://127.0.0.1:1"]).await;
    assert!(nobody.refusal().starts_with("cannot connect to 127.0.0.1:1: "), "{nobody:?}");
    assert_eq!(hosts(&server).await, 0, "its host is gone, though it failed");
    let no_url = patchbay(&server, &["check", "patchbay:3001"]).await;
    assert!(no_url.refusal().contains("is not http://HOST[:PORT]"), "{no_url:?}");

    let rows = server.admin().await.commands("").await.unwrap();
    let states: Vec<_> = rows.iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert!(states.iter().all(|state| *state == "delivered"), "nothing of it looks failed: {states:?}");
    let too_high = patchbay(&server, &["check", "http://127.0.0.1:99999"]).await;
    assert!(too_high.refusal().contains("is not http://HOST[:PORT]"), "{too_high:?}");

    let live: serde_json::Value =
        reqwest::get(format!("{}/livez", server.internal_url())).await.unwrap().json().await.unwrap();
    let version = patchbay(&server, &["--version"]).await.out;
    assert_eq!(format!("patchbay {}\n", live["version"].as_str().unwrap()), version);
    assert!(version.starts_with(concat!("patchbay ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_leaves_no_host_behind() {
    let mut server = Server::spread_out(&[]);
    server.restart().await;
    server.kill_worker();
    let mut command = server.command();
    let mut child = command.args(["check", &server.url()]).stderr(Stdio::null()).spawn().unwrap();
    let asked = async {
        while server.admin().await.commands("").await.unwrap().is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE * 4, asked).await.expect("no command was asked for");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let code = tokio::task::spawn_blocking(move || child.wait().unwrap().code());
    assert_eq!(timeout(PATIENCE * 4, code).await.expect("it does not end").unwrap(), Some(1));
    assert_eq!(hosts(&server).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_tables_is_told_and_left_as_it_is() {
    let server = Server::spread_out(&[]);
    for args in [&["host", "list"][..], &["check", "http://127.0.0.1:1"][..]] {
        let refused = patchbay(&server, args).await;
        assert!(refused.refusal().contains("has no tables of Patchbay; `patchbay migrate` makes them"), "{refused:?}");
    }
    assert_eq!(patchbay(&server, &["migrate"]).await.code, Some(0));
    assert_eq!(patchbay(&server, &["host", "list"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_alone_is_not_what_it_checks() {
    let server = Server::embedded(&[]);
    let refused = patchbay(&server, &["check", &server.url()]).await;
    assert!(refused.refusal().contains("DATABASE_URL"), "{refused:?}");
}

//! `patchbay check`: an agent of a host of its own connects, a command is delivered to it, and nothing is left behind.

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

    let live: serde_json::Value =
        reqwest::get(format!("{}/livez", server.internal_url())).await.unwrap().json().await.unwrap();
    let version = patchbay(&server, &["--version"]).await.out;
    assert_eq!(format!("patchbay {}\n", live["version"].as_str().unwrap()), version);
    assert!(version.starts_with(concat!("patchbay ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_alone_is_not_what_it_checks() {
    let server = Server::embedded(&[]);
    let refused = patchbay(&server, &["check", &server.url()]).await;
    assert!(refused.refusal().contains("DATABASE_URL"), "{refused:?}");
}

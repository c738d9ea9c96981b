//! `patchbay host …`, with and without a server.

use serde_json::Value;
use tests::{
    credentials::Credentials,
    raw::{PATIENCE, Wire},
};

use crate::{cli::patchbay, harness::Server};

fn column<'a>(listed: &'a Value, name: &str) -> Vec<&'a Value> {
    listed["items"].as_array().unwrap().iter().map(|row| &row[name]).collect()
}

async fn add(server: &Server, name: &str) -> Credentials {
    serde_json::from_value(patchbay(server, &["host", "add", name, "--json"]).await.json()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_managed_the_same_with_and_without_a_server() {
    let mut server = Server::prepare(&[]);
    let mut made = Vec::new();
    for running in [false, true] {
        if running {
            server.restart().await;
        }
        let name = if running { "with" } else { "without" };
        let host = add(&server, name).await;
        assert_eq!((host.name.as_str(), host.api_key.len()), (name, 64));
        assert!(host.api_id.starts_with("patchmon_"), "{host:?}");
        let twice = patchbay(&server, &["host", "add", name]).await;
        assert!(twice.refusal().contains("exists already"), "{twice:?}");
        for bad in ["", "a\tb"] {
            assert!(patchbay(&server, &["host", "add", bad]).await.refusal().contains("name"), "{bad:?}");
        }
        for command in ["remove", "rotate-key"] {
            let unknown = patchbay(&server, &["host", command, "0194d0d8-0000-7000-8000-000000000099"]).await;
            assert!(unknown.refusal().to_lowercase().contains("host"), "{command}: {unknown:?}");
        }
        made.push(host);
        let listed = patchbay(&server, &["host", "list", "--json"]).await.json();
        let mut names: Vec<_> = column(&listed, "name").iter().map(|name| name.as_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names.len(), made.len(), "{listed}");
        assert!(!listed.to_string().contains("api_key"), "{listed}");
    }
    // Both can connect, and people see it.
    let mut sockets = Vec::new();
    for host in &made {
        sockets.push(Wire::agent(&server.target(), host).await.unwrap());
    }
    let table = patchbay(&server, &["host", "list"]).await.out;
    assert!(table.starts_with("NAME") && table.lines().count() == 3, "{table}");
    assert!(table.contains(&made[0].api_id) && table.contains("yes") && !table.contains(&made[0].api_key), "{table}");
    // For people the credentials come with the line to type on the host.
    let told = patchbay(&server, &["host", "add", "for people"]).await.out;
    assert!(told.contains("patchmon-agent config set-api patchmon_") && told.contains(&server.url()), "{told}");
    assert!(told.contains("shown this once"), "{told}");
    assert!(!server.logs().iter().any(|line| made.iter().any(|host| line.contains(&host.api_key))), "a key was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_changes_reaches_live_sockets_at_once() {
    let mut server = Server::start().await;
    let target = server.target();
    let (first, second) = (add(&server, "first").await, add(&server, "second").await);
    let mut removed = Wire::agent(&target, &first).await.unwrap();
    let mut rotated = Wire::agent(&target, &second).await.unwrap();
    let answer = patchbay(&server, &["host", "remove", &first.id]).await;
    assert_eq!(answer.code, Some(0), "{answer:?}");
    assert_eq!(removed.closed().await.unwrap(), Some(4401));
    let fresh = patchbay(&server, &["host", "rotate-key", &second.id, "--json"]).await.json();
    let fresh: Credentials = serde_json::from_value(fresh).unwrap();
    assert_eq!(rotated.closed().await.unwrap(), Some(4401));
    for old in [&first, &second] {
        assert!(Wire::agent(&target, old).await.unwrap_err().to_string().starts_with("401"));
    }
    Wire::agent(&target, &fresh).await.unwrap().ping(b"the new key").await.unwrap();
    // Also by what people call it.
    let third = add(&server, "third").await;
    let mut named = Wire::agent(&target, &third).await.unwrap();
    assert_eq!(patchbay(&server, &["host", "remove", "third"]).await.code, Some(0));
    assert_eq!(named.closed().await.unwrap(), Some(4401));
    // And what is changed while nobody serves is so when somebody does.
    assert!(server.stop(PATIENCE).await.success());
    assert_eq!(patchbay(&server, &["host", "remove", &fresh.api_id]).await.code, Some(0));
    server.restart().await;
    assert!(Wire::agent(&target, &fresh).await.unwrap_err().to_string().starts_with("401"));
    let none = patchbay(&server, &["host", "list"]).await;
    assert_eq!(none.out, "none\n");
}

//! `patchbay user …`, with and without a server.

use tests::admin::Admin;

use crate::{
    cli::{patchbay, patchbay_with},
    harness::Server,
};

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_the_same_with_and_without_a_server() {
    let mut server = Server::prepare(&[]);
    let mut made = Vec::new();
    for running in [false, true] {
        if running {
            server.restart().await;
        }
        let name = if running { "ann" } else { "Bob" };
        let user = patchbay(&server, &["user", "add", name, "--role", "host_manager", "--json"]).await.json();
        assert_eq!((&user["username"], &user["role"]), (&name.into(), &"host_manager".into()), "{user}");
        let password = user["password"].as_str().unwrap().to_owned();
        assert!(password.len() >= 20, "{user}");
        made.push((name, password));
        let lower = name.to_lowercase();
        for taken in [name, lower.as_str()] {
            let twice = patchbay(&server, &["user", "add", taken, "--role", "readonly"]).await;
            assert!(twice.refusal().contains("exists already"), "{twice:?}");
        }
        let unknown = patchbay(&server, &["user", "add", "cid", "--role", "hostmanager"]).await;
        assert!(unknown.refusal().contains("role") && unknown.err.contains("host_manager"), "{unknown:?}");
        let nothing =
            patchbay_with(&server, &["user", "add", "cid", "--role", "readonly", "--password-stdin"], "").await;
        assert!(nothing.refusal().contains("stdin"), "{nothing:?}");
    }
    for (name, password) in &made {
        let client = Admin::login(&server.url(), name, password).await.unwrap();
        assert_eq!(client.get("/auth/me").await.unwrap().body["user"]["username"], *name);
    }
    let told = patchbay(&server, &["user", "add", "for-people", "--role", "readonly"]).await.out;
    assert!(told.contains("password") && told.contains("shown this once"), "{told}");
    for line in server.logs() {
        assert!(!made.iter().any(|(_, password)| line.contains(password)), "a password was logged: {line}");
    }
    // No password is ever an argument, where others could read it.
    let given = patchbay(&server, &["user", "passwd", "ann", "a-password-as-argument"]).await;
    assert_eq!(given.code, Some(2), "{given:?}");
}

//! The first start: what it makes, and who may read it.

use std::time::Duration;

use tests::{admin::Admin, raw::PATIENCE};

use super::mode;
use crate::{
    cli::{patchbay, patchbay_with, run},
    harness::{PASSWORD, Server},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_a_private_data_dir_and_keeps_its_password_out_of_the_log() {
    let mut server = Server::prepare(&[("PATCHBAY_ADMIN_PASSWORD", "")]);
    let dir = server.data_dir().to_owned();
    server.restart().await;
    for file in ["secret", "admin-password", "patchbay.db", "admin.sock", "patchbay.lock"] {
        assert_eq!(mode(&dir.join(file)), 0o600, "{file}");
    }
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{} is for others too", path.display());
    }
    let secret = std::fs::read_to_string(dir.join("secret")).unwrap();
    assert!(secret.trim().len() >= 32);
    let password = std::fs::read_to_string(dir.join("admin-password")).unwrap().trim().to_owned();
    let said = server.wait_log("created the first user", PATIENCE).await;
    assert!(said.contains(dir.join("admin-password").to_str().unwrap()), "{said}");
    assert!(said.contains("admin"), "{said}");
    let admin = Admin::login(&server.url(), "admin", &password).await.unwrap();
    assert_eq!(admin.get("/auth/me").await.unwrap().body["user"]["role"], "superadmin");
    assert!(server.stop(PATIENCE).await.success());
    for line in server.logs() {
        assert!(!line.contains(&password) && !line.contains(secret.trim()), "a secret in the log: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_dir_is_made_with_its_parents_for_its_user_only() {
    let mut server = Server::prepare(&[]);
    let dir = server.data_dir().join("var/lib/patchbay");
    server.set_env("PATCHBAY_DATA_DIR", dir.to_str());
    server.restart().await;
    assert_eq!(mode(&dir), 0o700);
    assert!(dir.join("patchbay.db").exists());
    assert!(server.stop(PATIENCE).await.success());
    // Given passwords and secrets are taken as they are, and leave no file behind.
    assert!(!dir.join("admin-password").exists());
    let said = server.wait_log("created the first user", Duration::ZERO).await;
    assert!(said.contains("PATCHBAY_ADMIN_PASSWORD") && !said.contains(PASSWORD), "{said}");
}

/// On a terminal a person is there to read it, once.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_terminal_the_first_password_is_shown_once() {
    let server = Server::prepare(&[("PATCHBAY_ADMIN_PASSWORD", ""), ("TERM", "dumb")]);
    let on_terminal = || {
        // util-linux's `script` runs it on a terminal of its own.
        let inner = server.command();
        let mut command = std::process::Command::new("script");
        command.args(["-qec", &format!("{} migrate", inner.get_program().to_str().unwrap()), "/dev/null"]);
        command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(server.data_dir());
        run(command, "")
    };
    let first = on_terminal().await;
    assert_eq!(first.code, Some(0), "{first:?}");
    let line = first.out.lines().find(|line| line.contains("First start")).unwrap_or_else(|| panic!("{first:?}"));
    let password = line.split("Password: ").nth(1).unwrap().trim();
    assert!(!server.data_dir().join("admin-password").exists());
    let second = on_terminal().await;
    assert!(!second.out.contains("Password"), "{second:?}");
    let mut server = server;
    server.restart().await;
    Admin::login(&server.url(), "admin", password).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_any_allowed_length_is_good_for_a_login() {
    let longest = "ä".repeat(35);
    let mut server = Server::prepare(&[("PATCHBAY_ADMIN_PASSWORD", &longest)]);
    server.restart().await;
    Admin::login(&server.url(), "admin", &longest).await.unwrap();
    for length in [11, 12, 71, 72] {
        let (name, password) = (format!("user-{length}"), "p".repeat(length));
        let args = ["user", "add", &name, "--role", "readonly", "--password-stdin"];
        let ran = patchbay_with(&server, &args, &password).await;
        if !(12..=71).contains(&length) {
            assert!(ran.refusal().contains("bytes"), "{length}: {ran:?}");
            continue;
        }
        assert_eq!(ran.code, Some(0), "{length}: {ran:?}");
        Admin::login(&server.url(), &name, &password).await.unwrap();
        // Nothing is cut off: one byte less or more is another password.
        for other in [&password[1..], &format!("{password}p")] {
            assert!(Admin::login(&server.url(), &name, other).await.is_err(), "{length}: {} fit too", other.len());
        }
    }
    assert_eq!(patchbay(&server, &["host", "list", "--json"]).await.json(), serde_json::json!({"items": []}));
}

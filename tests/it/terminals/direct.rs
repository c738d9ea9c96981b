//! Shells over SSH from the gateway.

use serde_json::json;
use tests::{
    services::openssh::{KeyKind, OpenSsh, PASSPHRASE, Variant},
    terminal::Heard,
};

use super::scene::{PATIENCE, Scene, report};
use crate::cli::patchbay;

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_is_opened_typed_into_resized_and_left() {
    let scene = Scene::new().await;
    let mut terminal = scene.open().await;
    terminal.connect(scene.login_with(&json!({"cols": 101, "rows": 33}))).await;
    terminal.connected(PATIENCE).await.unwrap();
    terminal.until("$ ", PATIENCE).await.unwrap();
    terminal.input("stty size; echo $TERM; echo 'dä€🦀ß'\r").await;
    let said = terminal.until("dä€🦀ß\r\n", PATIENCE).await.unwrap();
    assert!(said.contains("33 101\r\n") && said.contains("xterm-256color\r\n"), "{said:?}");
    terminal.resize(55, 22).await;
    terminal.input("stty size\r").await;
    terminal.until("22 55\r\n", PATIENCE).await.unwrap();
    terminal.input("exit 7\r").await;
    terminal.until_closed(PATIENCE).await.unwrap();
    let row = scene.row(|row| row["ended_at"].is_string()).await;
    assert_eq!((&row["exit_status"], &row["reason"]), (&json!(7), &json!("the shell ended")), "{row}");
    // The socket opens another one.
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
    terminal.disconnect().await;
    terminal.until_closed(PATIENCE).await.unwrap();
    scene.ssh.wait_sessions(0).await;
    assert_eq!(scene.row(|row| row["ended_at"].is_string()).await["reason"], "the user ended it");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_key_opens_a_shell() {
    let scene = Scene::new().await;
    let mut terminal = scene.open().await;
    for kind in KeyKind::all() {
        let mut login = json!({"username": scene.ssh.user(), "port": scene.ssh.address().port()});
        login["privateKey"] = scene.ssh.key(kind).into();
        if kind.encrypted {
            login["passphrase"] = PASSPHRASE.into();
        }
        terminal.connect(login).await;
        match terminal.next(PATIENCE).await {
            Some(Heard::Connected) => {}
            other => panic!("{kind:?}: {other:?}"),
        }
        terminal.disconnect().await;
        terminal.until_closed(PATIENCE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_asks_questions_is_answered() {
    let scene = Scene::with(Variant::Questions, &[]).await;
    let mut terminal = scene.shell().await;
    terminal.input("echo it w''orks\r").await;
    terminal.until("it works\r\n", PATIENCE).await.unwrap();
    let mut other = scene.open().await;
    let wrong = scene.login_with(&json!({"password": "wrong"}));
    let error = scene.refusal(&mut other, &wrong).await;
    assert!(error.starts_with("Failed to connect: the host refused the login"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_named_and_the_socket_stays() {
    let scene = Scene::with(Variant::Password, &[("RUST_LOG", "debug,sqlx=info,hyper=info")]).await;
    let mut terminal = scene.open().await;
    let secret = "hunter2-and-more";
    let key = scene.ssh.key(KeyKind::all().into_iter().find(|kind| kind.encrypted).unwrap());
    for (change, why) in [
        (json!({"password": secret}), "Failed to connect: the host refused the login; it takes publickey, password"),
        (json!({"username": "nobody-here"}), "Failed to connect: the host refused the login"),
        (json!({"password": null}), "No authentication method provided (password or private key required)"),
        (json!({"password": null, "privateKey": secret}), "Failed to parse private key"),
        (json!({"password": null, "privateKey": key}), "Failed to parse private key: The key is encrypted"),
        (json!({"password": null, "privateKey": key, "passphrase": secret}), "Failed to parse private key"),
        (json!({"port": 0}), "Invalid port (must be 1-65535)"),
        (json!({"port": "22abc"}), "Invalid port (must be 1-65535)"),
        (json!({"port": 1}), "PATCHBAY_SSH_ALLOW"),
    ] {
        let error = scene.refusal(&mut terminal, &scene.login_with(&change)).await;
        assert!(error.contains(why), "{change}: {error}");
    }
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
    terminal.connect(scene.login()).await;
    let heard = terminal.until("never", PATIENCE).await.unwrap_err().to_string();
    assert!(heard.contains("Already connected"), "{heard}");
    terminal.input("echo still h''ere\r").await;
    terminal.until("still here\r\n", PATIENCE).await.unwrap();
    let part = &key[200..240];
    for line in server_lines(&scene) {
        for secret in [secret, scene.ssh.password(), part] {
            assert!(!line.contains(secret), "a secret in the log: {line}");
        }
    }
}

fn server_lines(scene: &Scene) -> Vec<String> {
    scene.server.logs()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_key_is_refused_until_somebody_says_that_it_is_right() {
    let scene = Scene::new().await;
    let known = scene.ssh.fingerprint();
    drop(scene.shell().await);
    let keys = scene.admin.get(&format!("/hosts/{}/ssh-keys", scene.host.id)).await.unwrap().ok().unwrap();
    assert_eq!(keys["items"][0]["fingerprint"], known.as_str(), "{keys}");
    scene.ssh.change_host_keys();
    let shown = scene.ssh.fingerprint();
    assert_ne!(known, shown);
    let mut terminal = scene.open().await;
    let error = scene.refusal(&mut terminal, &scene.login()).await;
    assert!(error.contains(&known) && error.contains(&shown), "{error}");
    let noted = scene.audit("event=ssh_host_key_changed").await;
    assert!(noted[0]["reason"].as_str().unwrap().contains(&shown), "{noted:?}");
    let path = format!("/hosts/{}/ssh-keys?port={}", scene.host.id, scene.ssh.address().port());
    let forgotten = scene.admin.call(reqwest::Method::DELETE, &path, None).await.unwrap().ok().unwrap();
    assert_eq!(forgotten, json!({"forgotten": 1}));
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
    // And by the command.
    scene.ssh.change_host_keys();
    let mut terminal = scene.open().await;
    scene.refusal(&mut terminal, &scene.login()).await;
    let listed = patchbay(&scene.server, &["host", "ssh-keys", "web-1", "--json"]).await.json();
    assert_eq!(listed["items"][0]["fingerprint"], shown.as_str(), "{listed}");
    let said = patchbay(&scene.server, &["host", "forget-ssh-keys", "web-1", "--json"]).await.json();
    assert_eq!(said["forgotten"], 1, "{said}");
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_this_machine_reaches_is_not_dialled_unless_it_is_named() {
    let scene = Scene::new().await;
    let mut terminal = scene.open().await;
    report(&scene.server, &scene.host, "127.0.0.1").await;
    let mut other = scene.open().await;
    for (ip, why) in [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("169.254.169.254", "169.254.169.254 is a link-local or metadata address"),
        ("::ffff:127.0.0.1", "127.0.0.1 is a loopback address"),
        ("[::1]", "has no address"),
    ] {
        report(&scene.server, &scene.host, ip).await;
        other = scene.open().await;
        let error = scene.refusal(&mut other, &scene.login()).await;
        assert!(error.contains(why), "{ip}: {error}");
    }
    // The address counts that the host has now, not when the socket was opened.
    report(&scene.server, &scene.host, &scene.ssh.address().ip().to_string()).await;
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_host_is_spoken_to_once_it_is_named() {
    let scene = Scene::with(Variant::Legacy, &[]).await;
    let mut terminal = scene.open().await;
    let error = scene.refusal(&mut terminal, &scene.login()).await;
    assert!(error.starts_with("Failed to connect"), "{error}");
    let path = format!("/hosts/{}/terminals", scene.host.id);
    let change = json!({"legacy_algorithms": true});
    let row = scene.admin.call(reqwest::Method::PUT, &path, Some(&change)).await.unwrap().ok().unwrap();
    assert_eq!(row["terminals"], json!({"legacy_algorithms": true, "record": null}));
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
    terminal.until("$ ", PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_nothing_is_given_up() {
    let scene = Scene::new().await;
    let silent = std::net::TcpListener::bind((scene.ssh.address().ip(), 0)).unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut scene = scene;
    scene.server.set_env("PATCHBAY_SSH_ALLOW", Some("127.0.0.0/8"));
    scene.server.kill();
    scene.server.restart().await;
    scene.admin = scene.server.admin().await;
    let mut terminal = scene.open().await;
    let error = scene.refusal(&mut terminal, &scene.login_with(&json!({"port": port}))).await;
    assert_eq!(error, "Failed to connect: no shell within 20 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_fails_ends_the_terminal() {
    let scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    scene.ssh.end_sessions();
    let heard = terminal.until("never", PATIENCE).await.unwrap_err().to_string();
    assert!(heard.contains("Error(") || heard.contains("Closed"), "{heard}");
    let row = scene.row(|row| row["ended_at"].is_string()).await;
    assert!(row["connected_at"].is_string(), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_screens_are_drawn_right() {
    let scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    terminal.input("printf 'first line\\nsecond line\\n' > note.txt; clear; vi note.txt\r").await;
    terminal.until_screen("second line", PATIENCE).await.unwrap();
    terminal.input("Gyyp:s/second/third/\r").await;
    terminal.until_screen("third line", PATIENCE).await.unwrap();
    let screen = terminal.screen();
    let rows: Vec<&str> = screen.lines().map(str::trim_end).collect();
    assert_eq!(&rows[..4], ["first line", "second line", "third line", "~"], "{screen}");
    terminal.input(":wq\r").await;
    terminal.until_screen("$ ", PATIENCE).await.unwrap();
    terminal.input("cat note.txt\r").await;
    terminal.until("second line\r\nthird line\r\n", PATIENCE).await.unwrap();
    terminal.input("top\r").await;
    terminal.until_screen("load average", PATIENCE).await.unwrap();
    terminal.until_screen("PID", PATIENCE).await.unwrap();
    terminal.input("q").await;
    terminal.until_screen("$ ", PATIENCE).await.unwrap();
    terminal.input("echo a''fter\r").await;
    terminal.until_screen("after", PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_not_named_is_not_reached() {
    let scene = Scene::new().await;
    let other = OpenSsh::start(Variant::Password);
    report(&scene.server, &scene.host, &other.address().ip().to_string()).await;
    let mut terminal = scene.open().await;
    let error = scene.refusal(&mut terminal, &scene.login()).await;
    assert!(error.contains("loopback address"), "{error}");
    assert_eq!(other.sessions(), 0);
}

//! Starts that cannot be: one clear line each, exit code 1, and nothing left behind.

use std::fs;

use crate::{
    cli::{patchbay, run},
    harness::Server,
};

async fn refusal(env: &[(&str, &str)]) -> String {
    run(Server::prepare(env).command(), "").await.refusal().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_are_named_with_what_was_meant() {
    for (name, value, says) in [
        ("PATCHBAY_LISTN", "127.0.0.1:1", "did you mean PATCHBAY_LISTEN?"),
        ("PATCHBAY_DATADIR", "/tmp", "did you mean PATCHBAY_DATA_DIR?"),
        ("PATCHBAY_COLOUR", "red", "PATCHBAY_COLOUR is not a setting"),
        ("PATCHBAY_LISTEN", "3001", "PATCHBAY_LISTEN"),
        ("PATCHBAY_LISTEN", "localhost:x", "PATCHBAY_LISTEN"),
        ("PATCHBAY_DRAIN_SECS", "soon", "PATCHBAY_DRAIN_SECS"),
        ("PATCHBAY_MAX_CONNECTIONS", "0", "PATCHBAY_MAX_CONNECTIONS"),
        ("PATCHBAY_TRUSTED_PROXIES", "10.0.0.0/40", "PATCHBAY_TRUSTED_PROXIES"),
        ("PATCHBAY_SECRET", "too-short", "PATCHBAY_SECRET"),
        ("PATCHBAY_ADMIN_PASSWORD", "short", "PATCHBAY_ADMIN_PASSWORD"),
        ("PATCHBAY_TLS_CERT", "/etc/chain.pem", "PATCHBAY_TLS_KEY"),
        ("PATCHBAY_BUS_URL", "nats://localhost:port", "PATCHBAY_BUS_URL"),
        ("DATABASE_URL", "mysql://localhost/patchbay", "DATABASE_URL"),
        ("PATCHBAY_CONFIG", "/nowhere/patchbay.toml", "/nowhere/patchbay.toml"),
        ("RUST_LOG", "inof", "did you mean info?"),
    ] {
        let line = refusal(&[(name, value)]).await;
        assert!(line.contains(says), "{name}={value}: {line}");
        // What is secret is not repeated.
        assert!(!["PATCHBAY_SECRET", "PATCHBAY_ADMIN_PASSWORD"].contains(&name) || !line.contains(value), "{line}");
    }
    // Kubernetes' service links are nobody's typing errors, and all that is wrong is told at once.
    let links = [("PATCHBAY_PORT", "tcp://10.0.0.1:80"), ("PATCHBAY_SERVICE_HOST", "10.0.0.1")];
    let wrong = [("PATCHBAY_LISTN", "x"), ("PATCHBAY_DRAIN_SECS", "soon")];
    let ran = run(Server::prepare(&[links, wrong].concat()).command(), "").await;
    assert_eq!((ran.code, ran.err.lines().count()), (Some(1), 2), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_dir_that_cannot_be_used_is_one_line() {
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    // Root may write anywhere but where there is no place: /proc takes no files from anybody.
    for dir in
        [file.clone(), file.join("below"), "/proc/sys".into(), "/proc/patchbay/data".into(), "/dev/null/data".into()]
    {
        let line = refusal(&[("PATCHBAY_DATA_DIR", dir.to_str().unwrap())]).await;
        assert!(line.contains("PATCHBAY_DATA_DIR") && line.contains(dir.to_str().unwrap()), "{line}");
        assert!(line.contains(": "), "no reason: {line}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a directory");
    // What is in it cannot be used: a database that is none, a secret cut short, a directory in a file's place.
    for (name, spoil, says) in [
        ("patchbay.db", Some("x".repeat(4096)), "patchbay.db"),
        ("patchbay.db", None, "patchbay.db"),
        ("secret", Some("short".to_owned()), "secret"),
        ("admin.sock", None, "admin.sock"),
    ] {
        let server = Server::prepare(&[]);
        let path = server.data_dir().join(name);
        match spoil {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::create_dir(&path).unwrap(),
        }
        let ran = run(server.command(), "").await;
        assert!(ran.refusal().contains(says), "{name}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_that_need_more_than_there_is_say_so() {
    let server = Server::embedded(&[]);
    for role in ["gateway", "worker"] {
        let ran = patchbay(&server, &[role]).await;
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(
            ran.err.contains("sqlite:") && ran.err.contains("PATCHBAY_SECRET") && ran.err.contains("memory:"),
            "{ran:?}"
        );
        assert!(ran.err.lines().all(|line| line.starts_with("patchbay: ")), "{ran:?}");
    }
    assert!(!server.data_dir().join("patchbay.db").exists(), "something was begun");
}

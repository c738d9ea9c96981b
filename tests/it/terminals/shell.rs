//! `patchbay login` and `patchbay ssh`, as a person runs them; without a terminal of their own, as a script does.

use serde_json::json;

use super::scene::Scene;
use crate::{cli::run, harness::PASSWORD};

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_from_a_shell() {
    let scene = Scene::new().await;
    let credentials = scene.server.data_dir().join("credentials.json");
    let client = |args: &[&str]| {
        let mut command = scene.server.command();
        command.args(args).env("PATCHBAY_CREDENTIALS", &credentials);
        command.env("PATCHBAY_SSH_PASSWORD", scene.ssh.password());
        command
    };
    let login = run(client(&["login", &scene.server.url(), "--username", "admin"]), &format!("{PASSWORD}\n")).await;
    assert_eq!(login.code, Some(0), "{login:?}");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&credentials).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let port = scene.ssh.address().port().to_string();
    let at = format!("{}@web-1", scene.ssh.user());
    let ran = run(client(&["ssh", &at, "-p", &port]), "echo from h''ere; exit 9\n").await;
    assert_eq!(ran.code, Some(9), "the remote exit status: {ran:?}");
    assert!(ran.out.contains("from here\r\n"), "{ran:?}");
    let refused = run(client(&["ssh", &at, "-p", "1"]), "").await;
    assert_eq!(refused.code, Some(255), "{refused:?}");
    assert!(refused.err.contains("PATCHBAY_SSH_ALLOW"), "{refused:?}");
    let nowhere = run(client(&["ssh", "web-9", "-p", &port]), "").await;
    assert_eq!(nowhere.code, Some(255), "{nowhere:?}");
    let out = run(client(&["logout"]), "").await;
    assert_eq!(out.code, Some(0), "{out:?}");
    assert_eq!(run(client(&["ssh", &at]), "").await.code, Some(255), "logged out");
    let rows = scene.admin.get("/terminals").await.unwrap().ok().unwrap();
    assert!(rows["items"].as_array().unwrap().iter().any(|row| row["exit_status"] == json!(9)), "{rows}");
}

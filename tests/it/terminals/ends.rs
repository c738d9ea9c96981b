//! How terminals end: what is taken away ends them at once, and says why.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::{
    admin::Admin,
    terminal::{Access, Heard, Terminal},
};

use super::scene::{PATIENCE, Scene, ticket};
use crate::{cli::patchbay_with, database::Database};

/// One second is promised.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Waits for the end: the error, and the close code.
async fn end(terminal: &mut Terminal) -> (String, Option<u16>) {
    let began = Instant::now();
    let mut why = String::new();
    loop {
        match terminal.next(PATIENCE).await {
            Some(Heard::Error(message)) => {
                assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
                why = message;
            }
            Some(Heard::Ended(end)) => return (why, end.code),
            Some(_) => {}
            None => panic!("it never ends"),
        }
    }
}

async fn ann(scene: &Scene) -> Admin {
    let password = "typing-all-day-long";
    let args = ["user", "add", "ann", "--role", "host_manager", "--password-stdin"];
    assert_eq!(patchbay_with(&scene.server, &args, password).await.code, Some(0));
    Admin::login(&scene.server.url(), "ann", password).await.unwrap()
}

async fn shell_of(scene: &Scene, client: &Admin) -> Terminal {
    let ticket = ticket(client, &scene.host.id).await;
    let mut terminal = Terminal::open(&scene.server.target(), &scene.host.id, Access::Ticket(&ticket)).await.unwrap();
    terminal.connect(scene.login()).await;
    terminal.connected(PATIENCE).await.unwrap();
    terminal.until("$ ", PATIENCE).await.unwrap();
    terminal
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_ends_the_terminal_and_says_why() {
    let scene = Scene::new().await;
    let mut database = Database::open(&scene.server).await;
    let ann = ann(&scene).await;

    let mut terminal = shell_of(&scene, &ann).await;
    assert_eq!(ann.post("/auth/logout", &json!({})).await.unwrap().status, 200);
    assert_eq!(end(&mut terminal).await, ("You have logged out".to_owned(), Some(1008)));
    scene.ssh.wait_sessions(0).await;
    assert_eq!(scene.row(|row| row["ended_at"].is_string()).await["reason"], "You have logged out");

    let password = "typing-all-day-long";
    let ann = Admin::login(&scene.server.url(), "ann", password).await.unwrap();
    let mut terminal = shell_of(&scene, &ann).await;
    let args = ["user", "passwd", "ann", "--password-stdin"];
    assert_eq!(patchbay_with(&scene.server, &args, "typing-all-night-long").await.code, Some(0));
    assert_eq!(end(&mut terminal).await.0, "Your account was changed or disabled");

    let mut terminal = scene.shell().await;
    let path = format!("/hosts/{}/rotate-key", scene.host.id);
    assert_eq!(scene.admin.post(&path, &json!({})).await.unwrap().status, 200);
    assert_eq!(end(&mut terminal).await, ("The host's key was replaced".to_owned(), Some(1008)));

    let mut terminal = scene.shell().await;
    let path = format!("/hosts/{}", scene.host.id);
    assert_eq!(scene.admin.call(reqwest::Method::DELETE, &path, None).await.unwrap().status, 204);
    assert_eq!(end(&mut terminal).await, ("The host was removed".to_owned(), Some(1008)));
    scene.ssh.wait_sessions(0).await;
    assert_eq!(database.number("SELECT COUNT(*) FROM terminal_sessions WHERE ended_at IS NULL").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_goes_leaves_no_shell_behind() {
    let scene = Scene::new().await;
    let terminal = scene.shell().await;
    scene.ssh.wait_sessions(1).await;
    terminal.close().await;
    scene.ssh.wait_sessions(0).await;
    let row = scene.row(|row| row["ended_at"].is_string()).await;
    assert_eq!(row["reason"], "the browser went away", "{row}");
    // And one that is cut off.
    drop(scene.shell().await);
    scene.ssh.wait_sessions(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_says_so_and_one_that_was_killed_leaves_no_open_row() {
    let mut scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    let stopping = scene.server.stop(PATIENCE);
    let (why, status) = tokio::join!(end(&mut terminal), stopping);
    assert_eq!(why, ("The server goes away, please connect again".to_owned(), Some(1001)));
    assert!(status.success());
    scene.server.restart().await;
    scene.admin = scene.server.admin().await;
    let row = scene.row(|row| row["ended_at"].is_string()).await;
    assert_eq!(row["reason"], "The server goes away, please connect again", "{row}");

    let mut terminal = scene.shell().await;
    scene.server.kill();
    assert_eq!(end(&mut terminal).await.1, None);
    scene.server.restart().await;
    scene.admin = scene.server.admin().await;
    let row = scene.row(|row| row["ended_at"].is_string()).await;
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("restarted") || reason.contains("gone"), "{row}");
    assert_eq!(scene.audit("event=ssh_terminal_closed").await.len(), 2);
}

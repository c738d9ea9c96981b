//! Shells that go well: typing, sizes, their end, and the next one on the same socket.

use serde_json::json;
use tests::terminal::Heard;

use super::scene::{PATIENCE, Scene, open, refused, writes};

const WRONG: &str =
    "Failed to connect: ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password]";

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_works_from_end_to_end_on_one_process() {
    works(&Scene::on_one(&open(), 2).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_works_between_two_gateways() {
    works(&Scene::on_two(&open(), 2).await).await;
}

async fn works(scene: &Scene) {
    for host in 0..scene.hosts.len() {
        let mut terminal = scene.socket(host).await;
        // What was refused leaves the socket as good as new.
        terminal.connect(scene.login_but("password", json!("wrong"))).await;
        refused(&mut terminal, WRONG).await;

        scene.connect(&mut terminal).await;
        writes(&mut terminal, "echo h\u{e9}llo \u{20ac} '\u{1f980}' '<&>' >&2", "h\u{e9}llo \u{20ac} \u{1f980} <&>")
            .await;
        writes(&mut terminal, "stty size; echo $TERM", "30 100\r\nxterm-256color").await;
        terminal.resize(132, 43).await;
        writes(&mut terminal, "stty size", "43 132").await;
        terminal.connect(scene.login()).await;
        refused(&mut terminal, "Already connected").await;
        terminal.input("exit 3\r").await;
        terminal.until_closed(PATIENCE).await.unwrap();

        // After its end, at once.
        scene.connect(&mut terminal).await;
        writes(&mut terminal, "sleep 30 || echo never", "").await;
        terminal.input("\u{3}").await;
        writes(&mut terminal, "echo sec''ond", "second").await;
        terminal.disconnect().await;
        terminal.until_closed(PATIENCE).await.unwrap();

        // After it was left, at once.
        scene.connect(&mut terminal).await;
        writes(&mut terminal, "echo thi''rd", "third").await;
        assert_eq!(scene.ssh.sessions(), 1, "those that were left are gone");
        // The page is left.
        let session = scene.sessions(host, "ssh_proxy").pop().unwrap();
        terminal.close().await;
        scene.told_to_close(host, &session, PATIENCE).await;
        scene.nothing_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_before_the_shell_is_open_is_kept_for_it() {
    for scene in [Scene::on_one(&open(), 1).await, Scene::on_two(&open(), 1).await] {
        let mut terminal = scene.socket(0).await;
        terminal.connect(scene.login()).await;
        terminal.resize(61, 17).await;
        terminal.input("echo ear''ly; stty size\r").await;
        assert_eq!(terminal.next(PATIENCE).await, Some(Heard::Connected));
        terminal.until("early\r\n17 61\r\n", PATIENCE).await.unwrap();
        // The agent, which would have thrown it away, got it when the shell was open.
        let kinds = ["ssh_proxy", "ssh_proxy_resize", "ssh_proxy_input"];
        let seqs = kinds.map(|kind| scene.log().frames(&scene.hosts[0].api_id, kind)[0].seq);
        assert!(seqs.is_sorted(), "{seqs:?}");
    }
}

//! Who may see and say what: passwords, other hosts' shells, and users who have left.

use std::{io::ErrorKind, net::SocketAddr};

use serde_json::json;
use tests::{internal, terminal::Heard};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use super::scene::{AT_ONCE, PATIENCE, Scene, open, refused, writes};
use crate::harness::Server;

const UNKNOWN: &str = "patchbay_frames_ignored_total{reason=\"unknown_session\"}";

/// Everything that goes over a bus, whoever it is for.
struct Spy {
    hears: JoinHandle<Vec<u8>>,
    write: tokio::net::tcp::OwnedWriteHalf,
}

impl Spy {
    async fn on(bus: SocketAddr) -> Self {
        let stream = TcpStream::connect(bus).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        let own = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\nSUB > 1\r\nPING\r\n";
        write.write_all(own).await.unwrap();
        let mut heard = Vec::new();
        // It is subscribed once that is answered.
        while !heard.ends_with(b"PONG\r\n") {
            assert!(read.read_buf(&mut heard).await.unwrap() > 0);
        }
        let hears = tokio::spawn(async move {
            loop {
                match read.read_buf(&mut heard).await {
                    Ok(0) => return heard,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => return heard,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        Self { hears, write }
    }

    /// What it has heard up to now.
    async fn heard(mut self) -> Vec<u8> {
        // The bus ends a connection that breaks its rules, after all that it had for it.
        self.write.write_all(b"PUB enough 0\r\n\r\nENOUGH\r\n").await.unwrap();
        tokio::time::timeout(PATIENCE, self.hears).await.unwrap().unwrap()
    }
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_on_the_bus_or_in_a_log() {
    let scene = Scene::on_two_with(&[("RUST_LOG", "debug")], &open(), 1).await;
    let spy = Spy::on(Server::bus_address()).await;
    let secrets = ["s3cret-words-of-a-user".to_owned(), scene.ssh.password().to_owned(), "s3cret-of-a-key".to_owned()];
    let mut terminal = scene.socket(0).await;
    terminal.connect(scene.login_but("password", json!(secrets[0]))).await;
    refused(&mut terminal, "Failed to connect: ssh: handshake failed").await;
    let mut login = scene.login_but("privateKey", json!("-----BEGIN s3cret-words-of-a-user"));
    login["passphrase"] = json!(secrets[2]);
    terminal.connect(login).await;
    refused(&mut terminal, "Failed to parse private key").await;
    scene.connect(&mut terminal).await;
    writes(&mut terminal, "echo ov''er", "over").await;
    terminal.disconnect().await;
    terminal.until_closed(PATIENCE).await.unwrap();
    scene.nothing_is_left().await;

    let heard = spy.heard().await;
    let session = scene.sessions(0, "ssh_proxy").pop().unwrap();
    let subject = format!("terminal.{}", uuid::Uuid::parse_str(&session).unwrap());
    assert!(contains(&heard, &subject) || contains(&heard, &session), "{} bytes, nothing of the terminal", heard.len());
    assert!(contains(&heard, "over"), "the output is there");
    let logs = [scene.browsers.logs(), scene.agents_gateway().logs()].concat();
    assert!(logs.iter().any(|line| line.contains("DEBUG")), "at the level that was asked for");
    for secret in &secrets {
        assert!(!contains(&heard, secret), "on the bus");
        let line = logs.iter().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_nothing_for_another_hosts_shell() {
    for scene in [Scene::on_one(&open(), 2).await, Scene::on_two(&open(), 2).await] {
        let (mut own, mut other) = (scene.shell(0).await, scene.shell(1).await);
        let session = &scene.sessions(0, "ssh_proxy")[0];
        let before = internal::value(&scene.agents_gateway().internal_url(), UNKNOWN).await.unwrap();
        for frame in [
            json!({"type": "ssh_proxy_data", "session_id": session, "data": "of a stranger"}),
            json!({"type": "ssh_proxy_error", "session_id": session, "message": "of a stranger"}),
            json!({"type": "ssh_proxy_closed", "session_id": session}),
        ] {
            scene.agent(1).send_text(&frame.to_string()).await;
        }
        let counted = |n: f64| n == before + 3.0;
        internal::wait(&scene.agents_gateway().internal_url(), UNKNOWN, counted).await.unwrap();
        let seen = writes(&mut own, "echo undis''turbed", "undisturbed").await;
        assert!(!seen.contains("stranger"), "{seen:?}");
        writes(&mut other, "echo undis''turbed", "undisturbed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_ends_its_terminals_at_once_and_no_others() {
    for scene in [Scene::on_one(&open(), 2).await, Scene::on_two(&open(), 2).await] {
        let user = scene.browsers.admin().await;
        let mut other = scene.shell(0).await;
        let mut own = scene.socket_of(&user, 1).await;
        scene.connect(&mut own).await;
        let session = scene.sessions(1, "ssh_proxy").pop().unwrap();
        assert_eq!(user.post("/auth/logout", &json!({})).await.unwrap().status, 200);
        assert_eq!(own.next(AT_ONCE).await, Some(Heard::Error("You have logged out".to_owned())));
        assert_eq!(own.next(AT_ONCE).await, Some(Heard::Closed));
        assert_eq!(own.ended(AT_ONCE).await.unwrap().code, Some(1008));
        scene.told_to_close(1, &session, PATIENCE).await;
        writes(&mut other, "echo undis''turbed", "undisturbed").await;
        scene.ssh.wait_sessions(1).await;
    }
}

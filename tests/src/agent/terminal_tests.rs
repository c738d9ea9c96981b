//! Terminals of agents, against a stand-in server and a real OpenSSH.

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{Agent, AgentConfig, Start};
use crate::{
    generation::Generation::{self, V1, V2},
    log::FrameLog,
    misbehaviour::{Hangup, Misbehaviour},
    services::openssh::{Algorithm, Format, KeyKind, OpenSsh, PASSPHRASE, Variant},
    standin::{ServerSocket, StandIn, host},
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Scene {
    stand_in: StandIn,
    socket: ServerSocket,
    agent: Agent,
}

impl Scene {
    async fn start(generation: Generation) -> Self {
        Self::with(AgentConfig { start: Start::Quiet, ssh_proxy: true, ..AgentConfig::fast(host(1), generation) }).await
    }

    async fn with(config: AgentConfig) -> Self {
        let mut stand_in = StandIn::start().await;
        let agent = Agent::start(config, &std::sync::Arc::new(stand_in.server.clone()), &FrameLog::counting());
        let socket = stand_in.socket().await;
        Self { stand_in, socket, agent }
    }

    async fn input(&mut self, id: &str, keys: &str) {
        self.socket.send(json!({"type": "ssh_proxy_input", "session_id": id, "data": keys})).await;
    }

    async fn disconnect(&mut self, id: &str) {
        self.socket.send(json!({"type": "ssh_proxy_disconnect", "session_id": id})).await;
    }

    /// The next message, which has to be of this kind and session.
    async fn heard(&mut self, kind: &str, id: &str) -> Value {
        let message = self.socket.text().await;
        assert_eq!((message["type"].as_str(), message["session_id"].as_str()), (Some(kind), Some(id)), "{message}");
        message
    }

    /// Output of this session until it has this text.
    async fn until(&mut self, id: &str, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            seen.push_str(self.heard("ssh_proxy_data", id).await["data"].as_str().unwrap());
        }
        seen
    }

    /// Whatever this session says until it is closed.
    async fn closed(&mut self, id: &str) {
        loop {
            let message = self.socket.text().await;
            assert_eq!(message["session_id"], id);
            match message["type"].as_str() {
                Some("ssh_proxy_data") => {}
                Some("ssh_proxy_closed") => return,
                _ => panic!("{message}"),
            }
        }
    }

    /// A shell that shows its prompt.
    async fn open(&mut self, ssh: &OpenSsh, id: &str) {
        self.socket.send(asked(ssh, id)).await;
        self.heard("ssh_proxy_connected", id).await;
        self.until(id, "$ ").await;
    }

    async fn error(&mut self, request: Value) -> String {
        let id = request["session_id"].as_str().unwrap().to_owned();
        self.socket.send(request).await;
        let message = self.heard("ssh_proxy_error", &id).await;
        assert_eq!(message["data"], message["message"]);
        message["message"].as_str().unwrap().to_owned()
    }

    /// Waits until everything sent so far was looked at: what comes next is no answer to it.
    async fn settled(&mut self) {
        let refused = json!({"type": "ssh_proxy", "session_id": "settled", "host": ""});
        self.error(refused).await;
    }
}

/// `ssh_proxy` with the password.
fn asked(ssh: &OpenSsh, id: &str) -> Value {
    let mut request = unsigned(ssh, id);
    request["password"] = json!(ssh.password());
    request
}

fn unsigned(ssh: &OpenSsh, id: &str) -> Value {
    let address = ssh.address();
    json!({
        "type": "ssh_proxy", "session_id": id, "host": address.ip().to_string(), "port": address.port(),
        "username": ssh.user(), "terminal": "xterm-256color", "cols": 100, "rows": 30,
    })
}

async fn appears(file: &Path) -> String {
    let read = async {
        loop {
            match std::fs::read_to_string(file) {
                Ok(text) if text.ends_with('\n') => return text,
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap()
}

#[tokio::test]
async fn a_shell_echoes_resizes_and_closes_as_recorded() {
    let ssh = OpenSsh::start(Variant::Password);
    for generation in [V1, V2] {
        let mut scene = Scene::start(generation).await;
        scene.open(&ssh, "a1").await;
        scene.input("a1", "stty size; echo $TERM\r").await;
        scene.until("a1", "30 100\r\nxterm-256color\r\n").await;
        scene.socket.send(json!({"type": "ssh_proxy_resize", "session_id": "a1", "cols": 132, "rows": 43})).await;
        scene.input("a1", "stty size\r").await;
        scene.until("a1", "43 132\r\n").await;
        scene.socket.send(json!({"type": "ssh_proxy_resize", "session_id": "a1"})).await;
        scene.input("a1", "stty size; echo h\u{e9}llo \u{20ac} '<&>' >&2\r").await;
        scene.until("a1", "24 80\r\nh\u{e9}llo \u{20ac} <&>\r\n").await;
        assert_eq!(ssh.sessions(), 1);
        scene.input("a1", "exit 3\r").await;
        scene.closed("a1").await;
        // After it nothing is answered.
        scene.input("a1", "after close\r").await;
        scene.disconnect("a1").await;
        scene.settled().await;
        ssh.wait_sessions(0).await;
    }
}

#[tokio::test]
async fn a_disconnect_ends_the_shell_and_is_answered_once() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V2).await;
    scene.open(&ssh, "a2").await;
    scene.disconnect("a2").await;
    scene.disconnect("a2").await;
    scene.closed("a2").await;
    scene.disconnect("another").await;
    scene.settled().await;
    ssh.wait_sessions(0).await;
}

#[tokio::test]
async fn every_kind_of_key_and_the_password_are_let_in() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V1).await;
    // Real agents read this one, too; the library here does not.
    let unread = KeyKind { algorithm: Algorithm::Ecdsa, format: Format::Pem, encrypted: true };
    for kind in KeyKind::all().into_iter().filter(|kind| *kind != unread) {
        let mut request = unsigned(&ssh, "k");
        request["private_key"] = json!(ssh.key(kind));
        if kind.encrypted {
            let words = scene.error(request.clone()).await;
            assert_eq!(words, "Failed to parse private key: ssh: this private key is passphrase protected", "{kind:?}");
            request["passphrase"] = json!("nope");
            let words = scene.error(request.clone()).await;
            assert_eq!(words, "Failed to parse private key: x509: decryption password incorrect", "{kind:?}");
            request["passphrase"] = json!(PASSPHRASE);
        }
        scene.socket.send(request).await;
        let answer = scene.socket.text().await;
        assert_eq!(answer["type"], "ssh_proxy_connected", "{kind:?}: {answer}\n{}", ssh.log());
        scene.until("k", "$ ").await;
        scene.disconnect("k").await;
        scene.closed("k").await;
    }
    scene.open(&ssh, "p").await;
}

#[tokio::test]
async fn what_fails_is_said_in_the_agents_words() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V2).await;
    let mut wrong = unsigned(&ssh, "e1");
    wrong["password"] = json!("wrong");
    assert_eq!(
        scene.error(wrong).await,
        "Failed to connect: ssh: handshake failed: ssh: unable to authenticate, attempted methods [none password], no \
         supported methods remain"
    );
    let mut garbage = unsigned(&ssh, "e2");
    garbage["private_key"] = json!("garbage");
    assert_eq!(scene.error(garbage).await, "Failed to parse private key: ssh: no key found");
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut nobody = asked(&ssh, "e3");
    (nobody["host"], nobody["port"]) = (json!("127.0.0.1"), json!(unused.port()));
    let refused = format!("Failed to connect: dial tcp {unused}: connect: connection refused");
    assert_eq!(scene.error(nobody.clone()).await, refused);
    // Accepts and says nothing: never answered. An empty id, and a port as text: neither.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    nobody["port"] = json!(mute.local_addr().unwrap().port());
    scene.socket.send(nobody.clone()).await;
    let _accepted = tokio::time::timeout(PATIENCE, mute.accept()).await.unwrap().unwrap();
    nobody["port"] = json!("2222");
    scene.socket.send(nobody).await;
    scene.socket.send(asked(&ssh, "")).await;
    scene.settled().await;
}

#[tokio::test]
async fn only_questions_or_old_ciphers_keep_an_agent_out() {
    let mut scene = Scene::start(V2).await;
    let questions = OpenSsh::start(Variant::Questions);
    let words = scene.error(asked(&questions, "q")).await;
    assert!(words.contains("attempted methods [none], no supported methods remain"), "{words}");
    let mut request = unsigned(&questions, "k");
    request["private_key"] = json!(questions.key(KeyKind::plain(Algorithm::Ed25519)));
    scene.socket.send(request).await;
    scene.heard("ssh_proxy_connected", "k").await;
    scene.until("k", "$ ").await;
    let legacy = OpenSsh::start(Variant::Legacy);
    let words = scene.error(asked(&legacy, "l")).await;
    assert!(words.starts_with("Failed to connect: ssh: handshake failed: "), "{words}");
}

#[tokio::test]
async fn agents_that_do_not_allow_it_say_how_it_is_allowed() {
    let ssh = json!({"type": "ssh_proxy", "session_id": "", "host": "127.0.0.1", "port": 22, "password": "x"});
    let mut scene = Scene::with(AgentConfig { start: Start::Quiet, ..AgentConfig::fast(host(1), V1) }).await;
    assert!(scene.error(ssh).await.starts_with("SSH proxy is not enabled."));
}

#[tokio::test]
async fn input_before_connected_is_lost() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V1).await;
    scene.socket.send(asked(&ssh, "a4")).await;
    scene.input("a4", "echo early\r").await;
    scene.socket.send(json!({"type": "ssh_proxy_resize", "session_id": "a4", "cols": 50, "rows": 20})).await;
    scene.heard("ssh_proxy_connected", "a4").await;
    scene.input("a4", "stty size\r").await;
    assert!(!scene.until("a4", "30 100\r\n").await.contains("early"));
}

#[tokio::test]
async fn a_shell_outlives_its_socket_and_is_freed_on_the_next() {
    for generation in [V1, V2] {
        let ssh = OpenSsh::start(Variant::Password);
        let mut scene = Scene::start(generation).await;
        scene.open(&ssh, "c1").await;
        scene.agent.hang_up(Hangup::Fin).await;
        scene.socket = scene.stand_in.socket().await;
        assert_eq!(ssh.sessions(), 1);
        scene.input("c1", "echo still here > still\r").await;
        assert_eq!(appears(&ssh.home().join("still")).await, "still here\n");
        // Nothing of its output comes, and the answer to the disconnect does.
        scene.disconnect("c1").await;
        scene.closed("c1").await;
        ssh.wait_sessions(0).await;
        scene.open(&ssh, "c1").await;
    }
}

#[tokio::test]
async fn a_process_that_ends_takes_its_shells_along() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V2).await;
    scene.open(&ssh, "c1").await;
    scene.agent.restart().await;
    ssh.wait_sessions(0).await;
    scene.socket = scene.stand_in.socket().await;
    scene.disconnect("c1").await;
    scene.settled().await;
}

#[tokio::test]
async fn two_shells_of_one_id_leave_the_first_alone() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V2).await;
    scene.open(&ssh, "d1").await;
    scene.input("d1", "first=1\r").await;
    scene.until("d1", "$ ").await;
    scene.open(&ssh, "d1").await;
    scene.input("d1", "echo first is ${first:-not} this\r").await;
    scene.until("d1", "first is not this").await;
    scene.disconnect("d1").await;
    scene.closed("d1").await;
    ssh.wait_sessions(1).await;
    scene.disconnect("d1").await;
    scene.settled().await;
}

#[tokio::test]
async fn big_output_comes_whole_but_for_torn_characters() {
    let ssh = OpenSsh::start(Variant::Password);
    // One line: a terminal passes on whole lines where it can.
    std::fs::write(ssh.home().join("big"), "Z\u{e9}\u{4e16}\u{1f600}".repeat(50_000)).unwrap();
    let mut scene = Scene::start(V2).await;
    scene.open(&ssh, "b1").await;
    scene.input("b1", "cat big; echo EN''D\r").await;
    let output = scene.until("b1", "END\r\n").await;
    assert!(output.contains('\u{fffd}'));
    assert_eq!(output.matches('Z').count(), 50_000);
    let characters = output.matches('\u{1f600}').count();
    assert!((49_000..50_000).contains(&characters), "{characters}");
}

#[tokio::test]
async fn a_flood_stops_at_ctrl_c() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V2).await;
    scene.open(&ssh, "y1").await;
    scene.input("y1", "yes\r").await;
    scene.until("y1", "y\r\ny\r\n").await;
    scene.input("y1", "\u{3}").await;
    scene.until("y1", "^C").await;
    scene.input("y1", "echo sti''ll here\r").await;
    scene.until("y1", "still here").await;
}

#[tokio::test]
async fn an_agent_with_that_habit_dies_of_two_outputs_at_once() {
    let ssh = OpenSsh::start(Variant::Password);
    let config = AgentConfig { start: Start::Quiet, ssh_proxy: true, ..AgentConfig::fast(host(1), V1) };
    let mut scene = Scene::with(AgentConfig { misbehaviour: Some(Misbehaviour::ConcurrentWrite), ..config }).await;
    scene.open(&ssh, "w1").await;
    scene.input("w1", "seq 1 100000\r").await;
    scene.until("w1", "$ ").await;
    scene.open(&ssh, "w2").await;
    for id in ["w1", "w2"] {
        scene.input(id, "yes\r").await;
    }
    ssh.wait_sessions(0).await;
    scene.socket = scene.stand_in.socket().await;
}

#[tokio::test]
async fn other_host_keys_and_lost_sessions_are_seen() {
    let ssh = OpenSsh::start(Variant::Password);
    let mut scene = Scene::start(V1).await;
    scene.open(&ssh, "h1").await;
    let (address, before) = (ssh.address(), ssh.fingerprint());
    assert!(before.starts_with("SHA256:"), "{before}");
    ssh.end_sessions();
    scene.closed("h1").await;
    ssh.change_host_keys();
    assert_eq!(ssh.address(), address);
    assert_ne!(ssh.fingerprint(), before);
    scene.open(&ssh, "h2").await;
}

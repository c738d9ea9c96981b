//! Shells that do not open, and what is said then.

use serde_json::{Value, json};
use tests::{
    agent::Start,
    fleet::{Generations, Recipe},
    generation::Generation,
    terminal::Heard,
};
use tokio::net::TcpListener;

use super::scene::{PATIENCE, Scene, open, refused, writes};
use crate::harness::Server;

const HOST: &str = "Invalid proxy host format";
const PORT: &str = "Invalid proxy port (must be 1-65535)";

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_said_and_the_socket_stays() {
    for scene in [Scene::on_one(&open(), 1).await, Scene::on_two(&open(), 1).await] {
        let mut terminal = scene.socket(0).await;
        for (field, value, wanted) in [
            ("proxy_host", json!("bad_host"), HOST),
            ("proxy_host", json!("::1"), HOST),
            ("proxy_host", json!(7), HOST),
            ("proxy_port", json!(0), PORT),
            ("proxy_port", json!(70_000), PORT),
            ("proxy_port", json!("22abc"), PORT),
            ("password", Value::Null, "No authentication method provided (password or private key required)"),
        ] {
            terminal.connect(scene.login_but(field, value)).await;
            refused(&mut terminal, wanted).await;
        }
        // The agent's own words.
        terminal.connect(scene.login_but("proxy_port", json!(1))).await;
        refused(&mut terminal, "Failed to connect: dial tcp ").await;
        terminal.connect(scene.login_but("privateKey", json!("garbage"))).await;
        refused(&mut terminal, "Failed to parse private key: ssh: no key found").await;
        scene.connect(&mut terminal).await;
        assert_eq!(scene.sessions(0, "ssh_proxy").len(), 3, "the rest was no agent's business");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_opens_no_terminals_says_how_it_would() {
    let scene = Scene::on_two(&Recipe { ssh_proxy: false, ..open() }, 1).await;
    let mut terminal = scene.socket(0).await;
    for _ in 0..2 {
        terminal.connect(scene.login()).await;
        refused(&mut terminal, "SSH proxy is not enabled.").await;
    }
    scene.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_says_nothing_is_not_waited_for() {
    let scene = Scene::on_one(&open(), 1).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut terminal = scene.socket(0).await;
    let mut login = scene.login_but("proxy_host", json!("127.0.0.1"));
    login["proxy_port"] = json!(silent.local_addr().unwrap().port());
    terminal.connect(login).await;
    let (peer, _) = silent.accept().await.unwrap();
    // The 25 s that it is given, and what a busy machine adds.
    let told = terminal.next(PATIENCE + PATIENCE / 2).await;
    assert_eq!(told, Some(Heard::Error("Failed to connect: the agent did not answer within 25 s".to_owned())));
    // One that opens after all is not kept.
    let session = scene.sessions(0, "ssh_proxy").pop().unwrap();
    scene.told_to_close(0, &session, PATIENCE).await;
    drop((peer, silent));
    scene.nothing_is_left().await;
    scene.connect(&mut terminal).await;
}

/// Agents whose reports say what they are.
async fn reported(generation: Generation) -> Scene {
    let recipe = Recipe { start: Start::Full, ssh_proxy: true, ..Recipe::fast(Generations::All(generation)) };
    let scene = Scene::on_two(&recipe, 1).await;
    scene.fleet.wait_until(PATIENCE, |counts| counts.reports >= 1).await.unwrap();
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_agent_is_spared_a_second_terminal() {
    let scene = reported(Generation::V1).await;
    let mut first = scene.shell(0).await;
    let mut second = scene.socket(0).await;
    second.connect(scene.login()).await;
    refused(&mut second, "1 open already: an agent before 2.0 does not survive more terminals at once").await;
    writes(&mut first, "echo undis''turbed", "undisturbed").await;
    first.disconnect().await;
    first.until_closed(PATIENCE).await.unwrap();
    scene.nothing_is_left().await;
    scene.connect(&mut second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_carries_two_terminals_that_do_not_mix() {
    let scene = reported(Generation::V2).await;
    let (mut first, mut second) = (scene.shell(0).await, scene.shell(0).await);
    first.input("for i in $(seq 1 400); do echo fi''rst; done; echo en''d\r").await;
    second.input("for i in $(seq 1 400); do echo sec''ond; done; echo en''d\r").await;
    let one = first.until("end\r\n", PATIENCE).await.unwrap();
    let two = second.until("end\r\n", PATIENCE).await.unwrap();
    for (seen, own, other) in [(one, "first\r\n", "second\r\n"), (two, "second\r\n", "first\r\n")] {
        assert_eq!((seen.matches(own).count(), seen.matches(other).count()), (400, 0));
    }
    first.disconnect().await;
    first.until_closed(PATIENCE).await.unwrap();
    writes(&mut second, "echo undis''turbed", "undisturbed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agent_there_is_no_terminal() {
    let server = Server::start().await;
    let hosts = server.add_hosts("host", 1).await;
    let admin = server.admin().await;
    let bearer = tests::terminal::Access::Bearer(admin.token().unwrap());
    let mut terminal = tests::terminal::Terminal::open(&server.target(), &hosts[0].id, bearer).await.unwrap();
    for _ in 0..2 {
        terminal.connect(json!({"connection_mode": "proxy", "password": "x"})).await;
        refused(&mut terminal, "Agent not connected. Please ensure the agent is running and connected.").await;
    }
}

//! One of those between a browser and its shell goes away in the middle.

use std::time::Duration;

use tests::misbehaviour::Hangup;

use super::scene::{PATIENCE, Scene, lost, open, refused, writes};

/// A browser's side that is gone without a word is missed after 3 s; five times that.
const MISSED: Duration = Duration::from_secs(15);
const OFFLINE: &str = "Agent not connected. Please ensure the agent is running and connected.";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_agent_is_told_at_once_and_its_shell_is_closed_when_it_is_back() {
    for scene in [Scene::on_one(&open(), 1).await, Scene::on_two(&open(), 1).await] {
        for how in [Hangup::Reset, Hangup::Fin] {
            let mut terminal = scene.shell(0).await;
            let session = scene.sessions(0, "ssh_proxy").pop().unwrap();
            let before = scene.fleet.counts().connects;
            // The shell belongs to the agent's process, which lives on.
            scene.agent(0).hang_up(how).await;
            lost(&mut terminal).await;
            scene.told_to_close(0, &session, PATIENCE).await;
            assert!(scene.fleet.counts().connects > before, "on a new socket");
            scene.nothing_is_left().await;
            // The same browser's socket, once the agent is back.
            scene.connect(&mut terminal).await;
            writes(&mut terminal, "echo ba''ck", "back").await;
            terminal.close().await;
            scene.nothing_is_left().await;
        }
        // Its process is gone, and the shell with it.
        let mut terminal = scene.shell(0).await;
        scene.agent(0).power_off().await;
        lost(&mut terminal).await;
        terminal.connect(scene.login()).await;
        refused(&mut terminal, OFFLINE).await;
        scene.agent(0).power_on().await;
        scene.fleet.all_connected(PATIENCE).await.unwrap();
        scene.nothing_is_left().await;
        scene.connect(&mut terminal).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gateway_of_the_agent_is_told_at_once_and_the_shell_is_closed_when_the_agent_is_back() {
    let mut scene = Scene::on_two(&open(), 1).await;
    let mut terminal = scene.shell(0).await;
    let session = scene.sessions(0, "ssh_proxy").pop().unwrap();
    scene.second.as_mut().unwrap().kill();
    lost(&mut terminal).await;
    assert_eq!(scene.ssh.sessions(), 1, "nobody could tell the agent");
    scene.second.as_mut().unwrap().restart().await;
    scene.told_to_close(0, &session, PATIENCE).await;
    scene.nothing_is_left().await;
    scene.connect(&mut terminal).await;
    writes(&mut terminal, "echo ba''ck", "back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_gateway_of_the_browser_ends_the_shell() {
    let mut scene = Scene::on_two(&open(), 1).await;
    let mut terminal = scene.shell(0).await;
    let session = scene.sessions(0, "ssh_proxy").pop().unwrap();
    terminal.input("yes\r").await;
    terminal.until("y\r\ny\r\n", PATIENCE).await.unwrap();
    scene.browsers.kill();
    scene.told_to_close(0, &session, MISSED).await;
    scene.ssh.wait_sessions(0).await;
    assert_eq!(scene.fleet.counts().disconnects, 0, "the agent stays");
    scene.count_becomes("SELECT COUNT(*) FROM terminal_sessions WHERE at_agent = 1", 0).await;
    scene.browsers.restart().await;
    // A worker finds that it was open on a gateway that is gone.
    scene.nothing_is_left().await;
    let mut terminal = scene.shell(0).await;
    writes(&mut terminal, "echo ba''ck", "back").await;
}

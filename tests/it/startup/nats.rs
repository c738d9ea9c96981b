//! The real binary on NATS: what it says when it cannot use it, and that it serves when it can.

use std::time::Duration;

use tests::{
    agent::{AgentConfig, Start},
    fleet::Fleet,
    generation::Generation,
    internal,
    log::FrameLog,
    services::nats::NatsServer,
};
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};

use crate::{cli::run, harness::Server};

const PATIENCE: Duration = Duration::from_secs(30);

async fn refusal(env: &[(&str, &str)]) -> String {
    run(Server::prepare(env).command(), "").await.refusal().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_cannot_be_used_is_one_line_without_the_password() {
    let server = NatsServer::start_with("authorization { user: ann, password: right }");
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let login = |login: &str, at| format!("nats://{login}@{at}");
    let own = server.url();
    for (env, says) in [
        (vec![("PATCHBAY_BUS_URL", login("ann:hunter2", server.address()))], "refused the login"),
        (vec![("PATCHBAY_BUS_URL", login("hunter2", server.address()))], "refused the login"),
        (vec![("PATCHBAY_BUS_URL", own.clone())], "refused the login"),
        (vec![("PATCHBAY_BUS_URL", login("ann:hunter2", nobody))], "cannot be reached"),
        (vec![("PATCHBAY_BUS_URL", own), ("PATCHBAY_BUS_NKEY_FILE", "/nowhere/seed".into())], "/nowhere/seed"),
    ] {
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let line = refusal(&env).await;
        assert!(line.contains(says) && !line.contains("hunter2"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_on_nats_and_outlives_its_outage() {
    let nats = NatsServer::start_with("authorization { user: ann, password: hunter2 }");
    let url = format!("nats://ann:hunter2@{}", nats.address());
    let server = Server::start_with(&[("PATCHBAY_BUS_URL", &url), ("PATCHBAY_BUS_PREFIX", "site-7")]).await;
    let admin = server.admin().await;
    let host = server.add_hosts("web", 1).await.remove(0);
    let agent = AgentConfig { start: Start::Quiet, ..AgentConfig::fast(host.clone(), Generation::V2) };
    let fleet = Fleet::start(server.target(), vec![agent], None, FrameLog::in_memory());
    fleet.all_connected(PATIENCE).await.unwrap();
    let succeeds = async || {
        let made = admin.command("report_now", &[&host.id], None).await.unwrap().ok().unwrap();
        let id = made["commands"][0]["id"].as_str().unwrap().to_owned();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = admin.command_row(&id).await.unwrap();
            if row["state"] == "succeeded" {
                return;
            }
            assert!(Instant::now() < deadline, "{row}");
            sleep(Duration::from_millis(10)).await;
        }
    };
    succeeds().await;
    nats.kill();
    let ready = async |wanted: u16| {
        let deadline = Instant::now() + PATIENCE;
        while internal::readyz(&server.internal_url()).await.unwrap() != wanted {
            assert!(Instant::now() < deadline, "/readyz is not {wanted}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    ready(503).await;
    nats.start_again();
    ready(200).await;
    succeeds().await;
    assert_eq!(fleet.counts().disconnects, 0, "its socket stayed");
    fleet.stop().await;

    // Another login counts from now on: only a new start with that one helps.
    nats.kill();
    nats.configure("authorization { user: ann, password: another }");
    nats.start_again();
    let lives = async || {
        let answer = reqwest::get(format!("{}/livez", server.internal_url())).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(lives().await.0, 200, "it is given some time");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, body) = lives().await;
        if status == 503 {
            assert!(body.contains("the bus client is closed"), "{body}");
            break;
        }
        assert!(Instant::now() < deadline, "{status} {body}");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(server.logs().iter().all(|line| !line.contains("hunter2")), "the password is in the log");
}

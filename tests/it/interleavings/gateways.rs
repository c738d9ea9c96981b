//! Several gateways and a worker on one NATS, each with a connection of its own, as processes have them: who holds an
//! agent, what each knows of the others, and what all do when the bus goes away and comes back.

use std::time::Duration;

use bus::{Bus, BusError, BusStatus, Subscribe, Subscription};
use gateway::admin::AdminRequest;
use jobs::{Event, Kind, Outcome, State};
use schemas::{
    ApiId,
    event::EventKind,
    message::{Claim, Mode},
    subject,
};
use serde_json::{Value, json};
use store::{Commands, Hosts};
use tests::{
    admin::Admin,
    agent::{AgentConfig, Start},
    credentials::Credentials,
    fleet::Fleet,
    generation::Generation,
    log::FrameLog,
    raw::{Wire, credentials, upgrade_request},
    services::{
        nats::NatsServer,
        proxy::{Network, Proxy},
    },
};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::house::{House, PATIENCE, nats};

const PATH: &str = "/api/v1/agents/ws";

/// Two gateways, a worker, and the server between them.
struct Town {
    house: House,
    server: NatsServer,
}

impl Town {
    async fn new() -> Self {
        let server = NatsServer::start();
        let mut house = House::on_nats(&server).await;
        for _ in 0..2 {
            house.open_gateway_on("127.0.0.1:0", nats(server.address()).await).await;
        }
        Self { house, server }
    }

    async fn with_worker() -> Self {
        let mut town = Self::new().await;
        town.house.start_worker();
        town
    }

    fn id(&self, gateway: usize) -> Uuid {
        self.house.gateways[gateway].app().gateway_id
    }

    async fn agent(&self, gateway: usize, host: &Credentials) -> Wire {
        Wire::agent(&self.house.target(gateway), host).await.unwrap()
    }

    async fn fleet(&self, gateway: usize, host: &Credentials) -> Fleet {
        let agent = AgentConfig { start: Start::Quiet, ..AgentConfig::fast(host.clone(), Generation::V2) };
        let fleet = Fleet::start(self.house.target(gateway), vec![agent], None, FrameLog::in_memory());
        fleet.all_connected(PATIENCE).await.unwrap();
        fleet
    }

    /// Somebody logged in at one gateway.
    async fn login(&self, gateway: usize) -> Admin {
        let (username, password) = ("ada", "plain-words-for-a-test");
        let user = AdminRequest::UserAdd {
            username: username.to_owned(),
            role: "superadmin".to_owned(),
            password: Some(password.to_owned()),
        };
        self.house.admin(user).await;
        let url = format!("http://{}", self.house.gateways[gateway].address());
        Admin::login(&url, username, password).await.unwrap()
    }

    /// Waits for a hint, and gives the gateway in it.
    async fn hint(&self, host: &Credentials, fits: impl Fn(Option<Uuid>) -> bool) -> Option<Uuid> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = self.house.store.host(id_of(host)).await.unwrap().unwrap();
            assert_eq!(row.facts.connected, row.gateway_id.is_some());
            if fits(row.gateway_id) {
                return row.gateway_id;
            }
            assert!(Instant::now() < deadline, "the hint stays {:?}", row.gateway_id);
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn held_by(&self, host: &Credentials, gateway: usize) {
        self.hint(host, |held| held == Some(self.id(gateway))).await;
    }

    /// Waits until everybody's bus is there, or away.
    async fn bus_becomes(&self, wanted: BusStatus) {
        becomes(&*self.house.bus, wanted).await;
        for gateway in &self.house.gateways {
            becomes(&*gateway.app().bus, wanted).await;
        }
    }
}

async fn becomes(bus: &dyn Bus, wanted: BusStatus) {
    timeout(PATIENCE, bus.status().wait_for(|status| *status == wanted)).await.expect("the status stays").unwrap();
}

fn id_of(host: &Credentials) -> Uuid {
    host.id.parse().unwrap()
}

fn api_id(host: &Credentials) -> ApiId {
    ApiId::parse(&host.api_id).unwrap()
}

/// The next claim that somebody who listens hears.
async fn claim(listener: &mut Subscription) -> Claim {
    timeout(PATIENCE, listener.next()).await.expect("nobody claims").unwrap().parse().unwrap()
}

/// Waits until presence of that host is told.
async fn told(events: &mut Subscription, host: &Credentials, connected: bool) {
    loop {
        let message = timeout(PATIENCE, events.next()).await.expect("nobody tells").unwrap();
        let event: schemas::event::Event = message.parse().unwrap();
        let data: Value = serde_json::from_str(event.data.get()).unwrap();
        if event.kind == EventKind::Presence && event.host_id == id_of(host) && data["connected"] == connected {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_is_asked_reaches_the_agent_of_another() {
    let town = Town::with_worker().await;
    let host = town.house.host("web").await;
    let admin = town.login(0).await;
    let fleet = town.fleet(1, &host).await;

    let path = format!("/ws/status/{}", host.api_id);
    let status = admin.get(&path).await.unwrap().ok().unwrap();
    assert_eq!(status["data"]["connected"], true, "{status}");
    let made = admin.command("report_now", &[&host.id], None).await.unwrap().ok().unwrap();
    let id = made["commands"][0]["id"].as_str().unwrap().parse().unwrap();
    let row = town.house.until(id, State::Succeeded).await;
    assert_eq!(row.attempt, 1);
    assert_eq!(fleet.log().frames(&host.api_id, "report_now").len(), 1);

    fleet.stop().await;
    town.hint(&host, |held| held.is_none()).await;
    let status = admin.get(&path).await.unwrap().ok().unwrap();
    assert_eq!(status["data"]["connected"], false, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_wins_whichever_gateway_it_came_to() {
    let town = Town::new().await;
    let host = town.house.host("roams").await;
    let mut last: Option<Wire> = None;
    for round in 0..4 {
        let gateway = round % 2;
        let next = town.agent(gateway, &host).await;
        if let Some(mut before) = last.replace(next) {
            assert_eq!(before.closed().await.unwrap(), Some(4001), "round {round}");
        }
        town.held_by(&host, gateway).await;
        // The teardown of the one before is over and has changed nothing.
        let other = &town.house.gateways[1 - gateway];
        timeout(PATIENCE, async {
            while other.app().presence.count() > 0 {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        town.held_by(&host, gateway).await;
    }
    last.unwrap().ping(b"still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_reaches_any_gateway() {
    let town = Town::new().await;
    let (rotated, removed) = (town.house.host("rotated").await, town.house.host("removed").await);
    let (mut one, mut two) = (town.agent(0, &rotated).await, town.agent(1, &removed).await);
    town.held_by(&rotated, 0).await;
    town.held_by(&removed, 1).await;
    town.house.admin(AdminRequest::HostRotateKey { id: rotated.id.clone() }).await;
    town.house.admin(AdminRequest::HostRemove { id: removed.id.clone() }).await;
    assert_eq!(one.closed().await.unwrap(), Some(4401));
    assert_eq!(two.closed().await.unwrap(), Some(4401));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_outlive_an_outage_of_the_bus_and_what_waits_for_them_is_woken() {
    let mut town = Town::new().await;
    let host = town.house.host("web").await;
    let fleet = town.fleet(0, &host).await;
    town.held_by(&host, 0).await;
    town.server.kill();
    // Somebody had asked in the moment in which nobody was subscribed.
    let id = town.house.command(Kind::ReportNow, &host, Value::Null).await;
    let store = &town.house.store;
    store.apply(&[(id, Event::Take { blocked: false })]).await.unwrap();
    let nobody = Event::Outcome { attempt: 1, outcome: Outcome::NoResponder(Mode::Deliver) };
    let waits = store.apply(&[(id, nobody)]).await.unwrap();
    assert_eq!(waits[0].command.state, State::Waiting);
    // And somebody has taken the gateway for dead.
    assert_eq!(store.clear_hints_of(town.id(0)).await.unwrap(), [id_of(&host)]);

    town.server.start_again();
    town.held_by(&host, 0).await;
    town.house.until(id, State::Queued).await;
    town.bus_becomes(BusStatus::Up).await;
    town.house.start_worker();
    town.house.until(id, State::Succeeded).await;
    assert_eq!(fleet.log().frames(&host.api_id, "report_now").len(), 1);
    assert_eq!(fleet.counts().disconnects, 0, "the sockets stay");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_an_outage_are_carried_once_when_the_bus_is_back() {
    let town = Town::with_worker().await;
    let host = town.house.host("web").await;
    let fleet = town.fleet(1, &host).await;
    town.server.kill();
    let id = town.house.command(Kind::ComplianceScan, &host, json!({"enable_remediation": true})).await;
    town.house.until_row(id, |_| !town.house.asked_for(id).is_empty()).await;
    town.server.start_again();
    town.bus_becomes(BusStatus::Up).await;
    town.house.until_row(id, |row| row.state == State::Sending && row.next_check_at.is_some()).await;
    town.house.advance(Duration::from_secs(16));
    let row = town.house.until(id, State::Succeeded).await;
    assert_eq!(row.attempt, 1);
    assert_eq!(fleet.log().frames(&host.api_id, "compliance_scan").len(), 1);
    assert_eq!(fleet.counts().disconnects, 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newcomers_are_sent_away_while_the_bus_is_away() {
    let town = Town::new().await;
    let host = town.house.host("web").await;
    let gateway = &town.house.gateways[0];
    let health = async |path: &str| {
        let url = format!("http://{}{path}", gateway.internal_address());
        reqwest::get(url).await.unwrap().status().as_u16()
    };
    let became = async |path: &str, wanted: u16| {
        let deadline = Instant::now() + PATIENCE;
        while health(path).await != wanted {
            assert!(Instant::now() < deadline, "{path} is not {wanted}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    town.server.kill();
    becomes(&*gateway.app().bus, BusStatus::Down).await;
    let mut refused = Wire::dial(&town.house.target(0), None).await.unwrap();
    let answer = refused.call(&upgrade_request(PATH, &credentials(&host), &[])).await.unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (503, &json!("The message bus is away")));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(health("/readyz").await, 200, "a short outage moves nobody");
    became("/readyz", 503).await;
    assert_eq!(health("/livez").await, 200);
    town.server.start_again();
    became("/readyz", 200).await;
    town.agent(0, &host).await.ping(b"welcome").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_cut_off_gives_up_who_went_elsewhere_and_keeps_the_others() {
    let server = NatsServer::start();
    let mut house = House::on_nats(&server).await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    house.open_gateway_on("127.0.0.1:0", nats(proxy.address()).await).await;
    house.open_gateway_on("127.0.0.1:0", nats(server.address()).await).await;
    let town = Town { house, server };
    let (roams, stays) = (town.house.host("roams").await, town.house.host("stays").await);
    let (mut old, mut other) = (town.agent(0, &roams).await, town.agent(0, &stays).await);
    town.held_by(&roams, 0).await;
    town.held_by(&stays, 0).await;

    proxy.set(Network::Silent);
    let mut new = town.agent(1, &roams).await;
    town.held_by(&roams, 1).await;
    // Nobody has told the first gateway.
    old.ping(b"still here").await.unwrap();
    becomes(&*town.house.gateways[0].app().bus, BusStatus::Down).await;

    proxy.set(Network::Sound);
    assert_eq!(old.closed().await.unwrap(), Some(4001), "by the newer one's answer to its claim");
    new.ping(b"still here").await.unwrap();
    other.ping(b"still here").await.unwrap();
    town.held_by(&roams, 1).await;
    town.held_by(&stays, 0).await;
    // One question may still fall into the end of the outage.
    timeout(PATIENCE, async {
        while bus::request_json(
            &*town.house.bus,
            &subject::agent_status(&api_id(&stays)),
            &json!({}),
            None,
            PATIENCE / 20,
        )
        .await
        .is_err()
        {}
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_dead_gateway_held_is_not_connected_until_it_says_that_it_lives() {
    let server = NatsServer::start();
    let mut house = House::on_nats(&server).await;
    let proxy = Proxy::start(server.address()).await.unwrap();
    house.open_gateway_on("127.0.0.1:0", nats(proxy.address()).await).await;
    house.open_gateway_on("127.0.0.1:0", nats(server.address()).await).await;
    house.start_worker();
    let town = Town { house, server };
    let (lost, beside) = (town.house.host("lost").await, town.house.host("beside").await);
    let (mut one, mut two) = (town.agent(0, &lost).await, town.agent(1, &beside).await);
    town.held_by(&lost, 0).await;
    town.held_by(&beside, 1).await;
    let mut events = town.house.bus.subscribe(subject::ALL_HOSTS_CHANGED, Subscribe::all(256)).await.unwrap();
    let claims = town.house.bus.subscribe(&subject::agent_claim(&api_id(&lost)), Subscribe::all(16)).await;
    let mut claims = claims.unwrap();

    // For everybody else this is what the end of its process looks like.
    proxy.set(Network::Cut);
    told(&mut events, &lost, false).await;
    town.hint(&lost, |held| held.is_none()).await;
    town.held_by(&beside, 1).await;
    let asked = town.house.bus.ask(&subject::gateway_alive(town.id(0)), "{}".into(), None).await;
    assert_eq!(asked.err(), Some(BusError::NoResponder));

    proxy.set(Network::Sound);
    let heard = claim(&mut claims).await;
    assert_eq!((heard.epoch, heard.gateway), (1, town.id(0)), "with the epoch from before");
    told(&mut events, &lost, true).await;
    town.held_by(&lost, 0).await;
    one.ping(b"still here").await.unwrap();
    two.ping(b"still here").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_replaced_while_the_bus_was_away_ends_its_connection_and_no_newer_one() {
    let town = Town::new().await;
    let (host, beside) = (town.house.host("web").await, town.house.host("beside").await);
    let (mut old, mut other) = (town.agent(0, &host).await, town.agent(0, &beside).await);
    town.held_by(&host, 0).await;
    town.held_by(&beside, 0).await;
    town.server.kill();
    town.bus_becomes(BusStatus::Down).await;
    let rotated = town.house.admin(AdminRequest::HostRotateKey { id: host.id.clone() }).await;
    old.ping(b"nobody has told").await.unwrap();
    town.server.start_again();
    assert_eq!(old.closed().await.unwrap(), Some(4401));
    other.ping(b"still here").await.unwrap();
    let rotated: Credentials = serde_json::from_value(rotated).unwrap();
    town.bus_becomes(BusStatus::Up).await;
    town.agent(1, &rotated).await.ping(b"welcome").await.unwrap();
}

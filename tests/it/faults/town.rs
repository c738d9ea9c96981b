//! Two gateways, two workers, a NATS and a PostgreSQL of their own, and a fleet that reaches both gateways through a
//! balancer. Gateway 2 has a network of its own towards NATS.

use std::{collections::HashMap, time::Duration};

use tests::{
    admin::Admin,
    credentials::Credentials,
    fleet::Fleet,
    generation::Generation,
    log::{Event, FrameLog, What},
    server::Server,
    services::{
        nats::NatsServer,
        postgres::{Database, Durability, Postgres},
        proxy::Proxy,
    },
    timing::Timing,
};
use tokio::time::{Instant, sleep};

use super::{balancer::Balancer, part::Part};
use crate::{
    commands::scene::{PATIENCE, quiet_scanning, timed},
    harness::PASSWORD,
};

/// Dropped in this order: who uses a thing goes before it.
pub struct Town {
    pub fleet: Fleet,
    pub balancer: Balancer,
    pub gateways: Vec<Part>,
    pub workers: Vec<Part>,
    pub admins: Vec<Admin>,
    pub hosts: Vec<Credentials>,
    pub net: Proxy,
    pub nats: NatsServer,
    database: Database,
    pub postgres: Postgres,
}

/// An agent's last connection, and whether it is open.
pub type Socket = (u32, bool);

impl Town {
    /// Everything runs, and all agents are connected.
    pub async fn start(agents: usize) -> Self {
        let (postgres, nats) = (Postgres::start_own(Durability::Full).await, NatsServer::start());
        let database = postgres.database().await;
        let net = Proxy::start(nats.address()).await.unwrap();
        let env = |bus: String| -> Vec<(String, String)> {
            let all = [
                ("DATABASE_URL", database.url()),
                ("PATCHBAY_BUS_URL", bus),
                ("PATCHBAY_BUS_PREFIX", "town".to_owned()),
                ("PATCHBAY_SECRET", "a-secret-that-all-parts-of-one-town-share".to_owned()),
                ("PATCHBAY_DB_CONNECTIONS", "6".to_owned()),
                ("PATCHBAY_DRAIN_SECS", "0".to_owned()),
            ];
            all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let own = format!("nats://{}", net.address());
        let mut gateways: Vec<_> = [nats.url(), own]
            .into_iter()
            .enumerate()
            .map(|(number, bus)| Part::prepare("gateway", number, env(bus)))
            .collect();
        let mut workers: Vec<_> = (0..2).map(|number| Part::prepare("worker", number, env(nats.url()))).collect();
        for part in gateways.iter_mut().chain(&mut workers) {
            part.spawn();
        }
        for part in gateways.iter_mut().chain(&mut workers) {
            part.ready().await;
        }
        let balancer = Balancer::start(gateways.iter().map(Part::address)).await;
        let admins = login(&gateways).await;
        let names: Vec<_> = (1..=agents).map(|number| format!("host-{number}")).collect();
        let hosts = admins[0].add_hosts(&names).await.unwrap();
        let configs = timed(&quiet_scanning(Duration::from_millis(600)), &hosts, alert);
        let target = Server::parse(&balancer.url()).unwrap();
        let fleet = Fleet::start(target, configs, Some(200.0), FrameLog::in_memory());
        fleet.all_connected(PATIENCE).await.unwrap();
        Self { fleet, balancer, gateways, workers, admins, hosts, net, nats, database, postgres }
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.gateways.iter().chain(&self.workers)
    }

    /// Whose socket is open now, as the hosts know it.
    pub fn sockets(&self) -> HashMap<String, Socket> {
        let moves = self.fleet.log().select(|event| socket_of(event).is_some());
        moves.iter().filter_map(|event| Some((event.agent.to_string(), socket_of(event)?))).collect()
    }

    /// The same of one host.
    pub fn socket(&self, api_id: &str) -> Option<Socket> {
        let moves = self.fleet.log().select(|event| &*event.agent == api_id && socket_of(event).is_some());
        moves.last().and_then(socket_of)
    }

    /// Waits until each gateway has answered from the store: a database that was killed takes connections long before it has
    /// given one to everybody who waits.
    pub async fn answers(&self) {
        let began = Instant::now();
        for admin in &self.admins {
            while !matches!(admin.get("/hosts?limit=1").await, Ok(answer) if answer.status.is_success()) {
                assert!(began.elapsed() < PATIENCE, "no answer from the store\n{}", self.activity());
                sleep(Duration::from_millis(50)).await;
            }
        }
        println!("both gateways answer from the store {:.1?} after it took connections", began.elapsed());
    }

    /// What the database is at, for a test that fails.
    pub fn activity(&self) -> String {
        let sql = "SELECT pid, state, wait_event_type, wait_event, now() - xact_start AS open, pg_blocking_pids(pid), \
                   left(query, 120) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle'";
        self.database.superuser(sql).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Everything starts again on what is there, so much later by the store's clock.
    pub async fn later(&mut self, later: Duration) {
        for part in self.gateways.iter_mut().chain(&mut self.workers) {
            part.kill();
            part.set_env("PATCHBAY_TEST_CLOCK_AHEAD_MS", &later.as_millis().to_string());
            part.spawn();
        }
        for part in self.gateways.iter_mut().chain(&mut self.workers) {
            part.ready().await;
        }
        self.admins = login(&self.gateways).await;
        self.fleet.all_connected(PATIENCE).await.unwrap();
    }
}

fn socket_of(event: &Event) -> Option<Socket> {
    match event.what {
        What::Connected { .. } => Some((event.conn, true)),
        What::Disconnected { .. } => Some((event.conn, false)),
        _ => None,
    }
}

async fn login(gateways: &[Part]) -> Vec<Admin> {
    let mut admins = Vec::new();
    for gateway in gateways {
        admins.push(Admin::login(&gateway.url(), "admin", PASSWORD).await.unwrap());
    }
    admins
}

/// Agents that notice within seconds that nobody is there, and try a post for six seconds (protocol 6-10).
fn alert(timing: &mut Timing) {
    let real = Timing::real(Generation::V1);
    timing.http_retry = real.http_retry;
    timing.inbox_wait = real.inbox_wait;
    timing.backoff_unit = Duration::from_millis(50);
    timing.ping_interval = Duration::from_secs(1);
    timing.read_deadline = Duration::from_secs(5);
    timing.handshake = Duration::from_secs(3);
    timing.http_timeout = Duration::from_secs(5);
}

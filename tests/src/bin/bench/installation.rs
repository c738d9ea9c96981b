//! A Patchbay to measure: which processes, on which bus and store.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::bail;
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tests::{
    admin::Admin,
    credentials::Credentials,
    server::Server,
    services::{
        nats::NatsServer,
        postgres::{Database, Durability, Postgres},
    },
};
use tokio::time::sleep;

use crate::process::Process;

const PASSWORD: &str = "0123456789 bench";
const SECRET: &str = "a secret of the benchmark, 32 bytes or more";
const READY: Duration = Duration::from_secs(30);
/// bcrypt, cost 12, of a key that nobody has.
const BCRYPT_12: &str = "$2b$12$LQv3c1yqBWVHxkd0LHAkCOYz6TtxMQJqhN8/LewdBPj4J/HS.iK9G";

/// What a combination consists of.
#[derive(Debug, Clone, Copy)]
pub struct Combination {
    pub name: &'static str,
    pub processes: &'static [Role],
}

/// A process of a combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Embedded,
    Gateway,
    Worker,
}

pub const EMBEDDED: Combination = Combination { name: "embedded", processes: &[Role::Embedded] };
pub const SPREAD: Combination =
    Combination { name: "NATS + PostgreSQL", processes: &[Role::Gateway, Role::Gateway, Role::Worker] };

impl Role {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Embedded => &[],
            Self::Gateway => &["gateway"],
            Self::Worker => &["worker"],
        }
    }

    fn holds_agents(self) -> bool {
        self != Self::Worker
    }
}

/// What the processes of a combination share.
struct Shared {
    /// Dropped before its server.
    database: Database,
    _postgres: Postgres,
    nats: NatsServer,
}

/// A combination in a folder of its own. Dropping it ends all of it.
pub struct Installation {
    combination: Combination,
    binary: PathBuf,
    folder: TempDir,
    processes: Vec<Process>,
    shared: Option<Shared>,
}

impl Installation {
    /// Starts everything, and says why if a process ends at once.
    pub async fn start(combination: Combination, binaries: &Path) -> anyhow::Result<Self> {
        let shared = match combination.processes.contains(&Role::Embedded) {
            true => None,
            false => Some(Shared::start().await),
        };
        let binary = binaries.join("patchbay");
        let mut installation =
            Self { combination, binary, folder: tempfile::tempdir()?, processes: Vec::new(), shared };
        installation.start_processes().await?;
        Ok(installation)
    }

    /// kill -9 of all processes of ours; what they share runs on.
    pub fn kill(&mut self) {
        self.processes.clear();
    }

    /// Starts them again where they were, and waits until they are ready.
    pub async fn start_processes(&mut self) -> anyhow::Result<()> {
        // One after the other: the first one migrates.
        for (index, role) in self.combination.processes.iter().enumerate() {
            let name = ["patchbay"].iter().chain(role.arguments()).copied().collect::<Vec<_>>().join(" ");
            let process = Process::start(&name, &mut self.command(index, *role))?;
            self.processes.push(process);
            self.ready(index).await?;
        }
        Ok(())
    }

    fn command(&self, index: usize, role: Role) -> Command {
        let address = address(index);
        let mut command = Command::new(&self.binary);
        command.args(role.arguments()).env_clear().envs([
            ("PATCHBAY_DATA_DIR", self.folder.path().join(format!("data-{index}")).display().to_string()),
            ("PATCHBAY_LISTEN", format!("{address}:3001")),
            ("PATCHBAY_INTERNAL_LISTEN", format!("{address}:3002")),
            ("PATCHBAY_ADMIN_PASSWORD", PASSWORD.to_owned()),
            ("PATCHBAY_SSH_ALLOW", "127.0.0.0/8".to_owned()),
            ("RUST_LOG", "warn".to_owned()),
        ]);
        if let Some(shared) = &self.shared {
            command.envs([
                ("DATABASE_URL", shared.database.url()),
                ("PATCHBAY_BUS_URL", shared.nats.url()),
                ("PATCHBAY_SECRET", SECRET.to_owned()),
            ]);
        }
        command
    }

    async fn ready(&mut self, index: usize) -> anyhow::Result<()> {
        let began = Instant::now();
        while tests::internal::readyz(&internal_url(index)).await.ok() != Some(200) {
            self.processes[index].check()?;
            if began.elapsed() > READY {
                bail!("process {index} of {} is not ready after {READY:?}", self.combination.name);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// A client that has logged in.
    pub async fn admin(&self) -> anyhow::Result<Admin> {
        Admin::login(&format!("http://{}:3001", address(0)), "admin", PASSWORD).await
    }

    /// Makes hosts, and leaves in their rows what a first connect of an imported host leaves: the bcrypt hash that came
    /// with it, and the digest of the key that it showed.
    pub async fn hosts(&mut self, count: usize) -> anyhow::Result<Vec<Credentials>> {
        let names: Vec<_> = (1..=count).map(|number| format!("bench-{number:05}")).collect();
        let hosts = self.admin().await?.add_hosts(&names).await?;
        self.kill();
        let sql = format!("UPDATE hosts SET key_hash = '{BCRYPT_12}'");
        match &self.shared {
            Some(shared) => drop(shared.database.superuser(&sql)?),
            None => {
                let file = self.folder.path().join("data-0/patchbay.db");
                let mut connection = SqliteConnectOptions::new().filename(file).connect().await?;
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await?;
                connection.close().await?;
            }
        }
        self.start_processes().await?;
        Ok(hosts)
    }

    /// Where agents go, one a gateway.
    pub fn gateways(&self) -> anyhow::Result<Vec<Server>> {
        self.holders().map(|index| Server::parse(&format!("http://{}:3001", address(index)))).collect()
    }

    /// The internal listeners of the gateways.
    pub fn gateway_metrics(&self) -> Vec<String> {
        self.holders().map(internal_url).collect()
    }

    /// The processes that hold agents.
    pub fn gateway_pids(&self) -> Vec<u32> {
        self.holders().map(|index| self.processes[index].pid()).collect()
    }

    /// The bus's own process, where it has one.
    pub fn bus_pid(&self) -> Option<u32> {
        self.shared.as_ref()?.nats.pid()
    }

    fn holders(&self) -> impl Iterator<Item = usize> {
        let processes = self.combination.processes.iter().enumerate();
        processes.filter(|(_, role)| role.holds_agents()).map(|(index, _)| index)
    }
}

impl Drop for Installation {
    /// Ours first: they would complain about what goes away below them.
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    async fn start() -> Self {
        let postgres = Postgres::start_own(Durability::Full).await;
        let database = postgres.database().await;
        Self { database, _postgres: postgres, nats: NatsServer::start() }
    }
}

fn internal_url(index: usize) -> String {
    format!("http://{}:3002", address(index))
}

/// 127.230.0.0 to 127.239.255.255: by process, so that two benchmarks at once disturb each other's figures only.
fn address(index: usize) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 230 + u8::try_from(index).unwrap_or(0), high, low.clamp(1, 254))
}

//! Opens what the configuration names: the store by its engine, the bus by its kind, the listeners.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use gateway::admin::hash_password;
use store::{Clock, Store, StoreError, postgres::PostgresStore, sqlite::SqliteStore};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
    time::Instant,
};
use uuid::Uuid;
use worker::Queues;

use crate::{
    config::{Config, DatabaseUrl},
    data_dir::{self, DataDir, Held},
    password::FirstAdmin,
    wiring,
};

/// Connections that the kernel holds for us while we accept; a fleet comes back all at once. The system's own
/// `somaxconn` (4,096 by default) bounds it further.
const BACKLOG: u32 = 4_096;
/// How long another process on this data directory may take for its own start.
const OTHERS_START: Duration = Duration::from_secs(15);

/// The store, by its engine.
#[derive(Clone)]
pub enum Opened {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

impl Opened {
    /// Opens and migrates the configured database.
    ///
    /// # Errors
    /// One line that names the database, without its password.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        Self::open_with(config, true).await
    }

    /// Opens it as it is: one that is shared must have this version's tables. For commands that are no server: in a wrong
    /// database they make nothing.
    ///
    /// # Errors
    /// The same.
    pub async fn open_made(config: &Config) -> anyhow::Result<Self> {
        Self::open_with(config, false).await
    }

    async fn open_with(config: &Config, migrate: bool) -> anyhow::Result<Self> {
        match config.database() {
            DatabaseUrl::Sqlite(path) => {
                data_dir::private_file(&path)?;
                let store = SqliteStore::open(&path, clock(), wiring::sqlite_options(config)).await;
                let store =
                    store.map_err(why).with_context(|| format!("cannot use the database {}", path.display()))?;
                Ok(Self::Sqlite(Arc::new(store)))
            }
            DatabaseUrl::Postgres(url) => {
                let options = store::postgres::Options { migrate, ..wiring::postgres_options(config) };
                let store = PostgresStore::open(url.expose(), clock(), options).await;
                let store =
                    store.map_err(why).with_context(|| format!("cannot use the database {url} (DATABASE_URL)"))?;
                Ok(Self::Postgres(Arc::new(store)))
            }
        }
    }

    /// The store, whatever it stands on.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => store.clone(),
            Self::Postgres(store) => store.clone(),
        }
    }

    /// Its queues.
    pub fn queues(&self) -> Queues {
        match self {
            Self::Sqlite(store) => Queues::Sqlite(store.clone()),
            Self::Postgres(store) => Queues::Postgres(store.clone()),
        }
    }

    /// Hears of tasks that other processes push, where there may be others.
    pub fn listen(&self) -> Option<JoinHandle<()>> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(store) => Some(store.listen()),
        }
    }

    /// May other processes use it now?
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// Closes it; what was answered is durable.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

/// What a person is told: the reason alone, since there is no "later" for a program that does not start.
fn why(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Unavailable(why) => anyhow::anyhow!(why),
        other => other.into(),
    }
}

/// The store's clock; tests of what takes long set it ahead, in debug builds only.
fn clock() -> Clock {
    let clock = Clock::default();
    #[cfg(debug_assertions)]
    if let Some(ahead) = std::env::var("PATCHBAY_TEST_CLOCK_AHEAD_MS").ok().and_then(|text| text.parse().ok()) {
        clock.advance(ahead);
    }
    clock
}

/// Makes the user `admin` when there is no user yet.
///
/// # Errors
/// When the store or the data directory does not take it.
pub async fn first_user(config: &Config, data_dir: &DataDir, store: &dyn Store) -> anyhow::Result<()> {
    if store.has_users().await.context("cannot read the users")? {
        return Ok(());
    }
    let first = FirstAdmin::prepare(config, data_dir)?;
    let password = first.password().expose().to_owned();
    let hash = tokio::task::spawn_blocking(move || hash_password(&password)).await??;
    if store.add_first_user(Uuid::now_v7(), "admin", &hash, "superadmin").await.context("cannot make the first user")? {
        first.created("admin");
    } else {
        first.not_needed()?;
    }
    Ok(())
}

/// The same in a process that needs no data directory but for this: others on this machine may be at it now.
///
/// # Errors
/// When the store or the data directory does not take it.
pub async fn first_user_of_many(config: &Config, store: &dyn Store) -> anyhow::Result<()> {
    let until = Instant::now() + OTHERS_START;
    loop {
        if store.has_users().await.context("cannot read the users")? {
            return Ok(());
        }
        match DataDir::open(&config.data_dir) {
            Ok(data_dir) => return first_user(config, &data_dir, store).await,
            Err(error) if error.is::<Held>() && Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => {
                return Err(error.context(
                    "the database has no user yet, and the first one's password is written into the data directory \
                     unless PATCHBAY_ADMIN_PASSWORD is set",
                ));
            }
        }
    }
}

/// Listens on an address.
///
/// # Errors
/// One line with the address and its setting.
pub fn listen(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // So that a restart need not wait until the old connections have left TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address} ({setting})"))
}

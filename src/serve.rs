//! The order in which a server starts and stops, for each role, in one place.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, bail};
use bus::MemoryBus;
use gateway::{
    Gateway,
    admin::{Admin, AdminRequest, hash_password},
    metrics::Metrics,
};
use serde_json::{Value, json};
use store::{Clock, Store, sqlite::SqliteStore};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;
use worker::{Queues, Worker};

use crate::{
    admin,
    config::{Config, DatabaseUrl, Secret},
    data_dir::{self, DataDir},
    limits, logging,
    password::FirstAdmin,
    signals, wiring,
};

/// Connections that the kernel holds for us while we accept; a fleet comes back all at once. The system's own
/// `somaxconn` (4,096 by default) bounds it further.
const BACKLOG: u32 = 4_096;

/// Gateway and worker in one process. Returns after a stop in order.
///
/// # Errors
/// Everything that keeps it from starting, a line each.
pub async fn embedded(config: Config) -> anyhow::Result<()> {
    // --- Start -------------------------------------------------------------------------------------------------------
    // What can be wrong comes first: the lock names a second server better than its taken port would.
    logging::init("info")?;
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone())?;
    if let Some(files) = config.tls_cert.clone().zip(config.tls_key.clone()) {
        gateway::server::check_tls(&files).context("PATCHBAY_TLS_CERT, PATCHBAY_TLS_KEY")?;
    }
    let data_dir = DataDir::open(&config.data_dir)?;
    let public = listen(config.listen, "PATCHBAY_LISTEN")?;
    let internal = listen(config.internal_listen, "PATCHBAY_INTERNAL_LISTEN")?;
    // Before anybody is served: who is told that we are ready may use it. What comes earlier waits in the kernel.
    let admin_socket = admin::Server::bind(data_dir.path())?;
    let mut settings = wiring::gateway_settings(&config, &secret(&config, &data_dir)?);
    settings.max_connections = limits::agents_that_fit(settings.max_connections);

    let sqlite = open_store(&config).await?;
    let store: Arc<dyn Store> = sqlite.clone();
    first_user(&config, &data_dir, store.as_ref()).await?;
    // Nobody is connected yet, and whoever had commands in hand is dead: the data directory is ours alone.
    let cleared = store.clear_hints().await.context("cannot clear the hints of the last run")?;
    let recovered = store.recover().await.context("cannot look at the commands of the last run")?;
    if cleared + recovered > 0 {
        tracing::info!(
            hosts = cleared,
            commands = recovered,
            "the last run did not end in order: going on where it was"
        );
    }
    let bus = wiring::open_bus(&config).await?;
    let metrics = Arc::new(Metrics::new().context("cannot make the instruments")?);
    let worker_settings = wiring::worker_settings(&config);
    let gateway = Gateway::start(settings, store.clone(), bus.clone(), metrics, public, internal).await?;
    let worker = Worker::start(&worker_settings, store.clone(), bus.clone(), &Queues::Sqlite(sqlite.clone()));

    let tasks = TaskTracker::new();
    let stop_admin = CancellationToken::new();
    let operations = Operations { admin: Admin::new(store, bus), drain: Some(stop.clone()) };
    tasks.spawn(admin_socket.serve(Arc::new(operations), stop_admin.clone()));

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %gateway.address(),
        internal = %gateway.internal_address(),
        tls = config.tls_cert.is_some(),
        data_dir = %data_dir.path().display(),
        "serving"
    );
    tokio::select! {
        () = stop.cancelled() => {}
        () = gateway.app().draining.cancelled() => {}
    }

    // --- Stop --------------------------------------------------------------------------------------------------------
    // Not ready, refuse newcomers; drain the sockets while the worker stops fetching; wait for what runs; then the bus,
    // the store and at last telemetry. The admin commands end with the store that they use.
    tokio::join!(gateway.stop(), worker.stop());
    stop_admin.cancel();
    tasks.close();
    tasks.wait().await;
    sqlite.close().await;
    tracing::info!("stopped");
    // The lock on the data directory goes last.
    drop(data_dir);
    Ok(())
}

async fn open_store(config: &Config) -> anyhow::Result<Arc<SqliteStore>> {
    let DatabaseUrl::Sqlite(path) = config.database() else {
        bail!("DATABASE_URL: PostgreSQL cannot be used yet");
    };
    data_dir::private_file(&path)?;
    let options = wiring::store_options(config);
    let store = SqliteStore::open(&path, clock(), options).await;
    Ok(Arc::new(store.with_context(|| format!("cannot use the database {}", path.display()))?))
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
async fn first_user(config: &Config, data_dir: &DataDir, store: &dyn Store) -> anyhow::Result<()> {
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

/// A gateway on its own.
///
/// # Errors
/// Always in this version; [`Config::load`] has said why before.
pub fn gateway(_config: Config) -> anyhow::Result<()> {
    bail!("`patchbay gateway` needs NATS and PostgreSQL, which this version cannot use yet; run `patchbay` alone");
}

/// A worker on its own.
///
/// # Errors
/// Always in this version; [`Config::load`] has said why before.
pub fn worker(_config: Config) -> anyhow::Result<()> {
    bail!("`patchbay worker` needs NATS and PostgreSQL, which this version cannot use yet; run `patchbay` alone");
}

/// Admin commands on a data directory that no server runs on.
///
/// # Errors
/// When the store cannot be opened.
pub async fn executor_without_server(config: &Config, data_dir: &DataDir) -> anyhow::Result<Operations> {
    let store = open_store(config).await?;
    first_user(config, data_dir, store.as_ref()).await?;
    // Nobody listens: what is told on this bus concerns nobody.
    Ok(Operations { admin: Admin::new(store, Arc::new(MemoryBus::new())), drain: None })
}

/// Admin commands on the store.
pub struct Operations {
    admin: Admin,
    /// Stops the running server, where there is one.
    drain: Option<CancellationToken>,
}

impl admin::Executor for Operations {
    async fn run(&self, request: Value) -> Result<Value, String> {
        match (request.get("op").and_then(Value::as_str), &self.drain) {
            (Some("drain"), Some(stop)) => {
                stop.cancel();
                return Ok(json!({"draining": true}));
            }
            // The store was migrated when it was opened.
            (Some("migrate"), _) => return Ok(json!({"migrated": true})),
            _ => {}
        }
        let request: AdminRequest = serde_json::from_value(request).map_err(|error| error.to_string())?;
        self.admin.run(request).await.map_err(|error| error.to_string())
    }
}

/// The configured secret, or the one in the data directory.
fn secret(config: &Config, data_dir: &DataDir) -> anyhow::Result<Secret> {
    match &config.secret {
        Some(secret) => Ok(secret.clone()),
        None => data_dir.secret(),
    }
}

fn listen(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // So that a restart need not wait until the old connections have left TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address} ({setting})"))
}

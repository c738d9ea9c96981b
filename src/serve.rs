//! The order in which a server starts and stops, for each role, in one place.
//!
//! Start: what can be wrong comes first (configuration, certificate, data directory, ports), then the store, the first
//! user, the bus, and at last what uses them. Stop: not ready, refuse newcomers; drain the sockets while the worker stops
//! fetching; wait for what runs; then the bus, the store and at last telemetry.

use std::sync::Arc;

use anyhow::Context as _;
use gateway::{
    Gateway,
    admin::{Admin, AdminRequest},
    server::Internal,
};
use serde_json::{Value, json};
use store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use worker::Worker;

use crate::{
    admin,
    config::{Config, Secret},
    data_dir::DataDir,
    limits,
    parts::{Opened, first_user, first_user_of_many, listen},
    signals,
    telemetry::Telemetry,
    version::VERSION,
    wiring,
};

/// Gateway and worker in one process. Returns after a stop in order.
///
/// # Errors
/// Everything that keeps it from starting, a line each.
pub async fn embedded(config: Config) -> anyhow::Result<()> {
    let (stop, mut telemetry) = begin(&config, "patchbay")?;
    // The lock names a second server better than its taken port would.
    let data_dir = DataDir::open(&config.data_dir)?;
    let public = listen(config.listen, "PATCHBAY_LISTEN")?;
    let internal = listen(config.internal_listen, "PATCHBAY_INTERNAL_LISTEN")?;
    // Before anybody is served: who is told that we are ready may use it. What comes earlier waits in the kernel.
    let admin_socket = admin::Server::bind(data_dir.path())?;
    let settings = gateway_settings(&config, &secret(&config, &data_dir)?);

    let opened = Opened::open(&config).await?;
    let store = opened.store();
    first_user(&config, &data_dir, store.as_ref()).await?;
    if !opened.is_shared() {
        go_on(store.as_ref()).await?;
    }
    let bus = wiring::open_bus(&config).await?;
    let metrics = telemetry.instruments()?;
    let gateway = Gateway::start(settings, store.clone(), bus.clone(), metrics.clone(), public, internal).await?;
    let listening = opened.listen();
    let worker = Worker::start(&wiring::worker_settings(&config), store.clone(), bus.clone(), &opened.queues());

    let tasks = TaskTracker::new();
    let stop_admin = CancellationToken::new();
    let operations = Operations { admin: Admin::new(store, bus.clone()), drain: Some(stop.clone()) };
    tasks.spawn(admin_socket.serve(Arc::new(operations), stop_admin.clone()));

    tracing::info!(
        version = VERSION,
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

    tokio::join!(gateway.stop(), worker.stop());
    // The admin commands end with the store that they use.
    stop_admin.cancel();
    tasks.close();
    tasks.wait().await;
    if let Some(listening) = listening {
        listening.abort();
    }
    bus.flush().await;
    opened.close().await;
    telemetry.stop(metrics).await;
    tracing::info!("stopped");
    // The lock on the data directory goes last.
    drop(data_dir);
    Ok(())
}

/// A gateway on its own: sockets and HTTP. Keeps nothing that another would miss.
///
/// # Errors
/// Everything that keeps it from starting, a line each.
pub async fn gateway(config: Config) -> anyhow::Result<()> {
    let (stop, mut telemetry) = begin(&config, "gateway")?;
    let public = listen(config.listen, "PATCHBAY_LISTEN")?;
    let internal = listen(config.internal_listen, "PATCHBAY_INTERNAL_LISTEN")?;
    let secret = config.secret.clone().context("PATCHBAY_SECRET is not set")?;
    let settings = gateway_settings(&config, &secret);
    let opened = Opened::open(&config).await?;
    first_user_of_many(&config, opened.store().as_ref()).await?;
    let bus = wiring::open_bus(&config).await?;
    let metrics = telemetry.instruments()?;
    let gateway = Gateway::start(settings, opened.store(), bus.clone(), metrics.clone(), public, internal).await?;
    tracing::info!(
        version = VERSION,
        gateway = %gateway.app().gateway_id,
        listen = %gateway.address(),
        internal = %gateway.internal_address(),
        tls = config.tls_cert.is_some(),
        "gateway serving"
    );
    tokio::select! {
        () = stop.cancelled() => {}
        () = gateway.app().draining.cancelled() => {}
    }
    gateway.stop().await;
    bus.flush().await;
    opened.close().await;
    telemetry.stop(metrics).await;
    tracing::info!("stopped");
    Ok(())
}

/// A worker on its own: jobs, the sweep, the schedules.
///
/// # Errors
/// Everything that keeps it from starting, a line each.
pub async fn worker(config: Config) -> anyhow::Result<()> {
    let (stop, mut telemetry) = begin(&config, "worker")?;
    let internal = listen(config.internal_listen, "PATCHBAY_INTERNAL_LISTEN")?;
    let opened = Opened::open(&config).await?;
    first_user_of_many(&config, opened.store().as_ref()).await?;
    let bus = wiring::open_bus(&config).await?;
    let metrics = telemetry.instruments()?;
    let internal = Internal::start(internal, VERSION, metrics.clone(), &bus)?;
    let listening = opened.listen();
    let worker = Worker::start(&wiring::worker_settings(&config), opened.store(), bus.clone(), &opened.queues());
    internal.started();
    tracing::info!(version = VERSION, internal = %internal.address(), "worker running");
    tokio::select! {
        () = stop.cancelled() => {}
        () = internal.draining().cancelled() => {}
    }
    internal.draining().cancel();
    tracing::info!("fetching no more, finishing what is in hand");
    worker.stop().await;
    internal.stop().await;
    if let Some(listening) = listening {
        listening.abort();
    }
    bus.flush().await;
    opened.close().await;
    telemetry.stop(metrics).await;
    tracing::info!("stopped");
    Ok(())
}

/// What every role begins with. The token is cancelled when the process is to stop.
fn begin(config: &Config, service: &'static str) -> anyhow::Result<(CancellationToken, Telemetry)> {
    let telemetry = Telemetry::start(service, "info,sqlx::postgres::notice=warn")?;
    let stop = CancellationToken::new();
    signals::cancel_on_signal(stop.clone())?;
    if let Some(files) = config.tls_cert.clone().zip(config.tls_key.clone()) {
        gateway::server::check_tls(&files).context("PATCHBAY_TLS_CERT, PATCHBAY_TLS_KEY")?;
    }
    Ok((stop, telemetry))
}

/// Nobody is connected yet, and whoever had commands in hand is dead: the database is ours alone.
async fn go_on(store: &dyn Store) -> anyhow::Result<()> {
    let cleared = store.clear_hints().await.context("cannot clear the hints of the last run")?;
    let ended = store.end_terminals_of(None, "the server was restarted");
    let ended = ended.await.context("cannot end the terminals of the last run")?;
    let recovered = store.recover().await.context("cannot look at the commands of the last run")?;
    if cleared + ended + recovered > 0 {
        tracing::info!(
            hosts = cleared,
            terminals = ended,
            commands = recovered,
            "the last run did not end in order: going on where it was"
        );
    }
    Ok(())
}

fn gateway_settings(config: &Config, secret: &Secret) -> gateway::Settings {
    let mut settings = wiring::gateway_settings(config, secret);
    settings.max_connections = limits::agents_that_fit(settings.max_connections);
    settings
}

/// Admin commands on a data directory that no server runs on.
///
/// # Errors
/// When the store cannot be opened.
pub async fn executor_without_server(config: &Config, data_dir: &DataDir) -> anyhow::Result<Operations> {
    let opened = Opened::open(config).await?;
    let store = opened.store();
    first_user(config, data_dir, store.as_ref()).await?;
    // With the bus of one process nobody listens: what is told on it concerns nobody.
    let bus = wiring::open_bus(config).await?;
    Ok(Operations { admin: Admin::new(store, bus), drain: None })
}

/// Brings a database that many processes use to this version's schema. Nothing else is needed for it, no bus either.
///
/// # Errors
/// When it cannot be opened.
pub async fn migrate(config: &Config) -> anyhow::Result<Value> {
    Opened::open(config).await?.close().await;
    Ok(json!({"migrated": true}))
}

/// Runs one admin command on a database that many processes use, and tells them.
///
/// # Errors
/// When the store or the bus is away, and what the command says.
pub async fn run_shared(config: &Config, request: Value) -> anyhow::Result<Value> {
    use admin::Executor as _;
    let opened = Opened::open_made(config).await?;
    let bus = wiring::open_bus(config).await?;
    let operations = Operations { admin: Admin::new(opened.store(), bus.clone()), drain: None };
    let done = operations.run(request).await;
    // What was told has left this process when it ends.
    bus.flush().await;
    opened.close().await;
    done.map_err(|error| anyhow::anyhow!("{error}"))
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

//! Listening: our own accept loop over hyper (a header deadline, TLS, early ends of idle connections), and the order in
//! which a gateway starts and stops.

mod accept;
mod internal;
mod route;
mod story;
mod tls;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bus::Bus;
use store::Store;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    App, Settings, Shared,
    agent::Agents,
    api::{self, ApiState, Probes},
    dashboard::Dashboards,
    facts::Facts,
    metrics::Metrics,
    presence::Presence,
    socket::Outbox,
    terminal::Terminals,
};

pub use internal::Internal;
pub(crate) use story::{known, traceparent};
pub use tls::TlsError;

/// How long sockets and requests may take to end once they must.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Can the certificate chain and key be used? To be asked before anything is made that a refused start would leave.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn check_tls(files: &(PathBuf, PathBuf)) -> Result<(), TlsError> {
    tls::Certificate::load(files).map(drop)
}

/// A gateway that listens.
pub struct Gateway {
    app: App,
    public: SocketAddr,
    internal: SocketAddr,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The instruments.
    #[error("metrics: {0}")]
    Metrics(String),
    /// The bus.
    #[error("bus: {0}")]
    Bus(#[from] bus::BusError),
    /// A listener.
    #[error("listener: {0}")]
    Listener(#[from] std::io::Error),
}

impl Gateway {
    /// Starts on two bound listeners: agents and API, and the internal one for probes and metrics.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        settings: Settings,
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        metrics: Arc<Metrics>,
        public: TcpListener,
        internal: TcpListener,
    ) -> Result<Self, StartError> {
        let tls = settings.tls.as_ref().map(tls::Certificate::load).transpose()?;
        let (public_at, internal_at) = (public.local_addr()?, internal.local_addr()?);
        let gateway_id = Uuid::now_v7();
        let tasks = TaskTracker::new();
        let closing = CancellationToken::new();
        let app: App = Arc::new(Shared {
            gateway_id,
            agents: Agents::new(&settings, Arc::clone(&metrics)),
            facts: Facts::start(Arc::clone(&store), Arc::clone(&bus), &tasks, closing.clone()),
            presence: Presence::start(Arc::clone(&store), Arc::clone(&bus), gateway_id, &tasks, closing.clone()),
            outbox: Outbox::start(Arc::clone(&bus), &tasks, closing.clone()),
            api: ApiState::new(&settings, gateway_id, Arc::clone(&metrics)),
            dashboards: Dashboards::new(gateway_id),
            terminals: Terminals::new(&settings),
            settings,
            store,
            bus,
            metrics,
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
            closing,
            sockets: TaskTracker::new(),
            tasks,
        });
        app.presence.answer_for(&app.bus, gateway_id, &app.tasks, app.closing.clone()).await?;
        api::start(&app).await?;
        let routes = route::Public::new(&app);
        let process = accept::Process {
            stopping: app.stopping.clone(),
            tasks: app.tasks.clone(),
            health: Arc::clone(&app.api.health),
            max_connections: app.settings.max_connections,
        };
        let probes = Probes {
            version: app.settings.version,
            health: Arc::clone(&app.api.health),
            metrics: Arc::clone(&app.metrics),
            draining: app.draining.clone(),
        };
        app.tasks.spawn(accept::run(process.clone(), public, tls, routes));
        app.tasks.spawn(accept::run(process, internal, None, route::Internal::new(probes)));
        Ok(Self { app, public: public_at, internal: internal_at })
    }

    /// Where agents and clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.public
    }

    /// Where probes and metrics are.
    #[must_use]
    pub fn internal_address(&self) -> SocketAddr {
        self.internal
    }

    /// What its parts share.
    #[must_use]
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Stops: refuse newcomers, close sockets over the drain's time, end the rest, store what is known.
    pub async fn stop(&self) {
        let app = &self.app;
        app.draining.cancel();
        app.metrics.draining();
        app.sockets.close();
        tracing::info!(agents = app.presence.count(), over = ?app.settings.drain, "draining");
        ended("sockets", app.settings.drain + STOP_WAIT, &app.sockets).await;
        app.stopping.cancel();
        ended("sockets", STOP_WAIT, &app.sockets).await;
        app.closing.cancel();
        app.tasks.close();
        ended("tasks", STOP_WAIT, &app.tasks).await;
        // What they told last is on its way, not in a buffer of this process.
        app.bus.flush().await;
    }
}

/// Waits, bounded, and says what is left.
async fn ended(what: &'static str, wait: Duration, tracker: &TaskTracker) {
    if tokio::time::timeout(wait, tracker.wait()).await.is_err() {
        tracing::warn!(what, left = tracker.len(), after = ?wait, "some did not end in time");
    }
}

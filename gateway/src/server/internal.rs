//! The internal listener on its own, for a process that is no gateway: probes, metrics, `/drain`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bus::{Bus, BusStatus};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{accept, ended, route};
use crate::{
    api::{Health, Probes},
    metrics::Metrics,
};

/// How long answers under way may take at the end.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// A listener that serves probes.
pub struct Internal {
    address: SocketAddr,
    health: Arc<Health>,
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Internal {
    /// Serves; not ready until [`Internal::started`].
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn start(
        listener: TcpListener,
        version: &'static str,
        metrics: Arc<Metrics>,
        bus: &Arc<dyn Bus>,
    ) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let (health, tasks) = (Arc::<Health>::default(), TaskTracker::new());
        let (draining, stopping) = (CancellationToken::new(), CancellationToken::new());
        metrics.observe_bus(Arc::clone(bus));
        let probes = Probes { version, health: Arc::clone(&health), metrics, draining: draining.clone() };
        let process = accept::Process {
            stopping: stopping.clone(),
            tasks: tasks.clone(),
            health: Arc::clone(&health),
            max_connections: 0,
        };
        tasks.spawn(accept::run(process, listener, None, route::Internal::new(probes)));
        tasks.spawn(watch(Arc::clone(&health), bus.status(), stopping.clone()));
        Ok(Self { address, health, draining, stopping, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cancelled by `/drain`; to be cancelled when the process stops for another reason.
    #[must_use]
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Everything runs: ready from now on.
    pub fn started(&self) {
        self.health.started();
    }

    /// Ends it.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        ended("probes", STOP_WAIT, &self.tasks).await;
    }
}

async fn watch(health: Arc<Health>, mut status: tokio::sync::watch::Receiver<BusStatus>, stopping: CancellationToken) {
    loop {
        let now = *status.borrow_and_update();
        health.bus(now);
        tokio::select! {
            () = stopping.cancelled() => break,
            changed = status.changed() => if changed.is_err() { break },
        }
    }
}

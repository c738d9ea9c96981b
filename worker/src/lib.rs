//! Runs jobs. Knows no socket: it asks the bus, and tells the store what it learnt.
//!
//! The executor is apalis, as an alarm clock: a task wakes a worker for some commands, the commands' rows say what is to
//! be done ([`deliver`]). What no task wakes, the sweep finds ([`sweep`]).

mod announce;
mod backend;
mod deliver;
mod executor;
mod figures;
mod gateways;
mod maintenance;
mod outcomes;
mod patience;
mod request;
mod snapshot;
mod status;
mod sweep;

use std::{sync::Arc, time::Duration};

use bus::Bus;
use store::{Keep, Store, postgres::PostgresStore, sqlite::SqliteStore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

pub use deliver::Deliverer;
use executor::Ending;
use figures::Figures;

/// Settings of a worker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long final commands, recordings of terminals and the audit log stay.
    pub keep: Keep,
    /// Tasks one queue's workers have in hand at once.
    pub concurrency: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { keep: Keep::default(), concurrency: 64 }
    }
}

/// Where the tasks are: the store's own queue.
#[derive(Clone)]
pub enum Queues {
    /// In the SQLite file.
    Sqlite(Arc<SqliteStore>),
    /// In the PostgreSQL database.
    Postgres(Arc<PostgresStore>),
}

/// A worker that runs.
pub struct Worker {
    ending: Ending,
    tasks: TaskTracker,
    bus: Arc<dyn Bus>,
}

/// How long what is in hand may take at the end.
const STOP_WAIT: Duration = Duration::from_secs(8);

impl Worker {
    /// Starts the queues' workers, the sweep, the schedules, and what tells where the queues stand.
    #[must_use]
    pub fn start(settings: &Settings, store: Arc<dyn Store>, bus: Arc<dyn Bus>, queues: &Queues) -> Self {
        let ending = Ending::default();
        let tasks = TaskTracker::new();
        let deliverer = Deliverer::start(Arc::clone(&store), Arc::clone(&bus), &tasks);
        tasks.spawn(executor::run(
            queues.clone(),
            settings.clone(),
            deliverer.clone(),
            Arc::clone(&store),
            ending.clone(),
        ));
        let figures = Figures::start(&opentelemetry::global::meter("patchbay.worker"));
        tasks.spawn(status::run(Arc::clone(&store), Arc::clone(&bus), figures, ending.leaving.clone()));
        tasks.spawn(sweep::run(Arc::clone(&store), deliverer, ending.leaving.clone()));
        tasks.spawn(gateways::run(Arc::clone(&store), Arc::clone(&bus), ending.leaving.clone()));
        tasks.spawn(maintenance::tick(store, ending.leaving.clone()));
        Self { ending, tasks, bus }
    }

    /// Stops: fetch no more, finish what is in hand. What is left is found by whoever runs next.
    pub async fn stop(&self) {
        self.ending.leaving.cancel();
        self.ending.handlers.close();
        self.tasks.close();
        let ended = timeout(STOP_WAIT, self.ending.handlers.wait()).await;
        self.ending.stopping.cancel();
        if ended.is_err() || timeout(STOP_WAIT, self.tasks.wait()).await.is_err() {
            tracing::warn!("some deliveries did not end in time: their rows say so, the sweep will ask");
        }
        self.bus.flush().await;
    }
}

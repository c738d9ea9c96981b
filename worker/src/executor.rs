//! The queues' workers, by apalis. A handler answers `Ok` whatever became of its commands: the rows say it, and a retry
//! is a new task. A panic is caught here, or its task would run again and again.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use apalis::{layers::WorkerBuilderExt, prelude::*};
use apalis_core::{
    backend::ext::{
        BackendExt,
        poll_strategy::{PollSnapshot, PollStrategy},
    },
    task::metadata::MetadataStore,
    worker::ext::parallelize::ParallelizeExt,
};
use bus::trace;
use futures_util::FutureExt;
use jobs::{
    Queue,
    queue::{DeliverTask, MaintenanceTask},
};
use parking_lot::Mutex;
use store::{Bell, Keep, Store};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    Deliverer, Queues, Settings,
    backend::{Gated, Tasks},
    maintenance,
};

/// Tasks one fetch takes.
pub const FETCH: usize = 32;
/// A worker that was not heard for this long is dead; its tasks are handed to others.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
const MISSED_HEARTBEATS: usize = 3;
/// The queue is looked at this often without a ring: tasks that were pushed for later are due at whole seconds.
pub const TICK: Duration = Duration::from_secs(1);

/// While the database is away the workers of all queues end every few seconds: told so often is enough.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// How the workers come to their end.
///
/// A worker of apalis that shuts down looks at its backend no more until its handlers are done: a fetch under way keeps
/// the writer, and a handler that waits for the writer never ends. So handlers end first, while all is looked at.
#[derive(Clone, Default)]
pub struct Ending {
    /// Handlers that begin from now on do nothing: their rows are found by whoever runs next.
    pub leaving: CancellationToken,
    /// Handlers under way.
    pub handlers: TaskTracker,
    /// No handler is under way: the workers end.
    pub stopping: CancellationToken,
}

/// The settings of a queue's workers, of an engine's own type.
macro_rules! config {
    ($config:ty, $queue:expr) => {
        <$config>::default()
            .queue($queue.name())
            .batch_size(FETCH)
            .heartbeat_interval(HEARTBEAT)
            .missed_heartbeats(MISSED_HEARTBEATS)
    };
}

/// Registers the workers of all queues. The engines' backends are types of their own that share no trait short enough to
/// be written out; so this is a macro.
macro_rules! register {
    ($monitor:expr, $tables:expr, $config:ty, $handlers:expr, $concurrency:expr) => {{
        let mut monitor = $monitor;
        for queue in [Queue::AgentCommands, Queue::Compliance] {
            let (tables, handlers, concurrency) = (Arc::clone(&$tables), $handlers.clone(), $concurrency);
            monitor = monitor.register(move |_| {
                let handlers = handlers.clone();
                let gated = Gated::new(tables.queue_tables(config!($config, queue)), handlers.bell.clone(), queue);
                let backend = Tasks::<_, DeliverTask>::new(gated);
                WorkerBuilder::new(unique_name(queue))
                    .backend(backend.poll_with_strategy(handlers.rung(queue)))
                    .concurrency(concurrency)
                    .parallelize(tokio::spawn)
                    .build(move |task: DeliverTask, metadata: MetadataStore| {
                        handlers.deliver(queue, task, metadata.get("traceparent"))
                    })
            });
        }
        let (tables, handlers) = ($tables, $handlers);
        monitor.register(move |_| {
            let handlers = handlers.clone();
            let queue = Queue::Maintenance;
            let gated = Gated::new(tables.queue_tables(config!($config, queue)), handlers.bell.clone(), queue);
            let backend = Tasks::<_, MaintenanceTask>::new(gated);
            WorkerBuilder::new(unique_name(Queue::Maintenance))
                .backend(backend.poll_with_strategy(handlers.rung(Queue::Maintenance)))
                .concurrency(1)
                .build(move |task: MaintenanceTask| handlers.maintain(task))
        })
    }};
}

/// Runs the workers of all queues until they are told to stop. One that ends by a database error is started again.
pub async fn run(queues: Queues, settings: Settings, deliverer: Deliverer, store: Arc<dyn Store>, ending: Ending) {
    let stopping = ending.stopping.clone();
    let handlers = Handlers { deliverer, keep: settings.keep, bell: Arc::clone(store.bell()), store, ending };
    let told = Mutex::new(None::<Instant>);
    let mut monitor = Monitor::new().should_restart(move |worker, error| {
        let mut told = told.lock();
        if told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
            *told = Some(Instant::now());
            tracing::warn!(worker = worker.name(), %error, "worker ended by an error, is started again");
        } else {
            tracing::debug!(worker = worker.name(), %error, "worker ended by an error, is started again");
        }
        true
    });
    monitor = match queues {
        Queues::Sqlite(tables) => register!(monitor, tables, apalis_sqlite::Config, handlers, settings.concurrency),
        Queues::Postgres(tables) => register!(monitor, tables, apalis_postgres::Config, handlers, settings.concurrency),
    };
    let stop = async move {
        stopping.cancelled().await;
        Ok(())
    };
    if let Err(error) = monitor.run_with_signal(stop).await {
        tracing::error!(%error, "workers ended");
    }
}

/// What handlers need.
#[derive(Clone)]
struct Handlers {
    deliverer: Deliverer,
    store: Arc<dyn Store>,
    bell: Arc<Bell>,
    keep: Keep,
    ending: Ending,
}

impl Handlers {
    fn rung(&self, queue: Queue) -> Rung {
        Rung::new(Arc::clone(&self.bell), queue)
    }

    fn deliver(
        &self,
        queue: Queue,
        task: DeliverTask,
        traceparent: Option<&str>,
    ) -> impl Future<Output = Result<(), BoxDynError>> + use<> {
        // A root of its own: a task of tomorrow is no child of a request of today.
        let span = tracing::info_span!(
            target: trace::TARGET,
            parent: None,
            "process",
            otel.name = format_args!("process {}", queue.name()),
            otel.kind = "consumer",
            messaging.operation.type = "process",
            messaging.destination.name = queue.name(),
            messaging.batch.message_count = i64::try_from(task.ids.len()).unwrap_or(i64::MAX),
        );
        trace::link_stored(&span, traceparent);
        let deliverer = self.deliverer.clone();
        let work = async move {
            if let Err(error) = deliverer.deliver(&task.ids).await {
                tracing::warn!(%error, commands = task.ids.len(), "not taken: the sweep finds them again");
            }
        };
        self.ending.handle(queue, work.instrument(span))
    }

    fn maintain(&self, task: MaintenanceTask) -> impl Future<Output = Result<(), BoxDynError>> + use<> {
        let (store, keep) = (Arc::clone(&self.store), self.keep);
        self.ending.handle(Queue::Maintenance, async move {
            if let Err(error) = maintenance::run(store.as_ref(), &task, &keep).await {
                tracing::warn!(%error, name = task.name, "maintenance goes on at its next tick");
            }
        })
    }
}

/// Never the name of a worker before: what a dead one left locked must not be taken for ours.
fn unique_name(queue: Queue) -> String {
    format!("{}-{}", queue.name(), Uuid::now_v7())
}

impl Ending {
    /// One handler.
    fn handle<W>(&self, queue: Queue, work: W) -> impl Future<Output = Result<(), BoxDynError>> + use<W>
    where
        W: Future<Output = ()>,
    {
        let leaving = self.leaving.clone();
        self.handlers.track_future(async move {
            if !leaving.is_cancelled() && AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tracing::error!(queue = queue.name(), "a handler panicked; its commands are found by the sweep");
            }
            Ok(())
        })
    }
}

/// Wakes a worker when the bell rings, and every second. Whether there is something to look for then, its backend knows.
struct Rung {
    bell: Arc<Bell>,
    queue: Queue,
    seen: u64,
    ticks: Interval,
}

impl Rung {
    fn new(bell: Arc<Bell>, queue: Queue) -> Self {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { seen: bell.rings_for(queue), bell, queue, ticks }
    }
}

impl PollStrategy for Rung {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut woken = false;
        // Each is polled until it is pending: only then will it wake this task.
        while self.bell.poll(self.queue, &mut self.seen, cx) {
            woken = true;
        }
        while self.ticks.poll_tick(cx).is_ready() {
            woken = true;
        }
        if woken { Poll::Ready(Some(())) } else { Poll::Pending }
    }
}

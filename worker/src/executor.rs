//! The queues' workers, by apalis. A handler answers `Ok` whatever became of its commands: the rows say it, and a retry
//! is a new task. A panic is caught here, or its task would run again and again.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
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
    worker::ext::parallelize::ParallelizeExt,
};
use apalis_sqlite::Config;
use futures_util::FutureExt;
use jobs::{
    Queue,
    queue::{DeliverTask, MaintenanceTask},
};
use store::{Bell, Store};
use tokio::time::{Instant, Interval, MissedTickBehavior, Sleep, interval_at, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Deliverer, Queues, Settings, maintenance};

/// Tasks one fetch takes.
const FETCH: usize = 32;
/// A worker that was not heard for this long is dead; its tasks are handed to others.
const HEARTBEAT: Duration = Duration::from_secs(5);
const MISSED_HEARTBEATS: usize = 3;
/// The queue is looked at this often without a ring: tasks that were pushed for later are due at whole seconds.
const TICK: Duration = Duration::from_secs(1);
/// A ring that falls into a fetch under way is heard by ringing once more.
const RING_AGAIN: Duration = Duration::from_millis(4);

/// Runs the workers of all queues until `stopping`. One that ends by a database error is started again.
pub async fn run(
    queues: Queues,
    settings: Settings,
    deliverer: Deliverer,
    store: Arc<dyn Store>,
    stopping: CancellationToken,
) {
    let Queues::Sqlite(sqlite) = queues;
    let mut monitor = Monitor::new().should_restart(|worker, error| {
        tracing::warn!(worker = worker.name(), %error, "worker ended by an error, is started again");
        true
    });
    for queue in [Queue::AgentCommands, Queue::Compliance] {
        let (sqlite, deliverer, bell, concurrency) =
            (Arc::clone(&sqlite), deliverer.clone(), Arc::clone(store.bell()), settings.concurrency);
        monitor = monitor.register(move |_| {
            let deliverer = deliverer.clone();
            WorkerBuilder::new(unique_name(queue))
                .backend(sqlite.backend::<DeliverTask>(config(queue)).poll_with_strategy(Rung::new(Arc::clone(&bell))))
                .concurrency(concurrency)
                .parallelize(tokio::spawn)
                .build(move |task: DeliverTask| {
                    let deliverer = deliverer.clone();
                    caught(queue, async move {
                        if let Err(error) = deliverer.deliver(&task.ids).await {
                            tracing::warn!(%error, commands = task.ids.len(), "not taken: the sweep finds them again");
                        }
                    })
                })
        });
    }
    let (bell, keep) = (Arc::clone(store.bell()), settings.keep);
    monitor = monitor.register(move |_| {
        let store = Arc::clone(&store);
        WorkerBuilder::new(unique_name(Queue::Maintenance))
            .backend(
                sqlite
                    .backend::<MaintenanceTask>(config(Queue::Maintenance))
                    .poll_with_strategy(Rung::new(Arc::clone(&bell))),
            )
            .concurrency(1)
            .build(move |task: MaintenanceTask| {
                let store = Arc::clone(&store);
                caught(Queue::Maintenance, async move {
                    if let Err(error) = maintenance::run(store.as_ref(), &task, keep).await {
                        tracing::warn!(%error, name = task.name, "maintenance goes on at its next tick");
                    }
                })
            })
    });
    let stop = async move {
        stopping.cancelled().await;
        Ok(())
    };
    if let Err(error) = monitor.run_with_signal(stop).await {
        tracing::error!(%error, "workers ended");
    }
}

fn config(queue: Queue) -> Config {
    Config::default()
        .queue(queue.name())
        .batch_size(FETCH)
        .heartbeat_interval(HEARTBEAT)
        .missed_heartbeats(MISSED_HEARTBEATS)
}

/// Never the name of a worker before: what a dead one left locked must not be taken for ours.
fn unique_name(queue: Queue) -> String {
    format!("{}-{}", queue.name(), Uuid::now_v7())
}

async fn caught(queue: Queue, work: impl Future<Output = ()>) -> Result<(), BoxDynError> {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(queue = queue.name(), "a handler panicked; its commands are found by the sweep");
    }
    Ok(())
}

/// Wakes a worker when the bell rings, once more shortly after, and every second.
struct Rung {
    bell: Arc<Bell>,
    seen: u64,
    again: Option<Pin<Box<Sleep>>>,
    ticks: Interval,
}

impl Rung {
    fn new(bell: Arc<Bell>) -> Self {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { seen: bell.rings(), bell, again: None, ticks }
    }
}

impl PollStrategy for Rung {
    fn poll_drive(&mut self, cx: &mut Context<'_>, _: &PollSnapshot) -> Poll<Option<()>> {
        let mut woken = false;
        // Each is polled until it is pending: only then will it wake this task.
        while self.bell.poll(&mut self.seen, cx) {
            woken = true;
            self.again = Some(Box::pin(sleep(RING_AGAIN)));
        }
        if let Some(again) = &mut self.again
            && again.as_mut().poll(cx).is_ready()
        {
            woken = true;
            self.again = None;
        }
        while self.ticks.poll_tick(cx).is_ready() {
            woken = true;
        }
        if woken { Poll::Ready(Some(())) } else { Poll::Pending }
    }
}

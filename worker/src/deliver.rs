//! Delivery: rows are taken, their holders asked side by side, the outcomes stored.

use std::{sync::Arc, time::Duration};

use bus::Bus;
use futures_util::{StreamExt, stream::FuturesUnordered};
use jobs::{Event, Outcome};
use schemas::message::{Mode, Part};
use store::{Applied, Store, StoreError};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{announce::announce, outcomes::Outcomes, patience::apply, request};

/// Delivers commands.
#[derive(Clone)]
pub struct Deliverer {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    outcomes: Outcomes,
}

impl Deliverer {
    /// Starts the task that stores outcomes.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, bus: Arc<dyn Bus>, tasks: &TaskTracker) -> Self {
        Self { outcomes: Outcomes::start(Arc::clone(&store), Arc::clone(&bus), tasks), store, bus }
    }

    /// Looks at the commands a task names and does what their rows ask for.
    ///
    /// # Errors
    /// Those of the store; nothing was sent then.
    pub async fn deliver(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        store::failpoint::hit("task_fetched");
        let takes: Vec<(Uuid, Event<'static>)> = ids.iter().map(|id| (*id, Event::Take { blocked: false })).collect();
        let taken = apply(self.store.as_ref(), &takes, "tasks").await?;
        if taken.iter().any(|a| a.step.asks.command.is_some()) {
            store::failpoint::hit("sending_written");
        }
        announce(self.bus.as_ref(), &taken).await;
        self.fulfil(taken).await;
        Ok(())
    }

    /// Tells everybody which of these moved.
    pub async fn tell(&self, rows: &[Applied]) {
        announce(self.bus.as_ref(), rows).await;
    }

    /// Makes the requests that rows ask for, side by side: one dead host delays no other.
    pub async fn fulfil(&self, rows: Vec<Applied>) {
        let mut requests: FuturesUnordered<_> =
            rows.into_iter().filter(|row| !row.step.asks.is_empty()).map(|row| self.ask_for(row)).collect();
        while requests.next().await.is_some() {}
    }

    async fn ask_for(&self, row: Applied) {
        let Applied { command, host, step } = row;
        if let Some(mode) = step.asks.command {
            if mode == Mode::Deliver {
                self.wait_for_slot(command.not_before).await;
            }
            let now = self.store.clock().now_ms();
            let outcome = request::ask(self.bus.as_ref(), &command, &host, Part::Command, mode, now).await;
            tracing::debug!(command_id = %command.id, kind = command.kind.name(), ?mode, ?outcome, "asked the holder");
            let attempt = command.attempt;
            // A probe without an answer has learnt nothing.
            if mode != Mode::Probe || outcome != Outcome::Unknown {
                self.outcomes.store(command.id, Event::Outcome { attempt, outcome }).await;
            }
        }
        if step.asks.cancel {
            let now = self.store.clock().now_ms();
            let outcome = request::ask(self.bus.as_ref(), &command, &host, Part::Cancel, Mode::Deliver, now).await;
            store::failpoint::hit("cancel_written");
            tracing::debug!(command_id = %command.id, ?outcome, "asked the holder to cancel");
        }
    }

    /// A task is due at a whole second; the command's place in the fleet's pace is finer.
    async fn wait_for_slot(&self, not_before: i64) {
        let wait = not_before - self.store.clock().now_ms();
        if let Ok(wait) = u64::try_from(wait)
            && wait > 0
        {
            tokio::time::sleep(Duration::from_millis(wait.min(2_000))).await;
        }
    }
}

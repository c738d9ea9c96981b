//! Outcomes on their way to the store: those of all deliveries together, in as few transactions as the store's pace
//! allows. A slow host's outcome holds up nobody else's.

use std::sync::Arc;

use bus::Bus;
use jobs::{Event, State};
use store::{Applied, Store};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::{announce::announce, patience::apply};

/// Outcomes in one transaction.
const BATCH: usize = 256;
/// Outcomes that wait; a delivery that finds no place waits for one.
const WAITING: usize = 4_096;

struct Item {
    id: Uuid,
    event: Event<'static>,
    stored: oneshot::Sender<bool>,
}

/// The way to the store.
#[derive(Clone)]
pub struct Outcomes(mpsc::Sender<Item>);

impl Outcomes {
    /// Starts the task that writes; it ends when all deliveries are done.
    pub fn start(store: Arc<dyn Store>, bus: Arc<dyn Bus>, tasks: &TaskTracker) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        tasks.spawn(write(store, bus, receiver));
        Self(sender)
    }

    /// Stores an outcome; false when the store did not take it.
    pub async fn store(&self, id: Uuid, event: Event<'static>) -> bool {
        let (stored, wait) = oneshot::channel();
        self.0.send(Item { id, event, stored }).await.is_ok() && wait.await.unwrap_or(false)
    }
}

async fn write(store: Arc<dyn Store>, bus: Arc<dyn Bus>, mut receiver: mpsc::Receiver<Item>) {
    let mut items: Vec<Item> = Vec::with_capacity(BATCH);
    loop {
        if receiver.recv_many(&mut items, BATCH).await == 0 {
            break;
        }
        // A command is at most once in a batch: its events apply one after the other.
        let mut rest = std::mem::take(&mut items);
        while !rest.is_empty() {
            let mut seen = std::collections::HashSet::new();
            let (batch, later): (Vec<Item>, Vec<Item>) = rest.into_iter().partition(|item| seen.insert(item.id));
            rest = later;
            write_batch(store.as_ref(), bus.as_ref(), batch).await;
        }
    }
}

async fn write_batch(store: &dyn Store, bus: &dyn Bus, batch: Vec<Item>) {
    let (events, answers): (Vec<_>, Vec<_>) = batch.into_iter().map(|i| ((i.id, i.event), i.stored)).unzip();
    let stored = match apply(store, &events, "outcomes").await {
        Ok(applied) => {
            store::failpoint::hit("outcome_stored");
            // A sign that came while the outcome was open has moved the row further in the same step.
            let proved = |a: &Applied| a.command.entered_in_attempt(State::Delivered).is_some();
            if applied.iter().any(|a| a.step.moved && proved(a)) {
                store::failpoint::hit("delivered_written");
            }
            announce(bus, &applied).await;
            true
        }
        Err(error) => {
            tracing::error!(%error, outcomes = events.len(), "outcomes are not stored: the sweep will ask again");
            false
        }
    };
    for answer in answers {
        let _ = answer.send(stored);
    }
}

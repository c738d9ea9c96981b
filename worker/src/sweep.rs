//! The sweep: once a second, rows whose time has come. It alone makes any crash harmless.

use std::{sync::Arc, time::Duration};

use store::Store;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::Deliverer;

/// Rows one turn claims.
const TURN: u32 = 1_000;
const EVERY: Duration = Duration::from_secs(1);
/// Turns whose requests are under way at once.
const TURNS: usize = 8;

/// Sweeps until `stopping`.
pub async fn run(store: Arc<dyn Store>, deliverer: Deliverer, stopping: CancellationToken) {
    let mut ticks = interval_at(Instant::now(), EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let turns = Arc::new(tokio::sync::Semaphore::new(TURNS));
    let asked = tokio_util::task::TaskTracker::new();
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => break,
            _ = ticks.tick() => {}
        }
        if let Err(error) = store.fold_counts().await {
            tracing::debug!(%error, "counts are folded at the next turn");
        }
        let Ok(turn) = Arc::clone(&turns).try_acquire_owned() else {
            continue;
        };
        match store.claim_due(TURN).await {
            Ok(due) if due.is_empty() => {}
            Ok(due) => {
                tracing::debug!(rows = due.len(), "swept");
                let deliverer = deliverer.clone();
                asked.spawn(async move {
                    let rows: Vec<_> = due.into_iter().map(|d| d.applied).collect();
                    deliverer.tell(&rows).await;
                    deliverer.fulfil(rows).await;
                    drop(turn);
                });
            }
            Err(error) => tracing::warn!(%error, "the sweep waits for the store"),
        }
    }
    asked.close();
    asked.wait().await;
}

//! Schedules and housekeeping.

use std::{sync::Arc, time::Duration};

use jobs::queue::{MaintenanceTask, RETENTION, SCHEDULES};
use store::{Keep, Store, StoreError};
use tokio_util::sync::CancellationToken;

/// How often the schedules are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Pause between two batches of retention: others want the writer.
const BREATH: Duration = Duration::from_millis(50);

/// Makes the schedules' ticks until `stopping`; whoever inserts a tick first pushes its task.
pub async fn tick(store: Arc<dyn Store>, stopping: CancellationToken) {
    loop {
        for schedule in &SCHEDULES {
            if let Err(error) = store.tick(schedule).await {
                tracing::warn!(%error, schedule = schedule.name, "no tick");
            }
        }
        tokio::select! {
            () = stopping.cancelled() => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Runs one maintenance task.
pub async fn run(store: &dyn Store, task: &MaintenanceTask, keep: &Keep) -> Result<(), StoreError> {
    if task.name != RETENTION.name {
        tracing::warn!(name = task.name, "a task that this version does not know");
        return Ok(());
    }
    let mut removed = 0;
    loop {
        let batch = store.retire(keep).await?.total() + store.retire_status().await? + store.retire_tickets().await?;
        removed += batch;
        if batch == 0 {
            break;
        }
        tokio::time::sleep(BREATH).await;
    }
    tracing::info!(rows = removed, "retention done");
    Ok(())
}

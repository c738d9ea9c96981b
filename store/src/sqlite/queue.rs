//! The queue's tables: the only module of this adapter that names apalis. Tasks are pushed in the transaction that
//! moves the rows; a task is due at a whole second.

use std::collections::{BTreeMap, BTreeSet};

use apalis_core::task::builder::TaskBuilder;
use apalis_sqlite::{SqlitePool, SqliteStorage, SqliteTask};
use jobs::{
    Queue,
    queue::{DeliverTask, MaintenanceTask, TASK_IDS_MAX},
};
use sqlx::{Sqlite, SqliteConnection, Transaction};
use uuid::Uuid;

use super::{SqliteStore, unavailable};
use crate::StoreError;

/// The backend of the executor for one queue.
pub type Backend<T> = SqliteStorage<T>;

/// Brings the queue's tables up to date. Its own `setup` would switch durability off.
pub(super) async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut theirs = SqliteStorage::<()>::migrations();
    // As with ours: a newer program's are no reason to refuse, its floor is.
    theirs.set_ignore_missing(true);
    theirs.run(pool).await.map_err(|e| StoreError::Unavailable(e.to_string()))
}

pub(super) const OLD_TASKS: &str = "DELETE FROM Jobs WHERE rowid IN (SELECT rowid FROM Jobs WHERE status IN ('Done', 'Failed', 'Killed') \
             AND done_at IS NOT NULL AND done_at < $1 LIMIT $2)";

pub(super) const OLD_WORKERS: &str = "DELETE FROM Workers WHERE last_seen < strftime('%s', 'now') - 3600 \
             AND NOT EXISTS (SELECT 1 FROM Jobs WHERE lock_by = Workers.id)";

impl SqliteStore {
    /// The executor's backend for a queue. It shares the one writer connection.
    #[must_use]
    pub fn backend<T>(&self, config: apalis_sqlite::Config) -> Backend<T> {
        SqliteStorage::new(&self.writer).with_config(config)
    }

    /// Hands tasks that a dead process of this machine had in hand back to the queue; at the start of the embedded
    /// process, when nobody else can be working.
    pub(super) async fn release_tasks(tx: &mut Transaction<'_, Sqlite>) -> Result<u64, StoreError> {
        let released = sqlx::query(
            "UPDATE Jobs SET status = 'Pending', lock_by = NULL, lock_at = NULL WHERE status IN ('Queued', 'Running')",
        )
        .execute(&mut **tx)
        .await
        .map_err(unavailable)?;
        Ok(released.rows_affected())
    }

    /// Removes finished tasks, whatever their end, and workers that have been silent for an hour.
    pub(super) async fn retire_tasks(
        tx: &mut SqliteConnection,
        before_secs: i64,
        limit: i64,
    ) -> Result<u64, StoreError> {
        let tasks =
            sqlx::query(OLD_TASKS).bind(before_secs).bind(limit).execute(&mut *tx).await.map_err(unavailable)?;
        let workers = sqlx::query(OLD_WORKERS).execute(&mut *tx).await.map_err(unavailable)?;
        Ok(tasks.rows_affected() + workers.rows_affected())
    }
}

/// Tasks to push at the end of a transaction: commands by queue and second, each once, the oldest first.
#[derive(Default)]
pub(super) struct Tasks {
    due: BTreeMap<(Queue, u64), BTreeSet<Uuid>>,
    traces: Option<String>,
    now: i64,
}

impl Tasks {
    pub fn new(now: i64) -> Self {
        Self { now, ..Self::default() }
    }

    /// All tasks of this transaction belong to this trace.
    pub fn trace(&mut self, traceparent: Option<&str>) {
        self.traces = traceparent.map(str::to_owned);
    }

    pub fn add(&mut self, queue: Queue, id: Uuid, at: i64) {
        // What is due now is due at 0: the queue compares whole seconds of another clock.
        let second = if at <= self.now { 0 } else { u64::try_from(at.div_euclid(1000)).unwrap_or(0) };
        self.due.entry((queue, second)).or_default().insert(id);
    }

    /// Pushes them. Answers the queues to ring for after the commit: those with a task that is due now.
    pub async fn push(self, tx: &mut Transaction<'_, Sqlite>) -> Result<Vec<Queue>, StoreError> {
        let mut ring = Vec::new();
        for ((queue, second), ids) in self.due {
            let due = second == 0 || second * 1000 <= u64::try_from(self.now).unwrap_or(0);
            if due && !ring.contains(&queue) {
                ring.push(queue);
            }
            let ids: Vec<Uuid> = ids.into_iter().collect();
            let mut tasks = Vec::with_capacity(ids.len() / TASK_IDS_MAX + 1);
            for ids in ids.chunks(TASK_IDS_MAX) {
                tasks.push(task(&DeliverTask { ids: ids.to_vec() }, second, self.traces.as_deref())?);
            }
            apalis_sqlite::queries::push_tasks(&mut **tx, queue.name(), &tasks)
                .await
                .map_err(|e| StoreError::Unavailable(e.to_string()))?;
        }
        Ok(ring)
    }
}

/// Pushes a maintenance task that is due now.
pub(super) async fn push_maintenance(tx: &mut Transaction<'_, Sqlite>, name: &str) -> Result<(), StoreError> {
    let body = MaintenanceTask { name: name.to_owned() };
    apalis_sqlite::queries::push_tasks(&mut **tx, Queue::Maintenance.name(), &[task(&body, 0, None)?])
        .await
        .map_err(|e| StoreError::Unavailable(e.to_string()))
}

fn task<T: serde::Serialize>(body: &T, second: u64, traceparent: Option<&str>) -> Result<SqliteTask, StoreError> {
    let bytes = serde_json::to_vec(body).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    let mut builder = TaskBuilder::new(bytes)
        .run_at_timestamp(second)
        // Never by the executor: a retry is a new task, decided by the row.
        .max_attempts(1);
    if let Some(trace) = traceparent {
        let mut metadata = apalis_core::task::metadata::MetadataStore::default();
        metadata.insert_if_absent("traceparent", trace);
        builder = builder.with_metadata(metadata);
    }
    Ok(builder.build())
}

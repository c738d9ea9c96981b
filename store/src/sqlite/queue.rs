//! The queue's tables in SQLite: with its twin for PostgreSQL the only module that names apalis here.

use apalis_core::task::builder::TaskBuilder;
use apalis_sqlite::{SqlitePool, SqliteStorage, SqliteTask};
use jobs::Queue;
use sqlx::SqliteConnection;

use super::SqliteStore;
use crate::{StoreError, sql::NewTask};

/// The backend of the executor for one queue.
pub type Backend<T> = SqliteStorage<T>;

impl SqliteStore {
    /// The executor's backend for a queue. It shares the one writer connection.
    #[must_use]
    pub fn backend<T>(&self, config: apalis_sqlite::Config) -> Backend<T> {
        SqliteStorage::new(&self.engine.writer).with_config(config)
    }
}

/// Brings the queue's tables up to date. Its own `setup` would switch durability off.
pub async fn migrate(pool: &SqlitePool) -> Result<(), StoreError> {
    let mut theirs = SqliteStorage::<()>::migrations();
    // As with ours: a newer program's are no reason to refuse, its floor is.
    theirs.set_ignore_missing(true);
    theirs.run(pool).await.map_err(|e| StoreError::Unavailable(e.to_string()))
}

pub const OLD_TASKS: &str = "DELETE FROM Jobs WHERE rowid IN (SELECT rowid FROM Jobs WHERE status IN ('Done', 'Failed', 'Killed') \
             AND done_at IS NOT NULL AND done_at < $1 LIMIT 1000)";

pub const OLD_WORKERS: &str = "DELETE FROM Workers WHERE last_seen < strftime('%s', 'now') - 3600 \
             AND NOT EXISTS (SELECT 1 FROM Jobs WHERE lock_by = Workers.id)";

/// Hands tasks that a dead process of this machine had in hand back to the queue; at the start of the embedded process,
/// when nobody else can be working.
pub const RELEASE_TASKS: &str =
    "UPDATE Jobs SET status = 'Pending', lock_by = NULL, lock_at = NULL WHERE status IN ('Queued', 'Running')";

/// Pushes tasks within a transaction.
pub async fn push(tx: &mut SqliteConnection, queue: Queue, tasks: Vec<NewTask>) -> Result<(), StoreError> {
    let tasks: Vec<SqliteTask> = tasks.into_iter().map(task).collect();
    apalis_sqlite::queries::push_tasks(tx, queue.name(), &tasks)
        .await
        .map_err(|e| StoreError::Unavailable(e.to_string()))
}

fn task(task: NewTask) -> SqliteTask {
    let mut builder = TaskBuilder::new(task.body)
        .run_at_timestamp(task.second)
        // Never by the executor: a retry is a new task, decided by the row.
        .max_attempts(1);
    if let Some(trace) = task.traceparent {
        let mut metadata = apalis_core::task::metadata::MetadataStore::default();
        metadata.insert_if_absent("traceparent", &trace);
        builder = builder.with_metadata(metadata);
    }
    builder.build()
}

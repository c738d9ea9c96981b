//! The queue's tables in PostgreSQL: with its twin for SQLite the only module that names apalis here.

use apalis_core::task::builder::TaskBuilder;
use apalis_postgres::{PgTask, PostgresStorage};
use jobs::Queue;
use sqlx::{PgConnection, migrate::Migrator};

use super::PostgresStore;
use crate::sql::NewTask;

/// The backend of the executor for one queue.
pub type Backend<T> = PostgresStorage<T>;

impl PostgresStore {
    /// The executor's backend for a queue. It shares the pool.
    #[must_use]
    pub fn backend<T>(&self, config: apalis_postgres::Config) -> Backend<T> {
        PostgresStorage::new(&self.engine.pool).with_config(config)
    }
}

/// The migrations of the queue's tables. As with ours: a newer program's are no reason to refuse, its floor is.
pub fn migrations() -> Migrator {
    let mut theirs = PostgresStorage::<()>::migrations();
    theirs.set_ignore_missing(true);
    theirs
}

/// By which finished tasks are found; the executor has no retention, and no index for one.
pub const DONE: &str = "CREATE INDEX IF NOT EXISTS patchbay_done ON apalis.jobs (done_at) WHERE done_at IS NOT NULL";

pub const OLD_TASKS: &str = "DELETE FROM apalis.jobs WHERE id IN (SELECT id FROM apalis.jobs \
     WHERE status IN ('Done', 'Failed', 'Killed') AND done_at < to_timestamp($1) ORDER BY done_at LIMIT 1000)";

pub const OLD_WORKERS: &str = "DELETE FROM apalis.workers WHERE last_seen < now() - INTERVAL '1 hour' \
     AND NOT EXISTS (SELECT 1 FROM apalis.jobs WHERE lock_by = workers.id)";

/// Pushes tasks within a transaction.
pub async fn push(tx: &mut PgConnection, queue: Queue, tasks: Vec<NewTask>) -> Result<(), sqlx::Error> {
    let tasks: Vec<PgTask> = tasks.into_iter().map(task).collect();
    apalis_postgres::queries::push_tasks(tx, queue.name(), tasks).await.map_err(|error| match error {
        apalis_postgres::Error::Database(error) => error,
        other => sqlx::Error::Protocol(other.to_string()),
    })
}

fn task(task: NewTask) -> PgTask {
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

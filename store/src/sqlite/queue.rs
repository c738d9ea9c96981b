//! The queue's tables in SQLite: with its twin for PostgreSQL the only module that names apalis here.

use std::time::Duration;

use apalis_core::{
    backend::{
        WorkerFilter,
        persistence::{Persistence, TaskEvent},
    },
    task::builder::TaskBuilder,
    worker::context::WorkerContext,
};
use apalis_sqlite::{Config, Error, SqlitePool, SqliteStorage, SqliteTask, queries};
use jobs::Queue;
use sqlx::SqliteConnection;

use super::SqliteStore;
use crate::{StoreError, sql::NewTask};

/// What the executor does to the tables of one queue, each thing in as few statements as it takes.
#[derive(Clone)]
pub struct QueueTables {
    pool: SqlitePool,
    config: Config,
}

impl SqliteStore {
    /// A queue's tables. They share the one writer connection.
    #[must_use]
    pub fn queue_tables(&self, config: Config) -> QueueTables {
        QueueTables { pool: self.engine.writer.clone(), config }
    }
}

impl Persistence for QueueTables {
    type Compact = Vec<u8>;
    type Response = serde_json::Value;
    type Error = Error;

    async fn register(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        let queue = self.config.queue.to_string();
        let mut tx = self.pool.begin().await?;
        let ours = WorkerFilter::Only(worker.name().to_owned());
        let dead_for = seconds(self.config.heartbeat_interval);
        queries::reenqueue_orphaned(&mut *tx, dead_for, &queue, &ours).await?;
        queries::register_worker(&mut *tx, &self.config, worker, "SqliteStorage").await?;
        Ok(tx.commit().await?)
    }

    async fn heartbeat(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        let queue = self.config.queue.to_string();
        let mut tx = self.pool.begin().await?;
        queries::keep_alive(&mut *tx, &self.config, worker).await?;
        let others = WorkerFilter::AllExcept(worker.name().to_owned());
        queries::reenqueue_orphaned(&mut *tx, seconds(self.config.orphaned_duration()), &queue, &others).await?;
        Ok(tx.commit().await?)
    }

    /// One statement, so no transaction around it.
    async fn fetch_next(&mut self, worker: &WorkerContext) -> Result<Vec<SqliteTask>, Error> {
        queries::fetch_next(&self.pool, &self.config, worker).await
    }

    async fn handle_events(
        &mut self,
        events: Vec<TaskEvent<serde_json::Value>>,
        worker: &WorkerContext,
    ) -> Result<(), Error> {
        let done: Vec<_> = events.iter().filter_map(done).collect();
        if !done.is_empty() {
            queries::ack_tasks(&self.pool, &done, worker.name()).await?;
        }
        Ok(())
    }

    async fn reenqueue_abandoned(&mut self, tasks: Vec<SqliteTask>, worker: &WorkerContext) -> Result<u64, Error> {
        let ids: Vec<String> = tasks.iter().filter_map(|task| task.task_id()).map(ToString::to_string).collect();
        let queue = self.config.queue.to_string();
        Ok(queries::reenqueue_abandoned(&self.pool, &queue, worker.name(), &ids).await?)
    }

    async fn push_tasks(&mut self, tasks: Vec<SqliteTask>) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        queries::push_tasks(&mut *tx, self.config.queue.as_ref(), &tasks).await?;
        Ok(tx.commit().await?)
    }
}

fn done(event: &TaskEvent<serde_json::Value>) -> Option<&queries::AckPayload> {
    match event {
        TaskEvent::Complete(result) => Some(result),
        _ => None,
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
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

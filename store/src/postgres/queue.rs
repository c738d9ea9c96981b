//! The queue's tables in PostgreSQL: with its twin for SQLite the only module that names apalis here.

use apalis_core::{
    backend::persistence::{Persistence, TaskEvent},
    task::builder::TaskBuilder,
    worker::context::WorkerContext,
};
use apalis_postgres::{Config, Error, PgPool, PgTask, PostgresStorage, queries};
use jobs::Queue;
use sqlx::{PgConnection, migrate::Migrator};

use super::PostgresStore;
use crate::{Clock, sql::NewTask};

/// What the executor does to the tables of one queue, each thing in as few statements as it takes.
#[derive(Clone)]
pub struct QueueTables {
    pool: PgPool,
    clock: Clock,
    config: Config,
}

impl PostgresStore {
    /// A queue's tables. They share the pool.
    #[must_use]
    pub fn queue_tables(&self, config: Config) -> QueueTables {
        QueueTables { pool: self.engine.pool.clone(), clock: self.engine.clock.clone(), config }
    }
}

impl Persistence for QueueTables {
    type Compact = Vec<u8>;
    type Response = serde_json::Value;
    type Error = Error;

    async fn register(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        let queue = self.config.queue.as_ref();
        let mut tx = self.pool.begin().await?;
        queries::reenqueue_orphaned(&mut *tx, queue, self.config.orphaned_duration().as_secs()).await?;
        let now = self.clock.now_ms() / 1_000;
        queries::register_worker(&mut *tx, queue, worker, &now.into(), "PgStorage").await?;
        Ok(tx.commit().await?)
    }

    async fn heartbeat(&mut self, worker: &WorkerContext) -> Result<(), Error> {
        let queue = self.config.queue.as_ref();
        let mut tx = self.pool.begin().await?;
        queries::keep_alive(&mut *tx, queue, worker).await?;
        queries::reenqueue_orphaned(&mut *tx, queue, self.config.orphaned_duration().as_secs()).await?;
        Ok(tx.commit().await?)
    }

    /// One statement, so no transaction around it.
    async fn fetch_next(&mut self, worker: &WorkerContext) -> Result<Vec<PgTask>, Error> {
        let mut conn = self.pool.acquire().await?;
        queries::fetch_next(&mut *conn, &self.config, worker).await
    }

    async fn handle_events(
        &mut self,
        events: Vec<TaskEvent<serde_json::Value>>,
        worker: &WorkerContext,
    ) -> Result<(), Error> {
        let done: Vec<_> = events.iter().filter_map(done).collect();
        if !done.is_empty() {
            let mut conn = self.pool.acquire().await?;
            queries::handle_results(&mut *conn, &done, worker.name()).await?;
        }
        Ok(())
    }

    async fn reenqueue_abandoned(&mut self, tasks: Vec<PgTask>, worker: &WorkerContext) -> Result<u64, Error> {
        let ids: Vec<String> = tasks.iter().filter_map(|task| task.task_id()).map(ToString::to_string).collect();
        let mut conn = self.pool.acquire().await?;
        queries::reenqueue_abandoned(&mut *conn, self.config.queue.as_ref(), worker.name(), &ids).await
    }

    async fn push_tasks(&mut self, tasks: Vec<PgTask>) -> Result<(), Error> {
        let mut tx = self.pool.begin().await?;
        queries::push_tasks(&mut *tx, self.config.queue.as_ref(), tasks).await?;
        Ok(tx.commit().await?)
    }
}

fn done(event: &TaskEvent<serde_json::Value>) -> Option<&queries::ResultPayload> {
    match event {
        TaskEvent::Complete(result) => Some(result),
        _ => None,
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

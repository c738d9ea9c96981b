//! The SQLite adapter: one file, one writer connection (so nothing inside the process ever meets SQLITE_BUSY), a few
//! readers. WAL with `synchronous = FULL`: what was answered survives a power cut.

mod accounts;
mod batch;
mod commands;
mod hosts;
mod maintenance;
pub mod queue;
mod reports;
mod rows;

use std::{path::Path, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Row, Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Bell, Clock, Store, StoreError};

/// Fleet-wide pace: milliseconds between two paced commands.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Milliseconds between two paced commands of the fleet.
    pub pace_ms: i64,
    /// How long a caller waits for the writer, or for another process that holds the file, before `Unavailable`.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { pace_ms: 5, patience: Duration::from_secs(2) }
    }
}

/// The store in one SQLite file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    clock: Clock,
    bell: Arc<Bell>,
    options: Options,
}

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");

/// Our own table of migrations, so that the queue's cannot be taken for ours.
fn migrations() -> Migrator {
    let mut ours = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    ours.dangerous_set_table_name("_patchbay_migrations");
    ours
}

impl SqliteStore {
    /// Opens the file, makes it when missing, and migrates it.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened, `Corrupt` when it was written by a newer program.
    pub async fn open(path: &Path, clock: Clock, options: Options) -> Result<Self, StoreError> {
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(options.patience)
            .pragma("temp_store", "memory")
            .pragma("cache_size", "-16000")
            .statement_cache_capacity(256);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(options.patience * 2)
            .connect_with(connect.clone())
            .await
            .map_err(unavailable)?;
        let store = Self {
            readers: SqlitePoolOptions::new()
                .max_connections(4)
                .acquire_timeout(options.patience)
                .connect_lazy_with(connect.pragma("query_only", "on")),
            writer,
            clock,
            bell: Arc::default(),
            options,
        };
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let known = migrations();
        known.run(&self.writer).await.map_err(|e| match e {
            sqlx::migrate::MigrateError::VersionMissing(n) => {
                StoreError::Corrupt(format!("the database was migrated (to {n}) by a newer patchbay than this one"))
            }
            other => StoreError::Unavailable(other.to_string()),
        })?;
        queue::migrate(&self.writer).await?;
        self.seed_roles().await
    }

    /// A write transaction. The one writer connection makes these queue up in order.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(unavailable)
    }

    /// A pragma as the writer and as a reader have it: what was set can be lost on the way to a connection.
    #[doc(hidden)]
    pub async fn pragma(&self, name: &str) -> Result<[String; 2], StoreError> {
        let read = async |pool: &SqlitePool| {
            let row = sqlx::query(AssertSqlSafe(format!("PRAGMA {name}"))).fetch_one(pool).await?;
            row.try_get_unchecked::<String, _>(0)
        };
        let (writer, reader) = (read(&self.writer).await, read(&self.readers).await);
        Ok([writer.map_err(unavailable)?, reader.map_err(unavailable)?])
    }

    /// Closes both pools; writes that were answered are in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Store for SqliteStore {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

/// Every database error is "try again later", but for what the caller asked wrongly. The text names no values.
fn unavailable(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::ColumnDecode { index, .. } => StoreError::Corrupt(format!("column {index}")),
        sqlx::Error::PoolTimedOut => StoreError::Unavailable("no connection became free in time".to_owned()),
        other => StoreError::Unavailable(other.to_string()),
    }
}

/// A unique constraint that was broken, as a conflict about `what`.
fn conflict(error: sqlx::Error, what: &'static str) -> StoreError {
    match error.as_database_error() {
        Some(e) if e.is_unique_violation() => StoreError::Conflict(what),
        _ => unavailable(error),
    }
}

#[doc(hidden)]
pub fn hot_queries() -> Vec<(&'static str, String)> {
    Vec::new()
}

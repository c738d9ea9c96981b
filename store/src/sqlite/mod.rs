//! The SQLite adapter: one file, one writer connection (so nothing inside the process ever meets SQLITE_BUSY), a few
//! readers. WAL with `synchronous = FULL`: what was answered survives a power cut.

mod accounts;
mod batch;
mod commands;
mod hosts;
mod maintenance;
mod plans;
mod presence;
pub mod queue;
mod reports;
mod rows;
mod status;
mod tickets;
mod work;

use std::{path::Path, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Row, Sqlite, SqlitePool, Transaction,
    migrate::Migrator,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

#[doc(hidden)]
pub use plans::hot_queries;

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
    // Those of a newer program: whether we can live with them, its floor says.
    ours.set_ignore_missing(true);
    ours
}

/// A version's numbers, comparable.
fn version(text: &str) -> Vec<u64> {
    text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
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
        migrations().run(&self.writer).await.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        self.check_floor().await?;
        queue::migrate(&self.writer).await?;
        self.seed_roles().await
    }

    /// A newer program's migrations name the oldest one that can live with them.
    async fn check_floor(&self) -> Result<(), StoreError> {
        let row = sqlx::query("SELECT oldest_version FROM schema_floor").fetch_one(&self.writer).await;
        let row = row.map_err(unavailable)?;
        let floor: &str = row.try_get(0).map_err(unavailable)?;
        let ours = env!("CARGO_PKG_VERSION");
        if version(ours) < version(floor) {
            return Err(StoreError::Corrupt(format!(
                "the database was migrated by a newer patchbay: it needs at least {floor}, this is {ours}"
            )));
        }
        Ok(())
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
        // What is stored for a host needs the host; nothing else has a foreign key that a caller could break.
        sqlx::Error::Database(e) if e.is_foreign_key_violation() => StoreError::Gone,
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

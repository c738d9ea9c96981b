//! The SQLite engine: one file, one writer connection (so nothing inside the process ever meets SQLITE_BUSY), a few
//! readers. WAL with `synchronous = FULL`: what was answered survives a power cut.

mod queue;

use std::{path::Path, time::Duration};

pub use queue::QueueTables;
use sqlx::{
    AssertSqlSafe, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::Migrator,
    pool::PoolConnection,
    query::Query,
    sqlite::{
        SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use tracing::Instrument as _;

use crate::{
    Clock, StoreError, measure,
    sql::{Conn, Engine, NewTask, SqlStore, Statement, Value, unavailable},
};

/// What it is in traces.
const SYSTEM: &str = "sqlite";

/// How a file is opened.
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
pub type SqliteStore = SqlStore<SqliteEngine>;

/// The engine.
pub struct SqliteEngine {
    writer: SqlitePool,
    readers: SqlitePool,
    clock: Clock,
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
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(options.patience)
            .connect_lazy_with(connect.pragma("query_only", "on"));
        let store = Self::new(SqliteEngine { writer, readers, clock }, options.pace_ms);
        store.migrate().await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<(), StoreError> {
        let writer = &self.engine.writer;
        migrations().run(writer).await.map_err(|e| StoreError::Unavailable(e.to_string()))?;
        self.check_floor().await?;
        queue::migrate(writer).await?;
        self.seed_roles().await
    }

    /// A pragma as the writer and as a reader have it: what was set can be lost on the way to a connection.
    #[doc(hidden)]
    pub async fn pragma(&self, name: &str) -> Result<[String; 2], StoreError> {
        let read = async |pool: &SqlitePool| {
            let row = sqlx::query(AssertSqlSafe(format!("PRAGMA {name}"))).fetch_one(pool).await?;
            row.try_get_unchecked::<String, _>(0)
        };
        let (writer, reader) = (read(&self.engine.writer).await, read(&self.engine.readers).await);
        Ok([writer.map_err(unavailable)?, reader.map_err(unavailable)?])
    }
}

/// A connection of a pool, in a transaction or not.
pub enum SqliteConn {
    Plain(PoolConnection<Sqlite>),
    Tx(Transaction<'static, Sqlite>),
}

impl SqliteConn {
    fn get(&mut self) -> &mut SqliteConnection {
        match self {
            Self::Plain(conn) => conn,
            Self::Tx(tx) => tx,
        }
    }
}

fn query(statement: Statement) -> Query<'static, Sqlite, SqliteArguments> {
    let (text, values) = statement.into_parts();
    values.into_iter().fold(sqlx::query(text), |query, value| match value {
        Value::Int(n) => query.bind(n),
        Value::Text(text) => query.bind(text),
        Value::Float(x) => query.bind(x),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

impl Conn for SqliteConn {
    type Row = SqliteRow;

    /// There is one writer.
    const LOCK: &'static str = "";

    const NUMBERED: bool = false;

    async fn all(&mut self, statement: Statement) -> Result<Vec<SqliteRow>, StoreError> {
        let span = measure::statement(SYSTEM, &statement.text);
        query(statement).fetch_all(self.get()).instrument(span).await.map_err(unavailable)
    }

    async fn try_run(&mut self, statement: Statement) -> Result<u64, sqlx::Error> {
        let span = measure::statement(SYSTEM, &statement.text);
        query(statement).execute(self.get()).instrument(span).await.map(|done| done.rows_affected())
    }

    async fn push_tasks(&mut self, queue: jobs::Queue, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        queue::push(self.get(), queue, tasks).await
    }

    async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tx(tx) => tx.commit().instrument(measure::statement(SYSTEM, "COMMIT")).await.map_err(unavailable),
        }
    }
}

impl Engine for SqliteEngine {
    type Conn = SqliteConn;

    const OLD_TASKS: &'static str = queue::OLD_TASKS;
    const OLD_WORKERS: &'static str = queue::OLD_WORKERS;
    const RELEASE_TASKS: Option<&'static str> = Some(queue::RELEASE_TASKS);
    /// Triggers count.
    const FOLD_COUNTS: &'static [&'static str] = &[];
    const OLD_MINUTES: &'static str = "DELETE FROM command_ends WHERE minute < $1";

    async fn read(&self) -> Result<SqliteConn, StoreError> {
        self.readers.acquire().await.map(SqliteConn::Plain).map_err(unavailable)
    }

    async fn write(&self) -> Result<SqliteConn, StoreError> {
        self.writer.acquire().await.map(SqliteConn::Plain).map_err(unavailable)
    }

    async fn snapshot(&self) -> Result<SqliteConn, StoreError> {
        self.readers.begin().await.map(SqliteConn::Tx).map_err(unavailable)
    }

    /// The one writer connection makes these queue up in order.
    async fn begin(&self) -> Result<SqliteConn, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map(SqliteConn::Tx).map_err(unavailable)
    }

    async fn begin_alone(&self, _: i64) -> Result<SqliteConn, StoreError> {
        self.begin().await
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// The statements that run often or over much.
#[doc(hidden)]
#[must_use]
pub fn hot_queries() -> Vec<(&'static str, String)> {
    crate::sql::hot_queries::<SqliteEngine>()
}

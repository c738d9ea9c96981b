//! The PostgreSQL engine (14 or newer): any number of processes on one database. Row locks do what the one writer does
//! on SQLite; every statement has a deadline at the server and one here, for a server that is not heard of any more.

mod conn;
mod dialect;
mod listen;
mod migrate;
mod queue;

use std::{str::FromStr, sync::Arc, time::Duration};

pub use conn::PgConn;
pub use queue::QueueTables;
use sqlx::{
    Connection, Executor, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::task::JoinHandle;

use crate::{
    Clock, StoreError,
    sql::{Conn, Engine, SqlStore, get, sql, unavailable},
};

/// How the database is used.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Milliseconds between two paced commands of the fleet.
    pub pace_ms: i64,
    /// How long a caller waits for a connection.
    pub patience: Duration,
    /// Most connections of this process.
    pub connections: u32,
    /// How long a statement may take at the server.
    pub statement: Duration,
    /// How long the first connection may take, a server that starts included.
    pub start: Duration,
    /// Bring the tables up to date; otherwise they must be.
    pub migrate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            pace_ms: 5,
            patience: Duration::from_secs(3),
            connections: 10,
            statement: Duration::from_secs(10),
            start: Duration::from_secs(10),
            migrate: true,
        }
    }
}

/// The store in a PostgreSQL database.
pub type PostgresStore = SqlStore<PostgresEngine>;

/// A connection that was idle for so long is asked whether it is still there.
const IDLE: Duration = Duration::from_secs(1);

/// The engine.
pub struct PostgresEngine {
    pool: PgPool,
    clock: Clock,
    /// What an answer may take: the server's own deadline, and some time on the way.
    deadline: Duration,
    following: Option<JoinHandle<()>>,
}

/// Folds the noted changes into the totals: one statement, so that a reader sees each in one of the two places. Rows that
/// another process is folding are left to it.
const FOLD_COUNTS: &str = "WITH folded AS (DELETE FROM command_changes WHERE id IN \
     (SELECT id FROM command_changes ORDER BY id LIMIT 20000 FOR UPDATE SKIP LOCKED) RETURNING kind, state, n) \
     INSERT INTO command_totals (kind, state, n) SELECT kind, state, SUM(n) FROM folded GROUP BY kind, state \
     ORDER BY kind, state ON CONFLICT (kind, state) DO UPDATE SET n = command_totals.n + excluded.n";

/// The same for those that ended.
const FOLD_ENDS: &str = "WITH folded AS (DELETE FROM command_end_changes WHERE id IN \
     (SELECT id FROM command_end_changes ORDER BY id LIMIT 20000 FOR UPDATE SKIP LOCKED) RETURNING minute, kind, n) \
     INSERT INTO command_end_totals (minute, kind, n) SELECT minute, kind, SUM(n) FROM folded GROUP BY minute, kind \
     ORDER BY minute, kind ON CONFLICT (minute, kind) DO UPDATE SET n = command_end_totals.n + excluded.n";

/// How often the database's clock is looked at.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);

impl PostgresStore {
    /// Connects and migrates.
    ///
    /// # Errors
    /// `Unavailable` when there is no connection within [`Options::start`], or at once when the server refuses us;
    /// `Corrupt` when a newer program's migrations need a newer program.
    pub async fn open(url: &str, clock: Clock, options: Options) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(url)
            .map_err(|error| StoreError::Unavailable(format!("not a URL of PostgreSQL: {error}")))?
            .application_name("patchbay")
            .statement_cache_capacity(256);
        if options.migrate {
            migrate::run(&connect, options.start).await?;
        } else {
            migrate::look(&connect, options.start).await?;
        }
        // Set by statements, not at the connection's start: PgBouncer would refuse unknown parameters there.
        let settings = format!(
            "SET statement_timeout = {statement}; SET lock_timeout = {statement}; \
             SET idle_in_transaction_session_timeout = {statement}",
            statement = options.statement.as_millis()
        );
        let settings: Arc<str> = settings.into();
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(options.patience)
            // One that was used just now is there; to ask each time would double the ways to the server.
            .test_before_acquire(false)
            .before_acquire(|conn, used| {
                Box::pin(async move {
                    if used.idle_for >= IDLE {
                        conn.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(move |conn, _| {
                let settings = Arc::clone(&settings);
                Box::pin(async move {
                    conn.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(settings.to_string()))).await.map(drop)
                })
            })
            .connect_lazy_with(connect);
        let deadline = options.statement + Duration::from_secs(2);
        let mut store = Self::new(PostgresEngine { pool, clock, deadline, following: None }, options.pace_ms);
        store.check_floor().await?;
        if options.migrate {
            store.seed_roles().await?;
        }
        store.engine.follow().await?;
        Ok(store)
    }

    /// Rings the bell for tasks that other processes push, until the task is aborted. Without it they are found by
    /// looking once a second.
    #[must_use]
    pub fn listen(&self) -> JoinHandle<()> {
        tokio::spawn(listen::run(self.engine.pool.clone(), Arc::clone(crate::Store::bell(self))))
    }
}

impl PostgresEngine {
    /// The clock follows the database's, so that all processes have one.
    async fn follow(&mut self) -> Result<(), StoreError> {
        look_at_clock(&self.pool, &self.clock, self.deadline).await?;
        let (pool, clock, deadline) = (self.pool.clone(), self.clock.clone(), self.deadline);
        self.following = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(FOLLOW_EVERY).await;
                if let Err(error) = look_at_clock(&pool, &clock, deadline).await {
                    tracing::debug!(%error, "the database's clock was not read");
                }
            }
        }));
        Ok(())
    }
}

async fn look_at_clock(pool: &PgPool, clock: &Clock, deadline: Duration) -> Result<(), StoreError> {
    let mut conn = PgConn::plain(pool.acquire().await.map_err(unavailable)?, deadline);
    let before = clock.own_ms();
    let row = conn.one(sql("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now")).await?;
    let after = clock.own_ms();
    // It was read somewhere in between: only what cannot be explained by the way there and back is a difference.
    let now = get::<i64>(&row, "now")?;
    clock.follow(now - now.clamp(before, after));
    Ok(())
}

impl Drop for PostgresEngine {
    fn drop(&mut self) {
        if let Some(following) = &self.following {
            following.abort();
        }
    }
}

impl Engine for PostgresEngine {
    type Conn = PgConn;

    const OLD_TASKS: &'static str = queue::OLD_TASKS;
    const OLD_WORKERS: &'static str = queue::OLD_WORKERS;
    /// Others may be at work.
    const RELEASE_TASKS: Option<&'static str> = None;
    const FOLD_COUNTS: &'static [&'static str] = &[FOLD_COUNTS, FOLD_ENDS];
    const OLD_MINUTES: &'static str = "DELETE FROM command_end_totals WHERE minute < $1";

    async fn read(&self) -> Result<PgConn, StoreError> {
        Ok(PgConn::plain(self.pool.acquire().await.map_err(unavailable)?, self.deadline))
    }

    async fn write(&self) -> Result<PgConn, StoreError> {
        self.read().await
    }

    async fn snapshot(&self) -> Result<PgConn, StoreError> {
        let mut conn = self.read().await?;
        conn.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        Ok(conn)
    }

    async fn begin(&self) -> Result<PgConn, StoreError> {
        let mut conn = self.read().await?;
        conn.begin("BEGIN").await?;
        Ok(conn)
    }

    async fn begin_alone(&self, number: i64) -> Result<PgConn, StoreError> {
        let mut conn = self.begin().await?;
        conn.all(sql("SELECT 1 FROM (SELECT pg_advisory_xact_lock($1)) AS locked").bind(number)).await?;
        Ok(conn)
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    async fn close(&self) {
        if let Some(following) = &self.following {
            following.abort();
        }
        if tokio::time::timeout(self.deadline, self.pool.close()).await.is_err() {
            tracing::warn!("connections to the database did not close in time");
        }
    }
}

/// The statements that run often or over much, as PostgreSQL gets them.
#[doc(hidden)]
#[must_use]
pub fn hot_queries() -> Vec<(&'static str, String)> {
    let queries = crate::sql::hot_queries::<PostgresEngine>();
    queries.into_iter().map(|(name, text)| (name, dialect::translate(&text).into_owned())).collect()
}

//! A connection of the pool. It goes back only when it is known to be idle: what a caller left in the middle of a statement
//! is ended first, and one that did not answer in time is closed.

use std::{future::Future, io, time::Duration};

use jobs::Queue;
use sqlx::{
    PgConnection, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use tokio::{runtime::Handle, time::timeout};
use tracing::Instrument as _;

use super::{dialect, queue};
use crate::{
    StoreError, measure,
    sql::{Conn, NewTask, Statement, Value, unavailable},
};

/// What it is in traces.
const SYSTEM: &str = "postgresql";
/// How long a transaction that came to nothing may take to be undone.
const UNDO: Duration = Duration::from_secs(2);

/// A connection, in a transaction or not.
pub struct PgConn {
    /// `None` only while it is dropped.
    conn: Option<PoolConnection<Postgres>>,
    deadline: Duration,
    in_transaction: bool,
    /// A statement is under way.
    busy: bool,
    /// The server did not answer in time, or the connection failed: nobody should wait for it again.
    lost: bool,
}

impl PgConn {
    /// A connection outside of any transaction.
    pub fn plain(conn: PoolConnection<Postgres>, deadline: Duration) -> Self {
        Self { conn: Some(conn), deadline, in_transaction: false, busy: false, lost: false }
    }

    /// Begins a transaction.
    pub async fn begin(&mut self, how: &'static str) -> Result<(), StoreError> {
        self.say(how).await?;
        self.in_transaction = true;
        Ok(())
    }

    async fn say(&mut self, text: &'static str) -> Result<(), StoreError> {
        self.with(|conn| async move { sqlx::raw_sql(text).execute(conn).await.map(drop) }).await.map_err(unavailable)
    }

    /// Runs one exchange within the deadline. While it runs the connection counts as busy; so it stays when its future is
    /// dropped.
    async fn with<'a, T, F, R>(&'a mut self, run: F) -> Result<T, sqlx::Error>
    where
        F: FnOnce(&'a mut PgConnection) -> R,
        R: Future<Output = Result<T, sqlx::Error>>,
    {
        let gone = || sqlx::Error::Io(io::Error::new(io::ErrorKind::NotConnected, "the connection was closed"));
        let conn = self.conn.as_mut().ok_or_else(gone)?;
        self.busy = true;
        match timeout(self.deadline, run(&mut *conn)).await {
            Ok(done) => {
                self.busy = false;
                // What the server refuses, it refuses in order; anything else says nothing about what comes next.
                self.lost = !matches!(done, Ok(_) | Err(sqlx::Error::Database(_) | sqlx::Error::RowNotFound));
                done
            }
            Err(_) => {
                self.lost = true;
                Err(sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database did not answer in time")))
            }
        }
    }
}

impl Drop for PgConn {
    fn drop(&mut self) {
        let Some(mut conn) = self.conn.take() else { return };
        if !self.busy && !self.in_transaction && !self.lost {
            return;
        }
        if let (false, Ok(runtime)) = (self.lost, Handle::try_current()) {
            // The rest of the answer is read and the transaction undone before anybody gets the connection; or it is
            // closed. To close it at once would be simpler: but clients that give up come in thousands, and a new
            // connection costs the server a process and both sides a key derivation.
            runtime.spawn(async move {
                let undone = timeout(UNDO, sqlx::raw_sql("ROLLBACK").execute(&mut *conn)).await;
                if !matches!(undone, Ok(Ok(_))) {
                    drop(conn.detach());
                }
            });
        } else {
            // The server undoes what was begun when the connection ends.
            drop(conn.detach());
        }
    }
}

fn query(statement: Statement) -> Query<'static, Postgres, PgArguments> {
    statement.values.into_iter().fold(sqlx::query(dialect::prepare(statement.text)), |query, value| match value {
        Value::Int(n) => query.bind(n),
        Value::Text(text) => query.bind(text.map(storable)),
        Value::Float(x) => query.bind(x),
        Value::Bytes(bytes) => query.bind(bytes),
    })
}

/// PostgreSQL's texts cannot hold the character 0, which an agent's report may.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

impl Conn for PgConn {
    type Row = PgRow;

    /// Not `FOR UPDATE`: what is stored for a host refers to its row, and must not wait for this.
    const LOCK: &'static str = " FOR NO KEY UPDATE";

    const NUMBERED: bool = true;

    async fn all(&mut self, statement: Statement) -> Result<Vec<PgRow>, StoreError> {
        let span = measure::statement(SYSTEM, &statement.text);
        self.with(|conn| query(statement).fetch_all(conn)).instrument(span).await.map_err(unavailable)
    }

    async fn try_run(&mut self, statement: Statement) -> Result<u64, sqlx::Error> {
        let span = measure::statement(SYSTEM, &statement.text);
        self.with(|conn| query(statement).execute(conn)).instrument(span).await.map(|done| done.rows_affected())
    }

    async fn push_tasks(&mut self, queue: Queue, tasks: Vec<NewTask>) -> Result<(), StoreError> {
        self.with(|conn| queue::push(conn, queue, tasks)).await.map_err(unavailable)
    }

    async fn commit(mut self) -> Result<(), StoreError> {
        if self.in_transaction {
            self.say("COMMIT").instrument(measure::statement(SYSTEM, "COMMIT")).await?;
            self.in_transaction = false;
        }
        Ok(())
    }
}

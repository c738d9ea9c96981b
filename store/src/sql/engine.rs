//! What an engine brings: connections, transactions, the locks of its kind, and the queue's tables.

use std::future::Future;

use jobs::Queue;

use super::statement::{Cells, Statement};
use crate::{Clock, StoreError};

/// A task to push: due at a second since the Unix epoch, 0 is now.
pub struct NewTask {
    /// The body, JSON.
    pub body: Vec<u8>,
    /// When it is due.
    pub second: u64,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
}

/// A connection, in a transaction or not. Every statement has a deadline; past it the connection is closed.
pub trait Conn: Send + Sized {
    type Row: Cells;

    /// Ends a SELECT of hosts whose rows this transaction is about to use: nobody else moves their commands meanwhile.
    /// Empty where there is one writer at a time.
    const LOCK: &'static str;

    /// Must places have numbers? Where they need not, a long statement is better off without: SQLite looks each of them up
    /// among all the others.
    const NUMBERED: bool;

    /// Runs a statement and takes its rows.
    fn all(&mut self, statement: Statement) -> impl Future<Output = Result<Vec<Self::Row>, StoreError>> + Send;

    /// Runs a statement and counts the rows it changed; errors as the engine tells them.
    fn try_run(&mut self, statement: Statement) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Runs a statement and counts the rows it changed.
    fn run(&mut self, statement: Statement) -> impl Future<Output = Result<u64, StoreError>> + Send {
        async { self.try_run(statement).await.map_err(super::unavailable) }
    }

    /// The only row, if there is one.
    fn optional(&mut self, statement: Statement) -> impl Future<Output = Result<Option<Self::Row>, StoreError>> + Send {
        async { Ok(self.all(statement).await?.into_iter().next()) }
    }

    /// The only row.
    fn one(&mut self, statement: Statement) -> impl Future<Output = Result<Self::Row, StoreError>> + Send {
        async {
            let row = self.all(statement).await?.into_iter().next();
            row.ok_or_else(|| StoreError::Corrupt("a row that is always there is missing".to_owned()))
        }
    }

    /// Pushes tasks into a queue of the executor.
    fn push_tasks(&mut self, queue: Queue, tasks: Vec<NewTask>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Makes what the transaction did durable. Dropped without it, nothing of it has happened.
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// An engine.
pub trait Engine: Send + Sync + 'static {
    type Conn: Conn;

    /// The statement that removes finished tasks: $1 the second before which they ended.
    const OLD_TASKS: &'static str;

    /// The statement that removes workers of the executor that are long gone.
    const OLD_WORKERS: &'static str;

    /// The statement that hands the tasks of dead workers of this machine back; only for an engine with one process.
    const RELEASE_TASKS: Option<&'static str>;

    /// The statements that fold what is counted in passing into totals, where that is apart.
    const FOLD_COUNTS: &'static [&'static str];

    /// The statement that forgets how many commands ended in the minutes before $1.
    const OLD_MINUTES: &'static str;

    /// A connection that only reads.
    fn read(&self) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// A connection for one statement that writes.
    fn write(&self) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// A transaction that only reads, and sees one moment.
    fn snapshot(&self) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// A transaction that writes.
    fn begin(&self) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// A transaction that only one process runs at a time, of all that give the same number.
    fn begin_alone(&self, number: i64) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// The clock that decides.
    fn clock(&self) -> &Clock;

    /// Closes all connections; writes that were answered are durable.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

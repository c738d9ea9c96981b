//! The store in SQL: one text for every engine. What an engine does in its own way is its [`engine::Engine`].
//!
//! **Locks.** A command moves only in a transaction that holds its host's row; a transaction locks all hosts it needs in
//! one statement, in the order of their ids, before it touches anything else, and the fleet's pace after them. So no two
//! wait for each other, and whoever reads a command under its host's lock reads its newest state. Who opens a terminal
//! holds a lock for its user before the host's; several terminals are locked in the order of their ids, and no host after.

mod accounts;
mod audit;
mod batch;
mod commands;
pub(crate) mod engine;
mod hosts;
mod maintenance;
mod plans;
mod presence;
mod recordings;
mod reports;
mod rows;
mod ssh_keys;
pub(crate) mod statement;
mod status;
mod tasks;
mod terminals;
mod tickets;
mod work;

use std::sync::{Arc, Mutex};

pub(crate) use engine::{Conn, Engine, NewTask};
pub use plans::hot_queries;
pub(crate) use statement::{Statement, Value, get, sql};
use uuid::{ContextV7, Uuid};

use crate::{Bell, Clock, Page, Store, StoreError};

/// The store on an engine.
pub struct SqlStore<E> {
    pub(crate) engine: E,
    bell: Arc<Bell>,
    /// Milliseconds between two paced commands of the fleet.
    pace_ms: i64,
    /// Orders the entries of the audit log that are of one millisecond.
    entries: Mutex<ContextV7>,
}

/// Version numbers, comparable.
fn version(text: &str) -> Vec<u64> {
    text.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect()
}

impl<E: Engine> SqlStore<E> {
    /// A store on an engine whose tables are there.
    pub(crate) fn new(engine: E, pace_ms: i64) -> Self {
        Self { engine, bell: Arc::default(), pace_ms, entries: Mutex::default() }
    }

    /// A newer program's migrations name the oldest one that can live with them.
    pub(crate) async fn check_floor(&self) -> Result<(), StoreError> {
        let row = self.reader().await?.one(sql("SELECT oldest_version FROM schema_floor")).await?;
        let (floor, ours) = (get::<&str>(&row, "oldest_version")?, env!("CARGO_PKG_VERSION"));
        if version(ours) < version(floor) {
            return Err(StoreError::Corrupt(format!(
                "the database was migrated by a newer patchbay: it needs at least {floor}, this is {ours}"
            )));
        }
        Ok(())
    }

    async fn reader(&self) -> Result<E::Conn, StoreError> {
        self.engine.read().await
    }

    async fn writer(&self) -> Result<E::Conn, StoreError> {
        self.engine.write().await
    }

    fn now(&self) -> i64 {
        self.engine.clock().now_ms()
    }

    /// Closes all connections; writes that were answered are durable.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}

impl<E: Engine> Store for SqlStore<E> {
    fn clock(&self) -> &Clock {
        self.engine.clock()
    }

    fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

/// A page out of one row more than it holds, in the order of ids.
fn page<T>(mut items: Vec<T>, limit: u32, id: impl FnOnce(&T) -> Uuid) -> Page<T> {
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let next_cursor = more.then(|| items.last().map(|item| id(item).to_string())).flatten();
    Page { items, next_cursor }
}

/// Every database error is "try again later", but for what the caller asked wrongly. The text names no values.
pub(crate) fn unavailable(error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::ColumnDecode { index, .. } => StoreError::Corrupt(format!("column {index}")),
        sqlx::Error::PoolTimedOut => StoreError::Unavailable("no connection became free in time".to_owned()),
        // What is stored for a host needs the host, and a chunk its terminal; nothing else has a foreign key that a caller
        // could break.
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

//! What is remembered, and the queue's tables beside it.
//!
//! One trait a noun, whole operations, never a row at a time from outside and never a transaction that leaks out. An
//! operation that makes a command move writes the row and pushes the task that wakes a worker in one transaction.
//! Times are milliseconds since the Unix epoch by the store's own clock.

pub mod bell;
pub mod clock;
pub mod failpoint;
mod measure;
mod ports;
pub mod postgres;
mod sql;
pub mod sqlite;

use std::sync::Arc;

pub use bell::Bell;
pub use clock::Clock;
pub use ports::{
    accounts::{Account, Accounts, LoginRow, NewSession, Permission, Role, SessionRow},
    audit::{Audit, AuditFilter, AuditRow, NewAudit},
    commands::{
        Applied, Commands, Created, CreatedCommand, Due, ListFilter, Listed, NewBatch, NotCreated, PushedTask, Target,
    },
    hosts::{
        AddHost, Connect, Connected, Host, HostAuth, HostFilter, Hosts, IntegrationChange, NewKey, Presence, Removed,
        ReportSummaryRow,
    },
    maintenance::{Keep, Maintenance, Retired},
    recordings::{RecordingRow, Recordings},
    reports::{ReportBody, Reports, ScanRow, StoredStatus},
    ssh_keys::{HostSshKey, KeyCheck, SshKeys, TerminalOptions},
    status::{ALIVE_MS, Beat, REPORTS_MS, Standing, Status, UnderWay},
    terminals::{
        AT_AGENT_MAX, NewTerminal, TerminalEnd, TerminalFilter, TerminalLimits, TerminalMode, TerminalOpened,
        TerminalRow, Terminals,
    },
    tickets::{DashboardRow, NewTicket, OPEN_TICKETS_MAX, TakenTicket, Tickets},
};

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or is too busy, now: try again later. Callers answer 503.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Something of that name or id exists already.
    #[error("{0} exists already")]
    Conflict(&'static str),
    /// The host was removed between the question who it is and the answer; or the terminal was.
    #[error("the host was removed meanwhile")]
    Gone,
    /// A row holds what no version of this program wrote.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub next_cursor: Option<String>,
}

/// Everything that is remembered.
pub trait Store:
    Hosts + Reports + Commands + Accounts + Maintenance + Status + Tickets + Terminals + Audit + Recordings + SshKeys
{
    /// The clock that decides.
    fn clock(&self) -> &Clock;

    /// Rung after each commit that pushed a task that is due.
    fn bell(&self) -> &Arc<Bell>;
}

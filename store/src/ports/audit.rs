//! The audit log: who did what, kept when the host and the user are gone.

use async_trait::async_trait;
use uuid::Uuid;

use super::terminals::TerminalMode;
use crate::{Page, StoreError};

/// What goes into the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewAudit {
    /// What happened, such as `ssh_terminal_access_denied`.
    pub event: &'static str,
    /// Who did it.
    pub user_id: Option<Uuid>,
    /// The user's name, as it is now.
    pub username: Option<String>,
    /// The client's address.
    pub address: String,
    /// To which host.
    pub host_id: Option<Uuid>,
    /// The host's name, as it is now.
    pub host_name: Option<String>,
    /// The terminal.
    pub session_id: Option<Uuid>,
    /// How its shell is reached.
    pub mode: Option<TerminalMode>,
    /// `user@host:port`.
    pub target: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How long the shell was there, in milliseconds.
    pub duration_ms: Option<i64>,
    /// Bytes that the client sent.
    pub bytes_in: Option<i64>,
    /// Bytes that it was sent.
    pub bytes_out: Option<i64>,
}

/// An entry of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its id, a UUIDv7 of the store's clock.
    pub id: Uuid,
    /// When it was written.
    pub at: i64,
    /// What happened.
    pub event: String,
    /// Who did it.
    pub user_id: Option<Uuid>,
    /// The user's name, as it was.
    pub username: Option<String>,
    /// The client's address.
    pub address: String,
    /// To which host.
    pub host_id: Option<Uuid>,
    /// The host's name, as it was.
    pub host_name: Option<String>,
    /// The terminal.
    pub session_id: Option<Uuid>,
    /// How its shell is reached.
    pub mode: Option<TerminalMode>,
    /// `user@host:port`.
    pub target: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How long the shell was there, in milliseconds.
    pub duration_ms: Option<i64>,
    /// Bytes that the client sent.
    pub bytes_in: Option<i64>,
    /// Bytes that it was sent.
    pub bytes_out: Option<i64>,
}

/// Which entries a page shows.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this event.
    pub event: Option<String>,
    /// Of this user.
    pub user_id: Option<Uuid>,
    /// Of this host.
    pub host_id: Option<Uuid>,
    /// Of this terminal.
    pub session_id: Option<Uuid>,
    /// Written at this time or later.
    pub from_ms: Option<i64>,
    /// Written before this time.
    pub until_ms: Option<i64>,
    /// Where the page begins, as the one before gave it.
    pub cursor: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// The port.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes an entry, durable when this returns.
    async fn audit(&self, entry: &NewAudit) -> Result<(), StoreError>;

    /// A page of entries, newest first.
    async fn audits(&self, filter: &AuditFilter) -> Result<Page<AuditRow>, StoreError>;
}

//! Tickets: one-time passes for what a browser opens by its address alone, a page or a socket, where no header can be sent.
//! And the sessions of dashboards, which such a ticket opens. Both are kept as digests, and live only as long as the login
//! session that they came from.

use async_trait::async_trait;
use uuid::Uuid;

use crate::StoreError;

/// Tickets of one login session that may be open at once; a further one replaces the oldest. So with dashboards.
pub const OPEN_TICKETS_MAX: i64 = 16;

/// A ticket to keep.
#[derive(Debug, Clone)]
pub struct NewTicket {
    /// SHA-256 of the ticket, in hex.
    pub digest: String,
    /// Whose.
    pub user_id: Uuid,
    /// The login session it came from.
    pub session_id: Uuid,
    /// The host it is for; none for the dashboard.
    pub host_id: Option<Uuid>,
    /// Good for this long.
    pub lifetime_ms: i64,
}

/// What a ticket stood for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenTicket {
    /// Whose.
    pub user_id: Uuid,
    /// The login session it came from, live when it was taken.
    pub session_id: Uuid,
}

/// A dashboard's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DashboardRow {
    /// The login session it came from. Whether that lives is not looked at here.
    pub session_id: Uuid,
    /// Ends at the latest.
    pub expires_at: i64,
}

/// The port.
#[async_trait]
pub trait Tickets: Send + Sync {
    /// Keeps a ticket.
    async fn issue_ticket(&self, ticket: &NewTicket) -> Result<(), StoreError>;

    /// Takes the ticket of that digest for that host (none: the dashboard), if it is still good and its session and user
    /// are. One statement removes it and matches all of that: of many that bring the same ticket one gets it, and whoever
    /// brings it for something else does not use it up.
    async fn take_ticket(&self, digest: &str, host_id: Option<Uuid>) -> Result<Option<TakenTicket>, StoreError>;

    /// Opens a dashboard's session, known by the digest of its cookie.
    async fn open_dashboard(&self, digest: &str, session_id: Uuid, lifetime_ms: i64) -> Result<(), StoreError>;

    /// The dashboard's session of that digest, if its time is not over.
    async fn dashboard(&self, digest: &str) -> Result<Option<DashboardRow>, StoreError>;

    /// Removes those whose time is over, a batch of each. Call again until it removes nothing.
    async fn retire_tickets(&self) -> Result<u64, StoreError>;
}

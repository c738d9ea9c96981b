//! Terminals: who has a shell on which host, from its opening to its end.

use async_trait::async_trait;
use uuid::Uuid;

use crate::{Page, StoreError};

/// Most proxied shells that one host's agent is thought to hold.
pub const AT_AGENT_MAX: i64 = 64;

/// How a shell is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalMode {
    /// The gateway speaks SSH with the host.
    Direct,
    /// The host's agent does, on its own machine.
    Proxy,
}

impl TerminalMode {
    /// The name in rows and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Proxy => "proxy",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "direct" => Some(Self::Direct),
            "proxy" => Some(Self::Proxy),
            _ => None,
        }
    }
}

/// A terminal to open: a row from here on, until it ends.
#[derive(Debug, Clone)]
pub struct NewTerminal {
    /// Its id, a UUIDv7: lists are in the order of ids. A proxied one is named on the wire by its hex digits.
    pub id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// The user's name, as it is now.
    pub username: String,
    /// The client's address.
    pub address: String,
    /// The gateway that the browser is connected to.
    pub gateway_id: Uuid,
    /// How it is reached.
    pub mode: TerminalMode,
    /// `user@host:port`.
    pub target: String,
    /// Record it, unless the host's row says otherwise.
    pub record: bool,
}

/// Most terminals that may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalLimits {
    /// Of one user.
    pub per_user: i64,
    /// On one host.
    pub per_host: i64,
    /// Proxied ones on a host whose agent is older than 2.0, or of no known version.
    pub proxied_per_old_host: i64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalOpened {
    /// There is a row for it.
    Opened {
        /// It is to be recorded.
        record: bool,
        /// Its host needs algorithms that are no longer safe.
        legacy_algorithms: bool,
    },
    /// The user has so many open.
    UserFull(i64),
    /// The host has so many open.
    HostFull(i64),
    /// The host's old agent has so many proxied ones open.
    OldAgentFull(i64),
}

/// What a terminal's row says when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalEnd {
    /// Why.
    pub reason: String,
    /// Bytes that the client sent.
    pub bytes_in: i64,
    /// Bytes that it was sent.
    pub bytes_out: i64,
    /// Bytes of output that were left out, because the client read too slowly.
    pub shed: i64,
    /// The shell's exit status, if it told one.
    pub exit_status: Option<i64>,
}

/// A terminal as it is kept. Names are as they were when it was opened: the host and the user may be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerminalRow {
    /// Its id.
    pub id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// The host's name.
    pub host_name: String,
    /// Whose.
    pub user_id: Uuid,
    /// The user's name.
    pub username: String,
    /// The client's address.
    pub address: String,
    /// The gateway that the browser was connected to.
    pub gateway_id: Uuid,
    /// How it is reached.
    pub mode: TerminalMode,
    /// `user@host:port`.
    pub target: String,
    /// Asked for.
    pub opened_at: i64,
    /// The shell was there.
    pub connected_at: Option<i64>,
    /// Over.
    pub ended_at: Option<i64>,
    /// Why it is over.
    pub reason: Option<String>,
    /// Bytes that the client sent, once it is over.
    pub bytes_in: i64,
    /// Bytes that it was sent, once it is over.
    pub bytes_out: i64,
    /// Bytes of output that were left out, once it is over.
    pub shed: i64,
    /// The shell's exit status, if it told one.
    pub exit_status: Option<i64>,
    /// There is a recording, from its first chunk until it is removed.
    pub recorded: bool,
}

/// Which terminals, or recordings, a page shows.
#[derive(Debug, Clone, Default)]
pub struct TerminalFilter {
    /// On this host.
    pub host_id: Option<Uuid>,
    /// Of this user.
    pub user_id: Option<Uuid>,
    /// Only those that are (not) open.
    pub open: Option<bool>,
    /// Where the page begins, as the one before gave it.
    pub cursor: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// The port.
#[async_trait]
pub trait Terminals: Send + Sync {
    /// Opens a terminal, if the limits allow one more: two at once count each other, on whatever gateways they are.
    /// `Gone` when there is no such host, `Conflict` when there is such a terminal.
    async fn open_terminal(&self, new: &NewTerminal, limits: &TerminalLimits) -> Result<TerminalOpened, StoreError>;

    /// The shell is there; with its entry in the audit log, `ssh_terminal_opened`. Nothing happens to one that has ended.
    async fn terminal_connected(&self, id: Uuid) -> Result<(), StoreError>;

    /// Ends a terminal; with its entry in the audit log, `ssh_terminal_closed`. The first who asks ends it, anybody else
    /// gets false, as does who asks for one that is not there.
    async fn end_terminal(&self, id: Uuid, end: &TerminalEnd) -> Result<bool, StoreError>;

    /// The host's agent holds these shells no longer, or never got them. A proxied one counts as held from its opening
    /// until this is said, whether it has ended or not.
    async fn terminals_left_agent(&self, ids: &[Uuid]) -> Result<(), StoreError>;

    /// Proxied shells that the agents of these hosts may still hold: (host, terminal), the newest [`AT_AGENT_MAX`] a host.
    async fn terminals_at_agents(&self, hosts: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>, StoreError>;

    /// Ends all that are open on a gateway that is gone, with their entries in the audit log, and counts them; none: on
    /// any gateway, at the start of the embedded process. What they came to is not known.
    async fn end_terminals_of(&self, gateway_id: Option<Uuid>, reason: &str) -> Result<u64, StoreError>;

    /// A page of terminals, newest first.
    async fn terminals(&self, filter: &TerminalFilter) -> Result<Page<TerminalRow>, StoreError>;

    /// One terminal.
    async fn terminal(&self, id: Uuid) -> Result<Option<TerminalRow>, StoreError>;
}

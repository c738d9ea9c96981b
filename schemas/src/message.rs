//! Bodies of bus messages, as JSON.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How a holder may treat a request for a command that it does not remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The first asking of an attempt: write it.
    Deliver,
    /// The outcome of the first asking is unknown: write it only on a connection of exactly `asked_epoch`.
    Again,
    /// The frame counts as written: never write, only say what is known.
    Probe,
}

/// Which frame of a command this is. A holder remembers each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The command itself.
    Command,
    /// The frame that cancels it.
    Cancel,
}

/// `agent.<api_id>.command`: put this frame on the agent's socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandRequest {
    /// The command.
    pub id: Uuid,
    /// Which frame of it.
    pub part: Part,
    /// The attempt this request belongs to; facts about it carry the number back.
    pub attempt: i32,
    /// The epoch of the host's connection when the attempt began.
    pub asked_epoch: i64,
    /// Past this time (milliseconds since the Unix epoch, store's clock) a holder drops the request unanswered.
    pub deadline_ms: i64,
    /// What to do when the id is not remembered.
    pub mode: Mode,
    /// True: refuse with [`CommandReply::Busy`] while a terminal is open (protocol 6-3).
    pub quiet: bool,
    /// The frame: one JSON object.
    pub frame: String,
}

/// The holder's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum CommandReply {
    /// Written, and a pong proved that the agent's process read it.
    Delivered {
        /// Epoch of the connection that wrote it.
        epoch: i64,
    },
    /// Written, not yet proved read.
    Sent {
        /// Epoch of the connection that wrote it.
        epoch: i64,
    },
    /// Not written: a terminal is open.
    Busy,
    /// Not written: a newer connection exists.
    Superseded,
    /// Not remembered, and not to be written here.
    Unknown,
}

impl CommandReply {
    /// In a word, for metrics and traces.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::Sent { .. } => "sent",
            Self::Busy => "busy",
            Self::Superseded => "superseded",
            Self::Unknown => "unknown",
        }
    }
}

/// `agent.<api_id>.claim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The claimant's epoch.
    pub epoch: i64,
    /// The claimant's gateway.
    pub gateway: Uuid,
    /// The claimant's connection.
    pub connection: Uuid,
}

/// Answer to `agent.<api_id>.status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Came over TLS, ours or a trusted proxy's.
    pub secure: bool,
    /// Epoch of the connection.
    pub epoch: i64,
    /// Connected since, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// The gateway that holds it.
    pub gateway: Uuid,
}

/// `agent.<api_id>.close`: the host was removed, or its key replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseRequest {
    /// Why, for the log.
    pub reason: String,
    /// Only this connection: a newer one may have the new key already. Unset: whoever holds the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Uuid>,
}

/// `agent.<api_id>.terminal`: open a shell through the agent. Whoever asks listens to `terminal.<session>.out` already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TerminalOpen {
    /// The terminal.
    pub session: Uuid,
    /// Past this time (milliseconds since the Unix epoch, store's clock) a holder drops the request unanswered.
    pub deadline_ms: i64,
    /// A [`TerminalLogin`] and where it goes, sealed: the bus carries no credentials that it could read.
    pub sealed: String,
}

/// What [`TerminalOpen`] seals. No `Debug`: it holds credentials.
#[derive(Serialize, Deserialize)]
pub struct TerminalLogin {
    /// Where the agent connects to.
    pub host: String,
    /// And at which port.
    pub port: u16,
    /// As whom.
    pub username: String,
    /// `TERM`.
    pub terminal: String,
    /// Columns.
    pub cols: u32,
    /// Rows.
    pub rows: u32,
    /// A password,
    pub password: Option<String>,
    /// or a private key,
    pub private_key: Option<String>,
    /// and what it is encrypted with.
    pub passphrase: Option<String>,
}

/// The holder's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum TerminalReply {
    /// The agent has been asked.
    Accepted {
        /// Epoch of its connection.
        epoch: i64,
    },
    /// It has not.
    Refused {
        /// For the user.
        reason: String,
    },
}

/// `terminal.<session>.in`, from the browser's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalIn {
    /// Bytes of output that have left for the browser, or were left out: so much more may come.
    pub taken: u64,
    /// Something for the shell, with its number: 1 is the first, one more each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<(u64, TerminalInput)>,
    /// The browser's side is done: close the shell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leave: bool,
}

/// Something for the shell.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TerminalInput {
    /// Keystrokes.
    Keys(String),
    /// The window has another size.
    Resize {
        /// Columns.
        cols: u32,
        /// Rows.
        rows: u32,
    },
}

impl std::fmt::Debug for TerminalInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is typed may be a password.
        match self {
            Self::Keys(keys) => write!(f, "Keys({} bytes)", keys.len()),
            Self::Resize { cols, rows } => write!(f, "Resize({cols}x{rows})"),
        }
    }
}

/// Answer to a [`TerminalIn`] that was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalState {
    /// Input up to this number has come.
    pub got: u64,
    /// The shell is open.
    pub connected: bool,
    /// Bytes of output that were sent, those left out before them included.
    pub sent: u64,
}

/// `terminal.<session>.out`, from the agent's side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum TerminalOut {
    /// The shell is open.
    Connected,
    /// It wrote.
    Data {
        /// Bytes of output before this, those that were left out included.
        at: u64,
        /// Text.
        data: String,
    },
    /// It could not be opened, or broke.
    Error {
        /// Bytes of output before this.
        at: u64,
        /// For the user.
        message: String,
    },
    /// It is gone.
    Closed {
        /// Bytes of output before this.
        at: u64,
    },
}

/// Answer to `gateway.<id>.alive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveReply {
    /// Agents that it holds.
    pub agents: usize,
}

/// `revoked.<what>.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Why, for the log and the peer.
    pub reason: String,
}

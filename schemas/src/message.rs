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

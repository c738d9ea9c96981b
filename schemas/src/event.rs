//! What clients of `GET /events` are told, and what travels as `host.<id>.changed`.

use serde::{Deserialize, Serialize};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use uuid::Uuid;

use crate::timestamp;

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An agent came or went.
    Presence,
    /// A command moved.
    Command,
    /// A scan told how far it is.
    ScanProgress,
}

impl EventKind {
    /// The name in the `event:` line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Command => "command",
            Self::ScanProgress => "scan_progress",
        }
    }
}

/// One event. `data` is the JSON object of the `data:` line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// The host it is about.
    pub host_id: Uuid,
    /// What kind.
    pub kind: EventKind,
    /// The body, already serialized once for all readers.
    pub data: Box<RawValue>,
    /// Its place among the events of one thing, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
}

/// The events of one thing in their order. Several processes tell of a command's moves, and the bus keeps the order of each
/// of them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The command.
    pub of: Uuid,
    /// Grows with each move.
    pub n: i64,
}

impl Event {
    /// An agent came, or went. `at_ms`: milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// Never, as far as serde_json is concerned; callers have nothing to tell then.
    pub fn presence(host_id: Uuid, connected: bool, secure: bool, at_ms: i64) -> Result<Self, serde_json::Error> {
        let at = timestamp::rfc3339(at_ms);
        let data = json!({ "host_id": host_id, "connected": connected, "secure": secure, "at": at });
        Ok(Self { host_id, kind: EventKind::Presence, data: to_raw_value(&data)?, order: None })
    }
}

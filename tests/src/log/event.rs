//! The lines of the log.

use std::sync::Arc;

use serde::Serialize;

/// One line of the log.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Counts from 1 over all agents, in the order in which things happened.
    pub seq: u64,
    /// Milliseconds since 1970, the simulator's clock.
    pub time_ms: u64,
    /// The same in microseconds, for measuring.
    pub time_us: u64,
    /// The host's api_id.
    #[serde(serialize_with = "as_text")]
    pub agent: Arc<str>,
    /// Which of the agent's connections, from 1; 0 before the first.
    pub conn: u32,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// The kinds of events; `event` in the file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// The agent's process started.
    ProcessStarted,
    /// The agent's process ended.
    ProcessEnded,
    /// An upgrade was answered with 101.
    Connected {
        /// From the first byte of the dial to the answer.
        micros: u64,
    },
    /// An upgrade was not.
    Refused {
        /// None when there was no HTTP answer at all.
        status: Option<u16>,
        /// The body, or the reason.
        error: String,
    },
    /// A connection ended.
    Disconnected {
        /// Who ended it and how.
        reason: String,
    },
    /// A text or binary message came.
    Frame {
        /// Its `type`; "?" when it has none.
        #[serde(rename = "type")]
        kind: String,
        /// SHA-256 of the payload, hex.
        sha256: String,
        /// Size of the payload.
        bytes: usize,
        /// The payload, where the log keeps it. Not in the file: it may hold a password.
        #[serde(skip)]
        payload: Option<Arc<[u8]>>,
    },
    /// A message was read, and lost: the inbox was full (2.1), or it did not decode.
    Lost {
        /// Its `type`.
        #[serde(rename = "type")]
        kind: String,
        /// Why.
        reason: &'static str,
    },
    /// The agent sent a message.
    Sent {
        /// Its `type`.
        #[serde(rename = "type")]
        kind: String,
        /// Of scan progress.
        #[serde(skip_serializing_if = "Option::is_none")]
        phase: Option<String>,
        /// Size of the payload.
        bytes: usize,
    },
    /// One try of an HTTP call ended.
    Http {
        /// GET or POST.
        method: &'static str,
        /// With prefix, without query.
        path: String,
        /// None when there was no answer.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        /// Why there was none.
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Which try, from 1.
        attempt: u32,
        /// How long it took.
        millis: u64,
    },
    /// `POST hosts/update` was answered with 200.
    Reported,
    /// A scan began on the host.
    ScanStarted {
        /// "default" when none was named.
        profile: String,
    },
    /// A scan ended on the host.
    ScanEnded {
        /// "default" when none was named.
        profile: String,
        /// How.
        outcome: ScanOutcome,
    },
    /// The agent did what its misbehaviour says.
    Misbehaved {
        /// What it did.
        habit: String,
    },
}

/// How a scan ended on the host, as the server can know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanOutcome {
    /// A good result was posted and answered with 200.
    Succeeded,
    /// A failed one was.
    Failed,
    /// A failed one was, because of a cancel.
    Cancelled,
    /// No scanner was chosen, or compliance is disabled: nothing was posted.
    NoResult,
    /// The POST was not answered with 200.
    NotAccepted,
    /// The process ended first.
    Killed,
}

impl Event {
    /// Whether this is a frame of that `type` that came.
    pub fn is_frame(&self, wanted: &str) -> bool {
        matches!(&self.what, What::Frame { kind, .. } if kind == wanted)
    }

    /// The payload of a frame, where the log keeps payloads.
    pub fn payload(&self) -> Option<serde_json::Value> {
        match &self.what {
            What::Frame { payload: Some(payload), .. } => serde_json::from_slice(payload).ok(),
            _ => None,
        }
    }
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

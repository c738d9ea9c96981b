//! What a host does that can be seen (protocol 1.5), and what a deed means to a command.

use schemas::{agent::ScanPhase, scan::ScanFact};
use serde::{Deserialize, Serialize};

/// Something the host did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "deed", rename_all = "snake_case")]
pub enum Deed {
    /// `POST hosts/update`: a report was stored.
    Report,
    /// `POST hosts/integration-status`.
    IntegrationStatus {
        /// `docker`, `compliance`.
        integration: String,
        /// `ready`, `installing`, …
        status: String,
    },
    /// A `compliance_scan_progress` frame.
    ScanPhase {
        /// The phase.
        phase: ScanPhase,
        /// The host's clock, milliseconds since the Unix epoch.
        host_ms: Option<i64>,
        /// The profile it names: the one that was asked for, or `default` (protocol 1.4). Empty: it named none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        profile: String,
        /// The agent's error text, or its message.
        text: String,
    },
    /// `POST compliance/scans`: results were stored.
    ScanResults {
        /// One fact a profile.
        scans: Vec<ScanFact>,
    },
}

impl Deed {
    /// How evidence and logs name it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Report => "hosts/update",
            Self::IntegrationStatus { .. } => "hosts/integration-status",
            Self::ScanPhase { .. } => "compliance_scan_progress",
            Self::ScanResults { .. } => "compliance/scans",
        }
    }
}

/// What a deed means to one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// Nothing.
    None,
    /// A sign of life; the command stays where it is.
    Alive,
    /// The host began.
    Began,
    /// Done. The text goes into the evidence.
    Done(String),
    /// Failed. The text is the row's error.
    Broke(String),
}

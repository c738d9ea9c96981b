//! `POST compliance/scans` (protocol 3).

use serde::{Deserialize, Serialize};

/// How one profile's scan ended, as the agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanStatus {
    /// The scanner ran to its end.
    Completed,
    /// It did not; the error says why.
    Failed,
    /// Still running: says nothing.
    InProgress,
}

/// The facts of one result that decide about commands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanFact {
    /// `openscap`, `docker-bench`, …
    #[serde(default)]
    pub profile_type: String,
    /// The profile's id; a failed OpenSCAP scan always says `level1_server` (protocol 3).
    #[serde(default)]
    pub profile_name: String,
    /// How it ended.
    pub status: ScanStatus,
    /// Began, the host's clock, milliseconds since the Unix epoch.
    #[serde(default)]
    pub started_at_ms: Option<i64>,
    /// The agent's reason for a failure.
    #[serde(default)]
    pub error: String,
}

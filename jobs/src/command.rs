//! A command's row, and what the life cycle needs to know of its host.

use schemas::Generation;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{deed::Deed, kinds::Kind, state::State};

/// One command to one host. Times are milliseconds since the Unix epoch by the store's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// UUIDv7.
    pub id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// What is asked.
    pub kind: Kind,
    /// The kind's own fields, checked and complete.
    pub payload: Value,
    /// Where it stands.
    pub state: State,
    /// How often a worker began to send it. Facts of an earlier attempt change nothing.
    pub attempt: i32,
    /// How often a frame was lost, or the agent came back without a sign of it.
    pub losses: i32,
    /// How often in a row a holder refused it.
    pub refusals: i32,
    /// Epoch of the host's connection when the attempt began.
    pub asked_epoch: i64,
    /// Epoch of the connection that wrote the frame.
    pub held_epoch: Option<i64>,
    /// Not sent before: pace and back-off.
    pub not_before: i64,
    /// Not sent after.
    pub expires_at: i64,
    /// When the sweep looks at it next; `None` once it is final.
    pub next_check_at: Option<i64>,
    /// Somebody asked to stop it.
    pub cancel_requested_at: Option<i64>,
    /// The last deed that concerned it.
    pub last_sign_at: Option<i64>,
    /// The agent connected again after it was delivered.
    pub returned_at: Option<i64>,
    /// The time it entered each state, last time counts.
    pub times: Times,
    /// What ended it.
    pub evidence: Option<Evidence>,
    /// Why it did not succeed.
    pub error: Option<String>,
    /// Deeds and notes that only the life cycle reads.
    pub notes: Notes,
    /// Who asked: a user's name, or `system`.
    pub requested_by: String,
    /// The request that made it.
    pub batch_id: Uuid,
    /// The trace of that request.
    pub traceparent: Option<String>,
}

impl Command {
    /// Will it move no more? `delivered` ends a kind that has no visible deed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.state.is_end() || (self.state == State::Delivered && !self.kind.spec().has_deed())
    }

    /// When it entered `state` in the present attempt; times of earlier attempts are history.
    #[must_use]
    pub fn entered_in_attempt(&self, state: State) -> Option<i64> {
        let began = self.times.at(State::Sending)?;
        self.times.at(state).filter(|at| *at >= began)
    }
}

/// The time a command entered each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times([Option<i64>; State::ALL.len()]);

impl Times {
    /// When it last entered `state`.
    #[must_use]
    pub fn at(&self, state: State) -> Option<i64> {
        self.0[state as usize]
    }

    /// Notes that it entered `state`.
    pub fn enter(&mut self, state: State, at: i64) {
        self.0[state as usize] = Some(at);
    }

    /// Sets what the store kept.
    pub fn set(&mut self, state: State, at: Option<i64>) {
        self.0[state as usize] = at;
    }
}

/// The deed that ended a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was seen: `hosts/update`, `compliance/scans`, …
    pub deed: String,
    /// When, milliseconds since the Unix epoch, store's clock.
    pub at: i64,
    /// More about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// A deed that came after the command had ended otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Box<Evidence>>,
}

/// What the life cycle remembers between facts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// Deeds that came while the outcome of the attempt was open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<(i64, Deed)>,
    /// `timestamp` of the `started` seen since delivery, the host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan_started_host_ms: Option<i64>,
    /// A `started` was seen since delivery.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scan_open: bool,
    /// Results came since delivery, whether they counted or not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub results_seen: bool,
}

/// Compliance as a host's owner set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComplianceMode {
    /// No scans.
    Disabled,
    /// Scans when asked.
    OnDemand,
    /// Scheduled scans too.
    Enabled,
}

impl ComplianceMode {
    /// The name in rows and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::OnDemand => "on-demand",
            Self::Enabled => "enabled",
        }
    }

    /// Reads a name; unknown ones are disabled.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        match name {
            "on-demand" => Self::OnDemand,
            "enabled" => Self::Enabled,
            _ => Self::Disabled,
        }
    }
}

/// What decisions need to know of a host.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    /// The host.
    pub id: Uuid,
    /// What its agent calls itself.
    pub api_id: String,
    /// Epoch of its newest connection.
    pub epoch: i64,
    /// The hint: a gateway holds it.
    pub connected: bool,
    /// What its agent is, once it has told.
    pub generation: Option<Generation>,
    /// Docker integration.
    pub docker_enabled: bool,
    /// Compliance integration.
    pub compliance_mode: ComplianceMode,
    /// Scans run OpenSCAP.
    pub openscap_enabled: bool,
    /// Scans run Docker Bench.
    pub docker_bench_enabled: bool,
    /// Minutes between reports, as its owner wants them now.
    pub update_interval: u32,
}

impl HostFacts {
    /// Reports by 1.4's slower time-outs while the generation is not known.
    #[must_use]
    pub fn generation_or_older(&self) -> Generation {
        self.generation.unwrap_or(Generation::V14)
    }
}

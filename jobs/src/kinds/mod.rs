//! The kinds of commands, one file each.

mod compliance_scan;
mod refresh_integration_status;
mod report_now;
pub mod settings_update;

use std::time::Duration;

use schemas::{Generation, agent::ServerFrame};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    command::{Command, HostFacts},
    deed::{Deed, Sign},
    queue::Queue,
};

/// What can be asked of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A full report.
    ReportNow,
    /// The state of each integration.
    RefreshIntegrationStatus,
    /// New settings.
    SettingsUpdate,
    /// A compliance scan.
    ComplianceScan,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::ReportNow, Self::RefreshIntegrationStatus, Self::SettingsUpdate, Self::ComplianceScan];

    /// What is particular to it.
    #[must_use]
    pub fn spec(self) -> &'static dyn KindSpec {
        match self {
            Self::ReportNow => &report_now::ReportNow,
            Self::RefreshIntegrationStatus => &refresh_integration_status::RefreshIntegrationStatus,
            Self::SettingsUpdate => &settings_update::SettingsUpdate,
            Self::ComplianceScan => &compliance_scan::ComplianceScan,
        }
    }

    /// The name in requests, rows and frames.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.spec().name()
    }

    /// Reads a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// A payload that the kind does not take; the text names the field and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PayloadError(pub String);

/// What becomes of a command when its turn comes.
#[derive(Debug, Clone, PartialEq)]
pub enum Prepared {
    /// This frame is sent.
    Frame(ServerFrame),
    /// The host has nothing to do: done at once, for this reason.
    Nothing(&'static str),
    /// The host cannot do it: failed at once, for this reason.
    Cannot(&'static str),
}

/// How long a repeatable scan waits, after its agent came back, for a sign that it still runs.
pub const RETURN_GRACE: Duration = Duration::from_secs(60);

/// The longest an unproved frame of a kind without a silence of its own is asked after.
pub const UNPROVED_MAX: Duration = Duration::from_secs(30 * 60);

/// What is particular to a kind.
pub trait KindSpec: Sync {
    /// The name in requests, rows and frames.
    fn name(&self) -> &'static str;

    /// Which queue's workers send it.
    fn queue(&self) -> Queue {
        Queue::AgentCommands
    }

    /// Checks a request's payload and fills in what it leaves out.
    ///
    /// # Errors
    /// Names the field that is wrong and what it takes.
    fn check(&self, payload: &Value) -> Result<Value, PayloadError>;

    /// The frame for this host.
    fn prepare(&self, payload: &Value, host: &HostFacts) -> Prepared;

    /// The frame that stops it, for kinds that can be stopped once they are sent.
    fn cancel_frame(&self) -> Option<ServerFrame> {
        None
    }

    /// May it be sent again when it may have been lost?
    fn repeatable(&self, payload: &Value) -> bool;

    /// Is it spread over time when many hosts are asked at once?
    fn paced(&self) -> bool {
        false
    }

    /// Must it not be sent while a terminal is open (protocol 6-3)?
    fn quiet(&self) -> bool {
        false
    }

    /// May a host have only one of them at a time?
    fn exclusive(&self) -> bool {
        false
    }

    /// Does a host's deed show that it was done? If not, `delivered` is final.
    fn has_deed(&self) -> bool {
        true
    }

    /// How long nothing may be heard of it before it is unconfirmed.
    fn silence(&self, generation: Generation) -> Duration;

    /// How long it may take in all.
    fn lifetime(&self) -> Option<Duration> {
        None
    }

    /// What a deed of the host means to it.
    fn sign(&self, command: &Command, deed: &Deed) -> Sign;
}

/// Silence of the kinds that a report loop may hold up: 30 min (1.4), 10 min (2.1); protocol 6-3.
fn report_silence(generation: Generation) -> Duration {
    Duration::from_secs(match generation {
        Generation::V14 => 30 * 60,
        Generation::V21 => 10 * 60,
    })
}

/// For kinds that take no fields: `null` and `{}` are fine, anything else is named.
fn no_fields(payload: &Value, kind: &str) -> Result<Value, PayloadError> {
    match payload {
        Value::Null => Ok(Value::Object(serde_json::Map::new())),
        Value::Object(map) => match map.keys().next() {
            None => Ok(payload.clone()),
            Some(field) => Err(PayloadError(format!("{kind} takes no field {field:?}"))),
        },
        _ => Err(PayloadError("payload must be an object".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_are_what_the_frame_says() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of_name(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).ok(), Some(Value::from(kind.name())));
        }
    }
}

//! `settings_update`: minutes between reports (protocol 1.3). The host shows nothing, so `delivered` is its end.

use std::time::Duration;

use schemas::{Generation, agent::ServerFrame};
use serde_json::{Value, json};

use super::{KindSpec, PayloadError, Prepared, UNPROVED_MAX};
use crate::{
    command::{Command, HostFacts},
    deed::{Deed, Sign},
};

pub struct SettingsUpdate;

/// The field of the payload.
pub const UPDATE_INTERVAL: &str = "update_interval";

/// Intervals above an hour that the protocol knows, in minutes (protocol 3).
const HOURS: [u32; 6] = [60, 120, 180, 360, 720, 1440];

/// Brings minutes to what the protocol knows (protocol 3): below an hour the nearest step of 5 from 5 on, above it the
/// nearest of 1, 2, 3, 6, 12 and 24 hours.
#[must_use]
pub fn normalise(minutes: u32) -> u32 {
    if minutes < HOURS[0] {
        return ((minutes + 2) / 5 * 5).max(5);
    }
    HOURS.into_iter().min_by_key(|h| h.abs_diff(minutes)).unwrap_or(HOURS[0])
}

impl KindSpec for SettingsUpdate {
    fn name(&self) -> &'static str {
        "settings_update"
    }

    fn check(&self, payload: &Value) -> Result<Value, PayloadError> {
        let Value::Object(map) = payload else {
            return Err(PayloadError("payload must be an object with update_interval".to_owned()));
        };
        if let Some(other) = map.keys().find(|k| *k != UPDATE_INTERVAL) {
            return Err(PayloadError(format!("settings_update takes no field {other:?}")));
        }
        let minutes = map
            .get(UPDATE_INTERVAL)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| *n > 0)
            .ok_or_else(|| PayloadError("update_interval must be a whole number of minutes above 0".to_owned()))?;
        Ok(json!({ UPDATE_INTERVAL: normalise(minutes) }))
    }

    /// What the owner wants now, not when this command was made: two that overtake each other end in the same state.
    fn prepare(&self, _payload: &Value, host: &HostFacts) -> Prepared {
        Prepared::Frame(ServerFrame::SettingsUpdate { update_interval: host.update_interval })
    }

    fn repeatable(&self, _payload: &Value) -> bool {
        true
    }

    fn has_deed(&self) -> bool {
        false
    }

    fn silence(&self, _generation: Generation) -> Duration {
        UNPROVED_MAX
    }

    fn sign(&self, _command: &Command, _deed: &Deed) -> Sign {
        Sign::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_brought_to_what_agents_know() {
        for (minutes, wanted) in [
            (1, 5),
            (5, 5),
            (7, 5),
            (8, 10),
            (57, 55),
            (58, 60),
            (60, 60),
            (89, 60),
            (100, 120),
            (300, 360),
            (1000, 720),
            (9999, 1440),
        ] {
            assert_eq!(normalise(minutes), wanted, "{minutes}");
        }
    }

    #[test]
    fn the_frame_says_what_the_owner_wants_now() {
        let host = HostFacts {
            id: uuid::Uuid::nil(),
            api_id: "a".to_owned(),
            epoch: 1,
            connected: true,
            generation: None,
            docker_enabled: false,
            compliance_mode: crate::command::ComplianceMode::Disabled,
            openscap_enabled: true,
            docker_bench_enabled: false,
            update_interval: 120,
        };
        let frame = SettingsUpdate.prepare(&json!({ UPDATE_INTERVAL: 30 }), &host);
        assert_eq!(frame, Prepared::Frame(ServerFrame::SettingsUpdate { update_interval: 120 }));
    }

    #[test]
    fn a_wrong_payload_is_named() {
        let spec = SettingsUpdate;
        for bad in [
            json!({}),
            json!({"update_interval": "30"}),
            json!({"update_interval": 0}),
            json!(null),
            json!({"update_interval": 5, "x": 1}),
        ] {
            assert!(spec.check(&bad).is_err(), "{bad}");
        }
    }
}

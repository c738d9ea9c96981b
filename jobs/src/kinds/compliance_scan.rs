//! `compliance_scan` (protocol 1.3). Opened by progress `started`, ended by `POST compliance/scans`: progress
//! `completed` only says that an upload was accepted (protocol 1.4).

use std::time::Duration;

use schemas::{
    Generation,
    agent::{ScanPhase, ServerFrame},
    scan::{ScanFact, ScanStatus},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{KindSpec, PayloadError, Prepared};
use crate::{
    command::{Command, HostFacts},
    deed::{Deed, Sign},
    queue::Queue,
    state::State,
};

pub(super) struct ComplianceScan;

/// Longest profile id an agent takes (protocol 1.3).
const PROFILE_ID_MAX: usize = 256;

/// What phases call a scan that names no profile (protocol 1.4).
const NO_PROFILE: &str = "default";

/// In the message of `completed` when results were posted: "Scan completed! Score: 94.4%". Without, it is "Scan completed
/// (no results)" (protocol 1.4).
const UPLOADED: &str = "Score:";

/// How much older than the delivery a result may be when no `started` was seen.
const RESULT_SLACK_MS: i64 = 5 * 60 * 1000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Payload {
    profile_type: String,
    profile_id: Option<String>,
    enable_remediation: bool,
    fetch_remote_resources: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    openscap_enabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    docker_bench_enabled: Option<bool>,
}

impl Default for Payload {
    fn default() -> Self {
        Self {
            profile_type: "all".to_owned(),
            profile_id: None,
            enable_remediation: false,
            fetch_remote_resources: false,
            openscap_enabled: None,
            docker_bench_enabled: None,
        }
    }
}

/// `unknown field` names it itself, a wrong type does not.
fn named(error: &serde_path_to_error::Error<serde_json::Error>) -> PayloadError {
    let text = error.inner().to_string();
    PayloadError(if text.contains(" field `") { text } else { format!("payload.{}: {text}", error.path()) })
}

fn read(payload: &Value) -> Option<Payload> {
    Payload::deserialize(payload).ok()
}

impl KindSpec for ComplianceScan {
    fn name(&self) -> &'static str {
        "compliance_scan"
    }

    fn queue(&self) -> Queue {
        Queue::Compliance
    }

    fn check(&self, payload: &Value) -> Result<Value, PayloadError> {
        let mut read = match payload {
            Value::Null => Payload::default(),
            Value::Object(_) => serde_path_to_error::deserialize(payload).map_err(|e| named(&e))?,
            _ => return Err(PayloadError("payload must be an object".to_owned())),
        };
        if read.profile_type.is_empty() {
            "all".clone_into(&mut read.profile_type);
        }
        if !["all", "openscap", "docker-bench"].contains(&read.profile_type.as_str()) {
            return Err(PayloadError("Invalid profile_type. Must be one of: all, openscap, docker-bench".to_owned()));
        }
        if let Some(id) = &read.profile_id {
            let fits = !id.is_empty()
                && id.len() <= PROFILE_ID_MAX
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
            if !fits {
                return Err(PayloadError("profile_id must be 1 to 256 characters of A-Z a-z 0-9 _ . -".to_owned()));
            }
        }
        serde_json::to_value(read).map_err(|e| PayloadError(e.to_string()))
    }

    fn prepare(&self, payload: &Value, host: &HostFacts) -> Prepared {
        let Some(p) = read(payload) else {
            return Prepared::Cannot("the stored payload cannot be read");
        };
        let (openscap, docker_bench) = match p.profile_type.as_str() {
            "openscap" => (true, false),
            "docker-bench" => (false, true),
            _ => (host.openscap_enabled, host.docker_bench_enabled),
        };
        let openscap_enabled = p.openscap_enabled.unwrap_or(openscap);
        let docker_bench_enabled = p.docker_bench_enabled.unwrap_or(docker_bench);
        if !openscap_enabled && !docker_bench_enabled {
            return Prepared::Cannot("both scanners are off for this host");
        }
        Prepared::Frame(ServerFrame::ComplianceScan {
            profile_type: p.profile_type,
            profile_id: p.profile_id,
            enable_remediation: p.enable_remediation,
            fetch_remote_resources: p.fetch_remote_resources,
            openscap_enabled,
            docker_bench_enabled,
        })
    }

    fn cancel_frame(&self) -> Option<ServerFrame> {
        Some(ServerFrame::ComplianceScanCancel)
    }

    /// A scan that repairs must not run twice; one that only looks may.
    fn repeatable(&self, payload: &Value) -> bool {
        read(payload).is_some_and(|p| !p.enable_remediation)
    }

    fn paced(&self) -> bool {
        true
    }

    fn exclusive(&self) -> bool {
        true
    }

    fn silence(&self, _generation: Generation) -> Duration {
        Duration::from_secs(30 * 60)
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(Duration::from_secs(3 * 60 * 60))
    }

    fn sign(&self, command: &Command, deed: &Deed) -> Sign {
        match deed {
            Deed::ScanPhase { phase, profile, text, .. } if names_it(command, profile) => {
                phase_sign(command, *phase, text)
            }
            Deed::ScanResults { scans } => result_sign(command, scans),
            _ => Sign::None,
        }
    }
}

/// Phases name the profile that was asked for. One of another is of a scan before, whose end was held up (protocol 6-10).
fn names_it(command: &Command, profile: &str) -> bool {
    let asked = command.payload.get("profile_id").and_then(Value::as_str).unwrap_or(NO_PROFILE);
    profile.is_empty() || profile == asked
}

/// Only `started` and `failed` open a scan: what else comes first was buffered by the agent before it (protocol 1.4).
fn phase_sign(command: &Command, phase: ScanPhase, text: &str) -> Sign {
    let open = command.notes.scan_open || command.state == State::Running;
    match phase {
        ScanPhase::Started => Sign::Began,
        ScanPhase::Failed => Sign::Broke(if text.is_empty() { "the scan failed" } else { text }.to_owned()),
        _ if !open => Sign::None,
        ScanPhase::Evaluating | ScanPhase::Parsing | ScanPhase::Sending => Sign::Alive,
        // Results were posted, for this scan or for one whose answer was held up.
        ScanPhase::Completed if command.notes.results_seen || text.contains(UPLOADED) => Sign::Alive,
        ScanPhase::Completed => Sign::Broke("no scanner ran".to_owned()),
        ScanPhase::Cancelled => Sign::Broke("the agent cancelled the scan".to_owned()),
    }
}

fn result_sign(command: &Command, scans: &[ScanFact]) -> Sign {
    let Some(asked) = read(&command.payload) else {
        return Sign::None;
    };
    let of_type: Vec<&ScanFact> = scans
        .iter()
        .filter(|s| s.status != ScanStatus::InProgress)
        .filter(|s| asked.profile_type == "all" || s.profile_type == asked.profile_type)
        .collect();
    if !in_time(command, &of_type) {
        return Sign::None;
    }
    if let Some(failed) = of_type.iter().find(|s| s.status == ScanStatus::Failed) {
        let why = if failed.error.is_empty() { "the scan failed" } else { &failed.error };
        return Sign::Broke(why.to_owned());
    }
    let fits =
        |s: &&&ScanFact| asked.profile_id.as_deref().is_none_or(|id| s.profile_name == id || s.profile_type == id);
    match of_type.iter().find(fits) {
        Some(scan) => Sign::Done(format!("{} {} completed", scan.profile_type, scan.profile_name)),
        None => Sign::None,
    }
}

/// Is the result of this scan, not of one before it? Compared on the host's clock where its `started` was seen.
fn in_time(command: &Command, scans: &[&ScanFact]) -> bool {
    let Some(earliest) = scans.iter().filter_map(|s| s.started_at_ms).min() else {
        return !scans.is_empty();
    };
    if let Some(started) = command.notes.scan_started_host_ms {
        // `timestamp` has whole seconds: compare what both have.
        return earliest.div_euclid(1000) >= started.div_euclid(1000);
    }
    match command.entered_in_attempt(State::Delivered) {
        Some(at) => earliest >= at - RESULT_SLACK_MS,
        // Perhaps it never came to the host, which may still be at an earlier one: what began before we asked is not it.
        None => command.times.at(State::Sending).is_none_or(|at| earliest >= at),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wrong_payload_is_named() {
        let why = |payload| ComplianceScan.check(&payload).map_err(|e| e.0).unwrap_err();
        assert_eq!(why(json!(["all"])), "payload must be an object");
        assert!(why(json!({"enable_remediation": "yes"})).starts_with("payload.enable_remediation: "));
        assert!(why(json!({"image": "x"})).contains("`image`"));
        assert!(why(json!({"profile_type": "stig"})).contains("openscap"));
        assert!(why(json!({"profile_id": "a b"})).contains("profile_id"));
    }
}

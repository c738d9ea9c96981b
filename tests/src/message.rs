//! Messages of the agent socket: how an agent decodes what it gets, and the shape of what it sends.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

/// A decoded server → agent message. Agents decode every message into one record of all fields, so that a wrong JSON type
/// in any field, even one that this type does not use, drops the whole message (protocol 1.3).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the protocol's")]
pub struct Inbound {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub update_interval: Option<i64>,
    pub compliance_scan_interval: Option<i64>,
    pub package_cache_refresh_mode: Option<String>,
    pub package_cache_refresh_max_age: Option<i64>,
    pub version: Option<String>,
    pub force: Option<bool>,
    pub message: Option<String>,
    pub integration: Option<String>,
    pub enabled: Option<bool>,
    pub mode: Option<String>,
    pub on_demand_only: Option<bool>,
    pub profile_type: Option<String>,
    pub profile_id: Option<String>,
    pub enable_remediation: Option<bool>,
    pub fetch_remote_resources: Option<bool>,
    pub openscap_enabled: Option<bool>,
    pub docker_bench_enabled: Option<bool>,
    pub rule_id: Option<String>,
    pub image_name: Option<String>,
    pub container_name: Option<String>,
    pub scan_all_images: Option<bool>,
    pub session_id: Option<String>,
    pub host: Option<String>,
    pub port: Option<i64>,
    pub username: Option<String>,
    pub terminal: Option<String>,
    pub cols: Option<i64>,
    pub rows: Option<i64>,
    pub password: Option<String>,
    pub private_key: Option<String>,
    pub passphrase: Option<String>,
    pub data: Option<String>,
    pub patch_run_id: Option<String>,
    pub patch_type: Option<String>,
    pub package_name: Option<String>,
    pub package_names: Option<Vec<String>>,
    pub dry_run: Option<bool>,
}

impl Inbound {
    /// Decodes as an agent does: text and binary alike, invalid UTF-8 replaced, field names in any case, no float where
    /// an integer is meant, nothing after the object. `None` is what an agent logs and drops (bad-frames).
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(payload);
        let Value::Object(fields) = serde_json::from_str(&text).ok()? else {
            return None;
        };
        let fields = fields.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
        serde_json::from_value(Value::Object(fields)).ok()
    }

    /// The exact `type`, or nothing.
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or_default()
    }
}

/// The `type` of a payload for the log, also of one that an agent drops.
pub fn kind_for_log(payload: &[u8]) -> String {
    serde_json::from_slice::<Value>(payload)
        .ok()
        .and_then(|value| value.get("type")?.as_str().map(str::to_owned))
        .unwrap_or_else(|| "?".to_owned())
}

/// Rules for `profile_id` and `rule_id`: anything else is ignored without a word (protocol 1.3).
pub fn is_id(text: &str) -> bool {
    text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// One phase of a scan (protocol 1.4). The fields stand in the order of the wire, which is alphabetical.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScanProgress<'a> {
    /// Always there, empty if there was none.
    pub error: &'a str,
    /// For people.
    pub message: &'a str,
    /// started, evaluating, parsing, sending, completed, failed.
    pub phase: &'a str,
    /// The id that was asked for, or "default".
    pub profile_name: &'a str,
    /// Percent; 0 when failed.
    pub progress: u8,
    /// RFC 3339, whole seconds.
    pub timestamp: String,
    /// `compliance_scan_progress`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

impl<'a> ScanProgress<'a> {
    /// A phase with its number and the words that agents send with it.
    pub fn new(phase: &'a str, profile_name: &'a str) -> Self {
        let (progress, message) = match phase {
            "started" => (5, "Initializing compliance scan..."),
            "evaluating" => (15, "Running OpenSCAP evaluation (this may take several minutes)..."),
            "parsing" => (80, "Processing scan results..."),
            "sending" => (90, "Uploading results to server..."),
            "completed" => (100, "Scan completed (no results)"),
            _ => (0, "Failed to send results"),
        };
        Self {
            error: "",
            message,
            phase,
            profile_name,
            progress,
            timestamp: whole_seconds(OffsetDateTime::now_utc()),
            kind: "compliance_scan_progress",
        }
    }
}

/// The answer to every terminal while the host's config.yml does not allow them (protocol 2.5).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SshProxyError<'a> {
    /// The same text as `message`.
    pub data: &'a str,
    /// For the browser.
    pub message: &'a str,
    /// Of the refused session.
    pub session_id: &'a str,
    /// `ssh_proxy_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// The agent's words, with the way to allow it.
pub const SSH_PROXY_DISABLED: &str = "SSH proxy is not enabled.\n\nTo enable SSH proxy, edit the file \
    /etc/patchmon/config.yml and add the following:\n\nintegrations:\n    ssh-proxy-enabled: true\n\nNote: This cannot \
    be pushed from the server to the agent and should require you to manually do this for security reasons.";

impl<'a> SshProxyError<'a> {
    /// Refuses `session_id`.
    pub fn disabled(session_id: &'a str) -> Self {
        Self { data: SSH_PROXY_DISABLED, message: SSH_PROXY_DISABLED, session_id, kind: "ssh_proxy_error" }
    }
}

/// Encodes as the agents' encoder does: no spaces, and `<`, `>`, `&` escaped (protocol 1.2). None of them can stand
/// outside a JSON string, so replacing them in the text is safe.
pub fn encode(message: &impl Serialize) -> serde_json::Result<String> {
    Ok(escape(&serde_json::to_string(message)?))
}

pub(crate) fn escape(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// `2026-11-24T23:10:23Z`, of progress messages.
pub fn whole_seconds(time: OffsetDateTime) -> String {
    format!("{}Z", date_and_time(time))
}

/// `2026-11-24T23:10:23.623035893Z`, of results and boot times.
pub fn nanoseconds(time: OffsetDateTime) -> String {
    format!("{}.{:09}Z", date_and_time(time), time.nanosecond())
}

fn date_and_time(time: OffsetDateTime) -> String {
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::lines;

    #[test]
    fn a_wrong_type_in_any_field_drops_the_message() {
        // bad-frames: what the agents dropped, and what they took.
        for dropped in [
            r#"{"type":"report_now","update_interval":"60"}"#,
            r#"{"type":"ssh_proxy_input","session_id":5,"data":"x"}"#,
            r#"{"type":"settings_update","update_interval":10.0}"#,
            r#"{"type":"settings_update","update_interval":1e1}"#,
            r#"{"type":"report_now"} trailing"#,
            "not json",
            "[]",
            "\"x\"",
            "",
        ] {
            assert_eq!(Inbound::decode(dropped.as_bytes()), None, "{dropped}");
        }
        let taken = Inbound::decode(br#"{"TYPE":"refresh_integration_status"}"#).unwrap();
        assert_eq!(taken.kind(), "refresh_integration_status");
        let bad_utf8 = b"{\"type\":\"settings_update\",\"update_interval\":35,\"x\":\"\xff\xfe\"}";
        assert_eq!(Inbound::decode(bad_utf8).unwrap().update_interval, Some(35));
        let null = Inbound::decode(br#"{"type":"compliance_scan","profile_id":null}"#).unwrap();
        assert_eq!(null.profile_id, None);
        assert_eq!(Inbound::decode(b"{}").unwrap().kind(), "");
    }

    #[test]
    fn every_recorded_phase_is_sent_as_it_was_recorded() {
        let mut seen = 0;
        for file in ["1.4-compliance-scan", "2.1-compliance-scan"] {
            for line in lines(file) {
                let Some(payload) = line.message_of("compliance_scan_progress") else {
                    continue;
                };
                let text = |name: &str| payload[name].as_str().unwrap().to_owned();
                let (phase, profile) = (text("phase"), text("profile_name"));
                let message = text("message");
                let mut progress = ScanProgress::new(&phase, &profile);
                progress.timestamp = text("timestamp");
                if phase == "completed" {
                    progress.message = &message;
                }
                let sent = encode(&progress).unwrap();
                assert_eq!(sent.len() as u64, line.bytes().unwrap());
                assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), payload, "{phase}");
                seen += 1;
            }
        }
        assert_eq!(seen, 10);
    }

    #[test]
    fn times_are_written_as_recorded() {
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_795_561_823_623_035_893).unwrap();
        assert_eq!(whole_seconds(time), "2026-11-24T23:10:23Z");
        assert_eq!(nanoseconds(time), "2026-11-24T23:10:23.623035893Z");
    }

    #[test]
    fn html_characters_are_escaped() {
        assert_eq!(encode(&"a<b>&c").unwrap(), r#""a\u003cb\u003e\u0026c""#);
    }
}

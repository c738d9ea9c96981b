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

/// The agent's words, with the way to allow it.
pub const SSH_PROXY_DISABLED: &str = "SSH proxy is not enabled.\n\nTo enable SSH proxy, edit the file \
    /etc/patchmon/config.yml and add the following:\n\nintegrations:\n    ssh-proxy-enabled: true\n\nNote: This cannot \
    be pushed from the server to the agent and should require you to manually do this for security reasons.";

/// What an agent says of a terminal (protocol 1.4), its fields in the order of the wire.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SshProxy<'a> {
    /// What the shell wrote; of an error the same text as `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<&'a str>,
    /// For the browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// Whose it is.
    pub session_id: &'a str,
    /// `ssh_proxy_connected`, `ssh_proxy_data`, `ssh_proxy_error` or `ssh_proxy_closed`.
    #[serde(rename = "type")]
    pub kind: &'static str,
}

impl<'a> SshProxy<'a> {
    /// The shell is open.
    pub fn connected(session_id: &'a str) -> Self {
        Self { data: None, message: None, session_id, kind: "ssh_proxy_connected" }
    }

    /// It wrote.
    pub fn data(session_id: &'a str, text: &'a str) -> Self {
        Self { data: Some(text), ..Self::connected(session_id) }.called("ssh_proxy_data")
    }

    /// There is none, and nothing follows.
    pub fn error(session_id: &'a str, text: &'a str) -> Self {
        Self { data: Some(text), message: Some(text), ..Self::connected(session_id) }.called("ssh_proxy_error")
    }

    /// It is gone.
    pub fn closed(session_id: &'a str) -> Self {
        Self::connected(session_id).called("ssh_proxy_closed")
    }

    fn called(self, kind: &'static str) -> Self {
        Self { kind, ..self }
    }
}

/// Bytes as the agents' encoder makes text of them: each that is no UTF-8 becomes a U+FFFD of its own (protocol 6-6).
pub fn lossy(bytes: &[u8]) -> String {
    bytes.utf8_chunks().fold(String::with_capacity(bytes.len()), |mut text, chunk| {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
        text
    })
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
    use crate::recording::{Line, lines};

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
    fn terminals_are_spoken_of_as_recorded() {
        let mut seen = 0;
        for file in ["1.4-ssh-proxy", "2.1-ssh-proxy", "1.4-ssh-proxy-errors", "2.1-ssh-proxy-errors"] {
            let recorded =
                std::fs::read_to_string(format!("{}/wire/{file}.jsonl", env!("CARGO_MANIFEST_DIR"))).unwrap();
            for line in recorded.lines().map(|line| Line(serde_json::from_str(line).unwrap())) {
                for kind in ["ssh_proxy_connected", "ssh_proxy_data", "ssh_proxy_error", "ssh_proxy_closed"] {
                    let Some(payload) = line.message_of(kind) else { continue };
                    let text = |name: &str| payload[name].as_str().unwrap_or_default();
                    let (id, data) = (text("session_id"), text("data"));
                    let sent = match kind {
                        "ssh_proxy_connected" => SshProxy::connected(id),
                        "ssh_proxy_data" => SshProxy::data(id, data),
                        "ssh_proxy_error" => SshProxy::error(id, data),
                        _ => SshProxy::closed(id),
                    };
                    let sent = encode(&sent).unwrap();
                    assert_eq!(sent.len() as u64, line.bytes().unwrap(), "{sent}");
                    assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), payload);
                    seen += 1;
                }
            }
        }
        assert!(seen > 80, "{seen}");
    }

    #[test]
    fn each_byte_of_half_a_character_is_replaced() {
        let (first, second) = "h\u{20ac}y".as_bytes().split_at(3);
        assert_eq!((lossy(first).as_str(), lossy(second).as_str()), ("h\u{fffd}\u{fffd}", "\u{fffd}y"));
        assert_eq!(lossy("\u{1f600}".as_bytes()), "\u{1f600}");
    }

    #[test]
    fn html_characters_are_escaped() {
        assert_eq!(encode(&"a<b>&c").unwrap(), r#""a\u003cb\u003e\u0026c""#);
    }
}

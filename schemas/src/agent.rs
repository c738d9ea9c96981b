//! Frames between server and agent (protocol 1.3 and 1.4): one JSON object in a text frame, told apart by `type`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The greeting of the 1.4 server (protocol 1.2); 2.1 agents ignore it.
pub const CONNECTED: &str = r#"{"type":"connected"}"#;

/// Longest frame an agent accepts, in bytes (protocol 1.2); one more and it hangs up.
pub const AGENT_READ_LIMIT: usize = 65_536;

/// What we send. Only what the commands of this version need.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// A full report, please.
    ReportNow,
    /// Tell the state of each enabled integration.
    RefreshIntegrationStatus,
    /// New settings.
    SettingsUpdate {
        /// Minutes between reports.
        update_interval: u32,
    },
    /// Run a compliance scan.
    ComplianceScan {
        /// `all`, `openscap` or `docker-bench`; the agent only logs it.
        profile_type: String,
        /// The profile, or null for the agent's default.
        profile_id: Option<String>,
        /// Let the scanner repair what it finds.
        enable_remediation: bool,
        /// Let the scanner fetch remote content.
        fetch_remote_resources: bool,
        /// Run OpenSCAP.
        openscap_enabled: bool,
        /// Run Docker Bench.
        docker_bench_enabled: bool,
    },
    /// Stop the scan that was started last.
    ComplianceScanCancel,
}

impl ServerFrame {
    /// The frame as JSON text.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What we send about terminals (protocol 1.3, 2.5). The first carries credentials: it has no `Debug`.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TerminalFrame<'a> {
    /// Open a shell.
    SshProxy {
        /// Which.
        session_id: &'a str,
        /// Where the agent connects to.
        host: &'a str,
        /// And at which port.
        port: u16,
        /// As whom.
        username: &'a str,
        /// `TERM`.
        terminal: &'a str,
        /// Columns.
        cols: u32,
        /// Rows.
        rows: u32,
        /// A password,
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<&'a str>,
        /// or a private key,
        #[serde(skip_serializing_if = "Option::is_none")]
        private_key: Option<&'a str>,
        /// and what it is encrypted with.
        #[serde(skip_serializing_if = "Option::is_none")]
        passphrase: Option<&'a str>,
    },
    /// Keystrokes.
    SshProxyInput {
        /// Which shell.
        session_id: &'a str,
        /// As they were typed.
        data: &'a str,
    },
    /// The window has another size.
    SshProxyResize {
        /// Which shell.
        session_id: &'a str,
        /// Columns.
        cols: u32,
        /// Rows.
        rows: u32,
    },
    /// Close a shell.
    SshProxyDisconnect {
        /// Which.
        session_id: &'a str,
    },
}

impl TerminalFrame<'_> {
    /// The frame as JSON text.
    #[must_use]
    pub fn encode(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A shell's id on the wire, as upstream writes it: 32 hex digits.
#[must_use]
pub fn session_id(id: Uuid) -> String {
    id.simple().to_string()
}

/// What an agent says of a shell (protocol 1.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShellFrame {
    /// It is open.
    Connected,
    /// It wrote.
    Data(String),
    /// It could not be opened, or broke; nothing follows.
    Error(String),
    /// It is gone.
    Closed,
}

/// Phases of a scan (protocol 1.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanPhase {
    /// Began.
    Started,
    /// The scanner runs.
    Evaluating,
    /// Reads the scanner's output.
    Parsing,
    /// Uploads it.
    Sending,
    /// The upload was accepted; proves nothing about the scan.
    Completed,
    /// Could not run, or could not upload.
    Failed,
    /// Never seen on the wire.
    Cancelled,
}

/// `compliance_scan_progress` (protocol 1.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScanProgress {
    /// How far.
    pub phase: ScanPhase,
    /// The profile, `default` when none was asked for.
    #[serde(default)]
    pub profile_name: String,
    /// For people.
    #[serde(default)]
    pub message: String,
    /// Percent.
    #[serde(default)]
    pub progress: f64,
    /// Empty when there is none.
    #[serde(default)]
    pub error: String,
    /// The host's clock, RFC 3339.
    #[serde(default)]
    pub timestamp: String,
}

/// What an agent sends.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentFrame {
    /// Progress of a compliance scan.
    ScanProgress(ScanProgress),
    /// Something about a shell.
    Shell {
        /// Which.
        session_id: Uuid,
        /// What.
        frame: ShellFrame,
    },
    /// Known to the protocol, of no use to this version.
    Unused,
    /// A `type` the protocol does not know: ignored (protocol, head).
    UnknownType,
}

/// Types that agents send and that this version has no use for (protocol 1.4).
const UNUSED: [&str; 5] =
    ["docker_status", "rdp_proxy_connected", "rdp_proxy_data", "rdp_proxy_error", "rdp_proxy_closed"];

impl AgentFrame {
    /// Reads a text frame.
    ///
    /// # Errors
    /// What serde_json says of text that is no JSON object with a string `type`, or of fields with wrong types.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Typed<'a> {
            #[serde(borrow, rename = "type")]
            kind: std::borrow::Cow<'a, str>,
        }
        // serde would take an array for the fields in their order.
        if !text.trim_start().starts_with('{') {
            return Err(serde::de::Error::custom("no object"));
        }
        let typed: Typed<'_> = serde_json::from_str(text)?;
        Ok(match typed.kind.as_ref() {
            "compliance_scan_progress" => Self::ScanProgress(serde_json::from_str(text)?),
            kind @ ("ssh_proxy_connected" | "ssh_proxy_data" | "ssh_proxy_error" | "ssh_proxy_closed") => {
                Self::shell(kind, text)?
            }
            known if UNUSED.contains(&known) => Self::Unused,
            _ => Self::UnknownType,
        })
    }

    fn shell(kind: &str, text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Shell {
            /// `""` where an agent was asked without one.
            session_id: String,
            #[serde(default)]
            data: String,
            #[serde(default)]
            message: String,
        }
        let Shell { session_id, data, message } = serde_json::from_str(text)?;
        // Ours are 32 hex digits; one that is none of ours is of nobody's session.
        let session_id = Uuid::try_parse(&session_id).unwrap_or_default();
        let frame = match kind {
            "ssh_proxy_connected" => ShellFrame::Connected,
            "ssh_proxy_data" => ShellFrame::Data(data),
            "ssh_proxy_error" => ShellFrame::Error(if message.is_empty() { data } else { message }),
            _ => ShellFrame::Closed,
        };
        Ok(Self::Shell { session_id, frame })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_agents_write_it() {
        let text = r#"{"error":"","message":"Initializing compliance scan...","phase":"started","profile_name":"level1_server","progress":5,"timestamp":"2026-11-24T23:10:23Z","type":"compliance_scan_progress"}"#;
        let Ok(AgentFrame::ScanProgress(p)) = AgentFrame::parse(text) else {
            panic!("not read");
        };
        assert_eq!(p.phase, ScanPhase::Started);
        assert_eq!(p.profile_name, "level1_server");
    }

    #[test]
    fn malformed_and_unknown_frames_are_told_apart() {
        assert!(AgentFrame::parse("[1]").is_err());
        assert!(AgentFrame::parse(r#"["docker_status"]"#).is_err());
        assert!(AgentFrame::parse(r#"{"type":7}"#).is_err());
        assert!(AgentFrame::parse(r#"{"type":"compliance_scan_progress","phase":3}"#).is_err());
        assert_eq!(AgentFrame::parse(r#"{"type":"hello"}"#).ok(), Some(AgentFrame::UnknownType));
        assert_eq!(AgentFrame::parse(r#"{"type":"docker_status","event":1}"#).ok(), Some(AgentFrame::Unused));
    }

    #[test]
    fn what_agents_say_of_shells_is_read() {
        let read = |text: &str| match AgentFrame::parse(text) {
            Ok(AgentFrame::Shell { session_id, frame }) => (session_id.as_u128(), frame),
            other => panic!("{other:?}"),
        };
        let id = session_id(Uuid::from_u128(7));
        assert_eq!(id.len(), 32);
        let with = |rest: &str| read(&format!(r#"{{"session_id":"{id}",{rest}}}"#));
        assert_eq!(with(r#""type":"ssh_proxy_connected""#), (7, ShellFrame::Connected));
        assert_eq!(with(r#""data":"a\u003c","type":"ssh_proxy_data""#), (7, ShellFrame::Data("a<".into())));
        let error = r#""data":"no","message":"no","type":"ssh_proxy_error""#;
        assert_eq!(with(error), (7, ShellFrame::Error("no".into())));
        assert_eq!(with(r#""type":"ssh_proxy_closed""#), (7, ShellFrame::Closed));
        assert_eq!(read(r#"{"session_id":"","type":"ssh_proxy_closed"}"#), (0, ShellFrame::Closed));
        assert!(AgentFrame::parse(r#"{"session_id":7,"type":"ssh_proxy_closed"}"#).is_err());
    }

    #[test]
    fn frames_about_terminals_carry_the_fields_of_the_protocol() {
        let open = TerminalFrame::SshProxy {
            session_id: "ab",
            host: "localhost",
            port: 22,
            username: "root",
            terminal: "xterm",
            cols: 80,
            rows: 24,
            password: Some("pw"),
            private_key: None,
            passphrase: None,
        };
        assert_eq!(
            open.encode(),
            r#"{"type":"ssh_proxy","session_id":"ab","host":"localhost","port":22,"username":"root","terminal":"xterm","cols":80,"rows":24,"password":"pw"}"#
        );
        let input = TerminalFrame::SshProxyInput { session_id: "ab", data: "ls\r" };
        assert_eq!(input.encode(), r#"{"type":"ssh_proxy_input","session_id":"ab","data":"ls\r"}"#);
    }

    #[test]
    fn frames_carry_the_fields_of_the_protocol() {
        assert_eq!(ServerFrame::ReportNow.encode(), r#"{"type":"report_now"}"#);
        assert_eq!(
            ServerFrame::SettingsUpdate { update_interval: 30 }.encode(),
            r#"{"type":"settings_update","update_interval":30}"#
        );
    }
}

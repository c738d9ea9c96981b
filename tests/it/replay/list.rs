//! Which recordings are played, and what the others wait for. A change that brings what one waits for moves it up.

/// One recording that is played.
pub struct Session {
    /// Its name in `wire/`, without the ending.
    pub file: &'static str,
    /// Stretches that are left out: from the note that begins so to the next one that heads a stretch.
    pub leave_out: &'static [(&'static str, &'static str)],
}

const fn whole(file: &'static str) -> Session {
    Session { file, leave_out: &[] }
}

const fn without(file: &'static str, leave_out: &'static [(&'static str, &'static str)]) -> Session {
    Session { file, leave_out }
}

const SCRIPTED_ERRORS: &[(&str, &str)] = &[
    ("part: http-odd-answers", "the server answers 201, 204 and text/plain on purpose"),
    ("part: http-500-429", "the server answers 429, 500, 503 and 413 on purpose"),
    ("part: http-bad-json", "the server answers JSON that does not parse on purpose"),
    ("part: http-interval-wrong-type", "the server answers an interval as text on purpose"),
];

const SCRIPTED_SCANS: &[(&str, &str)] = &[
    ("two scans at once", "a host has one active scan: the second waits until the first has ended"),
    ("POST compliance/scans answered 429", "the server refuses the result on purpose"),
];

const OTHER_URLS: &[(&str, &str)] = &[("part: url-no-scheme-tls", "wss"), ("part: url-no-scheme-name", "wss")];

pub const PLAYED: &[Session] = &[
    whole("1.4-startup"),
    whole("2.1-startup"),
    whole("1.4-startup-compliance"),
    whole("2.1-startup-compliance"),
    whole("1.4-tick"),
    whole("2.1-tick"),
    whole("1.4-report-now"),
    whole("2.1-report-now"),
    whole("1.4-settings-update"),
    whole("2.1-settings-update"),
    whole("1.4-server-ping"),
    whole("2.1-server-ping"),
    whole("1.4-bad-frames"),
    whole("2.1-bad-frames"),
    without("1.4-http-errors", SCRIPTED_ERRORS),
    without("2.1-http-errors", SCRIPTED_ERRORS),
    whole("1.4-integration-status"),
    whole("2.1-integration-status"),
    whole("1.4-integrations-overwrite"),
    whole("2.1-integrations-overwrite"),
    whole("1.4-compliance-scan"),
    whole("2.1-compliance-scan"),
    without("1.4-compliance-scan-edges", SCRIPTED_SCANS),
    without("2.1-compliance-scan-edges", SCRIPTED_SCANS),
    whole("1.4-compliance-enabled-start"),
    whole("2.1-compliance-enabled-start"),
    whole("1.4-keepalive"),
    whole("2.1-keepalive"),
    whole("1.4-cli"),
    whole("2.1-cli"),
    without("1.4-urls", OTHER_URLS),
    without("2.1-urls", OTHER_URLS),
    whole("1.4-ssh-proxy"),
    whole("2.1-ssh-proxy"),
    whole("1.4-ssh-proxy-errors"),
    whole("2.1-ssh-proxy-errors"),
    whole("1.4-ssh-proxy-enabled-by-edit"),
    whole("2.1-ssh-proxy-enabled-by-edit"),
    whole("1.4-ssh-proxy-big-output"),
    whole("2.1-ssh-proxy-big-output"),
    whole("1.4-ssh-proxy-drop"),
    whole("2.1-ssh-proxy-drop"),
    whole("1.4-ssh-proxy-two-sessions"),
    whole("2.1-ssh-proxy-two-sessions"),
];

const FAULTS: &str = "a server scripted to misbehave";
const DOCKER: &str = "Docker inventory and events";
const TOGGLES: &str = "integration_toggle, set_compliance_mode, apply_config";
const UPDATES: &str = "update_agent and downloads";
const BUSY_TERMINALS: &str = "a server that asks for a report while a terminal is open; this one waits for its end";
const REMEDIATION: &str = "remediate_rule";
const INSTALL: &str = "install_scanner";

pub const WAITING: &[(&str, &str)] = &[
    ("1.4-busy", "a server that answers a report after 25 s and asks for intervals that are rounded here"),
    ("2.1-busy", "a server that answers a report after 25 s and asks for intervals that are rounded here"),
    ("1.4-no-pong", FAULTS),
    ("2.1-no-pong", FAULTS),
    ("1.4-slow-upgrade", FAULTS),
    ("2.1-slow-upgrade", FAULTS),
    ("1.4-close-and-drop", FAULTS),
    ("2.1-close-and-drop", FAULTS),
    ("1.4-backoff", FAULTS),
    ("2.1-backoff", FAULTS),
    ("1.4-tls", "a player that speaks TLS"),
    ("2.1-tls", "a player that speaks TLS"),
    ("1.4-install-scanner", INSTALL),
    ("2.1-install-scanner", INSTALL),
    ("1.4-remediate-rule", REMEDIATION),
    ("2.1-remediate-rule", REMEDIATION),
    ("2.1-upgrade-ssg", "upgrade_ssg and SSG content"),
    ("1.4-docker", DOCKER),
    ("2.1-docker", DOCKER),
    ("1.4-docker-image-scan", DOCKER),
    ("2.1-docker-image-scan", DOCKER),
    ("1.4-config-change", TOGGLES),
    ("2.1-config-change", TOGGLES),
    ("1.4-config-change-no-init", TOGGLES),
    ("2.1-config-change-no-init", TOGGLES),
    ("1.4-config-change-no-systemd", TOGGLES),
    ("2.1-config-change-no-systemd", TOGGLES),
    ("2.1-apply-config-odd", TOGGLES),
    ("1.4-update-agent", UPDATES),
    ("2.1-update-agent", UPDATES),
    ("1.4-update-agent-no-init", UPDATES),
    ("2.1-update-agent-no-init", UPDATES),
    ("1.4-update-agent-no-systemd", UPDATES),
    ("2.1-update-agent-no-systemd", UPDATES),
    ("1.4-auto-update-by-report", UPDATES),
    ("2.1-auto-update-by-report", UPDATES),
    ("1.4-ssh-proxy-during-report", BUSY_TERMINALS),
    ("2.1-ssh-proxy-during-report", BUSY_TERMINALS),
    ("2.1-rdp-proxy", "RDP"),
];

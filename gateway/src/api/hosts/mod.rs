//! Hosts: what is shown of them, and what can be changed.

mod change;
mod read;

use jobs::command::ComplianceMode;
use schemas::{Generation, timestamp::rfc3339};
use serde::{Deserialize, Serialize};
use store::{Host, ReportSummaryRow};
use utoipa::ToSchema;
use uuid::Uuid;

pub use self::{
    change::{AddRequest, Added, AddedHost, IntegrationsRequest, add, close, integrations, remove, rotate_key},
    read::{IntegrationStatuses, Scans, get, integration_status, list, report, scans},
};
use super::error::ApiError;

/// Longest name of a host, in characters.
const NAME_MAX: usize = 255;

/// A host. Times are RFC 3339.
#[derive(Serialize, ToSchema)]
pub struct HostRow {
    id: Uuid,
    name: String,
    /// What its agent calls itself.
    api_id: String,
    /// By the hint that lists read; `GET /ws/status/{api_id}` asks who holds it.
    connected: bool,
    /// Over TLS.
    secure: bool,
    gateway_id: Option<Uuid>,
    connected_at: Option<String>,
    disconnected_at: Option<String>,
    /// Its last call of any kind.
    last_seen_at: Option<String>,
    agent_version: Option<String>,
    /// `1.4` or `2.1`.
    #[schema(value_type = Option<String>)]
    generation: Option<Generation>,
    /// Minutes between reports.
    update_interval: u32,
    integrations: Integrations,
    terminals: TerminalChoice,
    /// Summary of the latest report.
    report: Option<ReportSummary>,
    created_at: String,
}

/// What the owner set.
#[derive(Serialize, ToSchema)]
pub struct Integrations {
    docker_enabled: bool,
    #[schema(inline)]
    compliance_mode: Mode,
    openscap_enabled: bool,
    docker_bench_enabled: bool,
}

/// What the owner set for terminals.
#[derive(Serialize, ToSchema)]
pub struct TerminalChoice {
    /// Direct mode may use algorithms that are no longer thought safe.
    legacy_algorithms: bool,
    /// They are recorded; null: as the server's default says.
    record: Option<bool>,
}

/// Compliance scans: never, when asked, or on a schedule too.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Never.
    Disabled,
    /// When asked.
    OnDemand,
    /// On a schedule too.
    Enabled,
}

impl From<ComplianceMode> for Mode {
    fn from(mode: ComplianceMode) -> Self {
        match mode {
            ComplianceMode::Disabled => Self::Disabled,
            ComplianceMode::OnDemand => Self::OnDemand,
            ComplianceMode::Enabled => Self::Enabled,
        }
    }
}

impl From<Mode> for ComplianceMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Disabled => Self::Disabled,
            Mode::OnDemand => Self::OnDemand,
            Mode::Enabled => Self::Enabled,
        }
    }
}

/// Summary of a report.
#[derive(Serialize, ToSchema)]
pub struct ReportSummary {
    /// RFC 3339.
    reported_at: String,
    os_type: String,
    os_version: String,
    /// The host's own name.
    hostname: String,
    ip: String,
    architecture: String,
    /// Of the running kernel.
    kernel_version: String,
    /// Installed packages.
    packages: i64,
    /// Of which have an update.
    updates: i64,
    /// Of which mend a security fault.
    security_updates: i64,
    needs_reboot: bool,
    reboot_reason: String,
}

impl From<ReportSummaryRow> for ReportSummary {
    fn from(row: ReportSummaryRow) -> Self {
        Self {
            reported_at: rfc3339(row.reported_at),
            os_type: row.os_type,
            os_version: row.os_version,
            hostname: row.hostname,
            ip: row.ip,
            architecture: row.architecture,
            kernel_version: row.kernel_version,
            packages: row.packages,
            updates: row.updates,
            security_updates: row.security_updates,
            needs_reboot: row.needs_reboot,
            reboot_reason: row.reboot_reason,
        }
    }
}

impl From<Host> for HostRow {
    fn from(host: Host) -> Self {
        let facts = host.facts;
        Self {
            id: facts.id,
            name: host.name,
            api_id: facts.api_id,
            connected: facts.connected,
            secure: facts.connected && host.secure,
            gateway_id: host.gateway_id,
            connected_at: host.connected_at.map(rfc3339),
            disconnected_at: host.disconnected_at.map(rfc3339),
            last_seen_at: host.last_seen_at.map(rfc3339),
            agent_version: host.agent_version,
            generation: facts.generation,
            update_interval: host.update_interval,
            integrations: Integrations {
                docker_enabled: facts.docker_enabled,
                compliance_mode: facts.compliance_mode.into(),
                openscap_enabled: facts.openscap_enabled,
                docker_bench_enabled: facts.docker_bench_enabled,
            },
            terminals: TerminalChoice { legacy_algorithms: host.ssh_legacy_algorithms, record: host.record_terminals },
            report: host.report.map(ReportSummary::from),
            created_at: rfc3339(host.created_at),
        }
    }
}

/// A name as it is stored: trimmed, of a length that fits, and nothing in it that could steer a terminal.
///
/// # Errors
/// 400 that says what a name is.
pub fn checked_name(name: &str) -> Result<String, ApiError> {
    let name = name.trim();
    let fits = !name.is_empty() && name.chars().count() <= NAME_MAX && !name.chars().any(char::is_control);
    if fits {
        Ok(name.to_owned())
    } else {
        Err(ApiError::bad(format!("name must be 1 to {NAME_MAX} characters, none of them a control character")))
    }
}

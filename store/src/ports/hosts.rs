//! Hosts: their keys, their presence, what is known of them.

use async_trait::async_trait;
use jobs::command::{ComplianceMode, HostFacts};
use schemas::ApiId;
use uuid::Uuid;

use super::commands::Applied;
use crate::{Page, StoreError};

/// A key as it is kept: never itself.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// bcrypt.
    pub hash: String,
    /// SHA-256 in hex, only for keys of 64 hex digits: 256 random bits need no slow hash.
    pub digest: Option<String>,
}

/// A host to add.
#[derive(Debug, Clone)]
pub struct AddHost {
    /// Its id.
    pub id: Uuid,
    /// Its name, unique.
    pub name: String,
    /// What its agent calls itself, unique.
    pub api_id: ApiId,
    /// Its key.
    pub key: NewKey,
}

/// What authentication needs of a host.
#[derive(Debug, Clone)]
pub struct HostAuth {
    /// The host.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// bcrypt, or the legacy plaintext of an imported host.
    pub key_hash: String,
    /// SHA-256 of the key in hex, once it is known.
    pub key_digest: Option<String>,
    /// Counts replacements of the key.
    pub key_version: i64,
    /// Newcomers are refused until then: the api_id flaps between machines.
    pub flapping_until: i64,
}

/// A host as the API shows it.
#[derive(Debug, Clone)]
pub struct Host {
    /// What decisions need.
    pub facts: HostFacts,
    /// Its name.
    pub name: String,
    /// Came over TLS.
    pub secure: bool,
    /// The gateway that holds it.
    pub gateway_id: Option<Uuid>,
    /// Connected since.
    pub connected_at: Option<i64>,
    /// When its last connection ended.
    pub disconnected_at: Option<i64>,
    /// Its last call of any kind.
    pub last_seen_at: Option<i64>,
    /// Its agent.
    pub agent_version: Option<String>,
    /// Minutes between reports.
    pub update_interval: u32,
    /// Summary of the latest report.
    pub report: Option<ReportSummaryRow>,
    /// Its SSH server needs algorithms that are no longer safe.
    pub ssh_legacy_algorithms: bool,
    /// Its terminals are (not) recorded; none: as the server's default.
    pub record_terminals: Option<bool>,
    /// Added.
    pub created_at: i64,
}

/// Summary of the latest report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReportSummaryRow {
    /// When it was stored.
    pub reported_at: i64,
    /// Operating system.
    pub os_type: String,
    /// Its version.
    pub os_version: String,
    /// The host's own name.
    pub hostname: String,
    /// Its address.
    pub ip: String,
    /// Machine.
    pub architecture: String,
    /// Running kernel.
    pub kernel_version: String,
    /// Installed packages.
    pub packages: i64,
    /// Of which have an update.
    pub updates: i64,
    /// Of which mend a security fault.
    pub security_updates: i64,
    /// Must be rebooted.
    pub needs_reboot: bool,
    /// Why.
    pub reboot_reason: String,
}

/// Which hosts a list shows.
#[derive(Debug, Clone, Default)]
pub struct HostFilter {
    /// Only (not) connected ones, by the hint.
    pub connected: Option<bool>,
    /// Only names or hostnames that contain this.
    pub search: Option<String>,
}

/// A connection that would become the host's.
#[derive(Debug, Clone)]
pub struct Connect {
    /// The host.
    pub host_id: Uuid,
    /// The version of the key that was checked.
    pub key_version: i64,
    /// Came over TLS.
    pub secure: bool,
    /// The gateway that holds it.
    pub gateway_id: Uuid,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connected {
    /// It is the host's newest.
    Epoch {
        /// Its epoch.
        epoch: i64,
        /// The row still named an older connection: it was replaced.
        replaced: bool,
        /// Too many replacements within a minute: machines share this id.
        flapping: bool,
        /// Proxied shells that its agent may still hold, the newest first, at most [`crate::AT_AGENT_MAX`].
        terminals: Vec<Uuid>,
    },
    /// The host is gone, or its key was replaced meanwhile.
    Refused,
}

/// Presence of one api_id by the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The agent.
    pub api_id: String,
    /// Held by a gateway.
    pub connected: bool,
    /// Over TLS.
    pub secure: bool,
    /// When its last connection ended.
    pub disconnected_at: Option<i64>,
}

/// A host that was removed.
#[derive(Debug, Clone)]
pub struct Removed {
    /// What its agent called itself.
    pub api_id: ApiId,
    /// Its commands that ended by it.
    pub moved: Vec<Applied>,
}

/// The port.
#[async_trait]
pub trait Hosts: Send + Sync {
    /// Adds hosts, all or none.
    async fn add_hosts(&self, hosts: &[AddHost]) -> Result<(), StoreError>;

    /// Looks up what authentication needs.
    async fn host_auth(&self, api_id: &ApiId) -> Result<Option<HostAuth>, StoreError>;

    /// Keeps the digest (and a bcrypt hash where plaintext was stored) of a key that was just proved right; does nothing
    /// when the key was replaced meanwhile.
    async fn keep_digest(&self, host_id: Uuid, key_version: i64, key: &NewKey) -> Result<(), StoreError>;

    /// One host by id.
    async fn host(&self, id: Uuid) -> Result<Option<Host>, StoreError>;

    /// One host by id, api_id or name, in this order.
    async fn find_host(&self, reference: &str) -> Result<Option<Host>, StoreError>;

    /// A page of hosts, by name.
    async fn list_hosts(&self, filter: &HostFilter, cursor: Option<&str>, limit: u32)
    -> Result<Page<Host>, StoreError>;

    /// Removes a host with all that is stored of it; its open commands end.
    async fn remove_host(&self, id: Uuid) -> Result<Option<Removed>, StoreError>;

    /// Replaces a host's key.
    async fn rotate_key(&self, id: Uuid, key: &NewKey) -> Result<Option<ApiId>, StoreError>;

    /// Makes each connection its host's newest and wakes what waits for it, in one transaction. A host is in it once.
    /// The second part are commands that moved.
    async fn connect_hosts(&self, connects: &[Connect]) -> Result<(Vec<Connected>, Vec<Applied>), StoreError>;

    /// Notes the end of connections, each only if it still is its host's newest. Answers which were.
    async fn disconnect_hosts(&self, ends: &[(Uuid, i64)]) -> Result<Vec<bool>, StoreError>;

    /// Says again that this gateway holds these (host, epoch, secure), after an outage and once a minute. Answers those
    /// whose row said something else.
    async fn assert_hints(&self, gateway_id: Uuid, held: &[(Uuid, i64, bool)]) -> Result<Vec<Uuid>, StoreError>;

    /// Gateways that hold somebody, by the hint, or that terminals are open on.
    async fn gateways_hinted(&self) -> Result<Vec<Uuid>, StoreError>;

    /// That gateway is dead: nobody is connected by it any more. Answers whose hint that changed.
    async fn clear_hints_of(&self, gateway_id: Uuid) -> Result<Vec<Uuid>, StoreError>;

    /// Wakes what waits for these hosts, which are connected still: the bus was away, and who asked found nobody.
    async fn wake_hosts(&self, hosts: &[Uuid]) -> Result<Vec<Applied>, StoreError>;

    /// Which of these (host, version of its key) are gone, or have another key by now.
    async fn stale_keys(&self, held: &[(Uuid, i64)]) -> Result<Vec<Uuid>, StoreError>;

    /// Clears all hints: the embedded process has just started and holds nobody.
    async fn clear_hints(&self) -> Result<u64, StoreError>;

    /// Presence by the hint, for known api_ids only.
    async fn presence(&self, api_ids: &[ApiId]) -> Result<Vec<Presence>, StoreError>;

    /// How many hosts are connected, by the hint.
    async fn connected_count(&self) -> Result<u64, StoreError>;

    /// A call of the agent: seen now, with this version if it told one.
    async fn touch_host(&self, id: Uuid, agent_version: Option<&str>) -> Result<(), StoreError>;

    /// What the owner set for integrations.
    async fn set_integrations(&self, id: Uuid, change: &IntegrationChange) -> Result<bool, StoreError>;

    /// The agent asked for its settings: it has seen the present ones.
    async fn settings_seen(&self, id: Uuid) -> Result<(), StoreError>;
}

/// A change of what the owner set; `None` leaves it.
#[derive(Debug, Clone, Default)]
pub struct IntegrationChange {
    /// Docker integration.
    pub docker_enabled: Option<bool>,
    /// Compliance integration.
    pub compliance_mode: Option<ComplianceMode>,
    /// Scans run OpenSCAP.
    pub openscap_enabled: Option<bool>,
    /// Scans run Docker Bench.
    pub docker_bench_enabled: Option<bool>,
}

//! What outlives a restart of the agent's process: the machine, its configuration files, its identity.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{AgentConfig, Control, http::Http};
use crate::{
    log::{FrameLog, What},
    misbehaviour::Misbehaviour,
    server::Server,
};

/// `compliance` in config.yml (protocol 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComplianceMode {
    /// `false`
    Disabled,
    /// `on-demand`
    OnDemand,
    /// `true`: scheduled scans as well.
    Enabled,
}

impl ComplianceMode {
    /// What `GET hosts/integrations` makes of it (protocol 3): `true` wakes only a disabled one, `false` always
    /// disables, no answer leaves it.
    pub(super) fn told(self, enabled: Option<bool>) -> Self {
        match (self, enabled) {
            (Self::Disabled, Some(true)) => Self::Enabled,
            (_, Some(false)) => Self::Disabled,
            (mode, _) => mode,
        }
    }
}

/// config.yml, and what the scenario says.
#[derive(Debug)]
pub(super) struct HostState {
    /// Minutes.
    pub(super) update_interval: i64,
    pub(super) docker: bool,
    pub(super) compliance: ComplianceMode,
    pub(super) misbehaviour: Option<Misbehaviour>,
    /// The habits of a scan's middle happen once, or that scan could never end.
    pub(super) mid_scan_done: bool,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) config: AgentConfig,
    pub(super) server: Arc<Server>,
    pub(super) http: Http,
    pub(super) log: FrameLog,
    pub(super) state: Mutex<HostState>,
    /// For the habits that hang up or restart from inside.
    pub(super) control: mpsc::Sender<Control>,
    name: Arc<str>,
    connections: AtomicU32,
}

impl Host {
    pub(super) fn new(config: AgentConfig, server: Arc<Server>, log: FrameLog, control: mpsc::Sender<Control>) -> Self {
        let name: Arc<str> = config.credentials.api_id.as_str().into();
        let http = Http {
            server: server.clone(),
            credentials: Arc::new(config.credentials.clone()),
            generation: config.generation,
            timing: config.timing.clone(),
            source: config.source,
            log: log.clone(),
            agent: name.clone(),
            keep_open: config.keep_http_open,
            idle: tokio::sync::Mutex::default(),
        };
        let state = HostState {
            update_interval: 60,
            docker: config.docker,
            compliance: config.compliance,
            misbehaviour: config.misbehaviour,
            mid_scan_done: false,
        };
        Self { config, server, http, log, state: Mutex::new(state), control, name, connections: AtomicU32::new(0) }
    }

    /// The number of the current or last connection.
    pub(super) fn connection(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn next_connection(&self) -> u32 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn record(&self, what: What) {
        self.log.record(&self.name, self.connection(), what);
    }

    pub(super) fn record_frame(&self, kind: String, payload: &[u8]) {
        self.log.frame(&self.name, self.connection(), kind, payload);
    }

    pub(super) fn misbehaved(&self, habit: Misbehaviour) {
        self.record(What::Misbehaved { habit: habit.to_string() });
    }

    /// What it says its address is.
    pub(super) fn ip(&self) -> Ipv4Addr {
        self.config.source.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// A machine id that stays the same over restarts and differs between hosts.
    pub(super) fn machine_id(&self) -> String {
        let digits = self.config.credentials.api_id.trim_start_matches("patchmon_");
        let end: String = digits.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        format!("00000000-0000-0000-0000-{end:0>12}")
    }
}

#[cfg(test)]
mod tests {
    use super::ComplianceMode::{Disabled, Enabled, OnDemand};

    #[test]
    fn integrations_answers_change_the_mode_as_recorded() {
        // integrations-overwrite.
        for (mode, enabled, becomes) in [
            (Disabled, Some(true), Enabled),
            (OnDemand, Some(true), OnDemand),
            (Enabled, Some(true), Enabled),
            (OnDemand, Some(false), Disabled),
            (Enabled, Some(false), Disabled),
            (OnDemand, None, OnDemand),
            (Enabled, None, Enabled),
        ] {
            assert_eq!(mode.told(enabled), becomes, "{mode:?} {enabled:?}");
        }
    }
}

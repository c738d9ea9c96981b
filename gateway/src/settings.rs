//! What the gateway must be told. The binary reads it from the environment and checks it.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use secrecy::SecretString;
use store::TerminalLimits;

use crate::terminal::target::Allowed;

/// Settings of one gateway.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which build this is, as probes are told.
    pub version: &'static str,
    /// JWTs and seals are keyed by what is derived from it.
    pub secret: SecretString,
    /// Certificate chain and key, PEM, re-read when they change. Unset: plain HTTP, TLS by a proxy.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Proxies whose X-Forwarded-* headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// What browsers call us; the Origin they must send.
    pub public_url: Option<String>,
    /// More Origins that may use cookies.
    pub allowed_origins: Vec<String>,
    /// Over how long sockets are closed when draining.
    pub drain: Duration,
    /// Most agents at once; 503 above it.
    pub max_connections: usize,
    /// Threads that run bcrypt.
    pub bcrypt_threads: usize,
    /// Most checks that wait for one of them; 503 above it.
    pub bcrypt_queue: usize,
    /// Failed logins an address may have a minute.
    pub login_failures_per_min: u32,
    /// Failed agent authentications an address may have a minute.
    pub agent_failures_per_min: u32,
    /// How long a command may wait to be sent, unless its request says otherwise.
    pub command_expires: Duration,
    /// Events kept for clients that resume.
    pub events_window: usize,
    /// Most bytes of posted results that wait for a store that is away.
    pub result_hold_bytes: usize,
    /// Terminals.
    pub terminals: TerminalSettings,
}

/// Settings of terminals.
#[derive(Debug, Clone)]
pub struct TerminalSettings {
    /// Where direct mode may dial, of what is special; and at which ports, of what is covered.
    pub ssh_allow: Vec<Allowed>,
    /// A JWT may come as `?token=`.
    pub allow_token_query: bool,
    /// Most terminals of a user, and of a host.
    pub limits: TerminalLimits,
    /// Most sockets of terminals on this gateway.
    pub sockets_max: usize,
    /// A terminal where nothing is typed or written for so long is closed.
    pub idle: Duration,
    /// And any after so long.
    pub most: Duration,
    /// Record those of hosts that do not say otherwise.
    pub record: bool,
}

impl Default for TerminalSettings {
    fn default() -> Self {
        Self {
            ssh_allow: Vec::new(),
            allow_token_query: false,
            limits: TerminalLimits { per_user: 10, per_host: 10, proxied_per_old_host: 1 },
            sockets_max: 500,
            idle: Duration::from_secs(15 * 60),
            most: Duration::from_secs(8 * 60 * 60),
            record: false,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            secret: SecretString::from("0".repeat(64)),
            tls: None,
            trusted_proxies: Vec::new(),
            public_url: None,
            allowed_origins: Vec::new(),
            drain: Duration::ZERO,
            max_connections: 50_000,
            bcrypt_threads: 2,
            bcrypt_queue: 64,
            login_failures_per_min: 10,
            agent_failures_per_min: 60,
            command_expires: Duration::from_secs(86_400),
            events_window: 4_096,
            result_hold_bytes: 64 << 20,
            terminals: TerminalSettings::default(),
        }
    }
}

impl Settings {
    /// Is this address a proxy whose headers count?
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address.to_canonical()))
    }
}

//! What the parts are told of the configuration: each knows only its own settings, none knows variables.

use std::sync::Arc;

use anyhow::Context as _;
use bus::{Bus, LoginFile, MemoryBus, NatsBus, NatsOptions};

use crate::{
    config::{BusUrl, Config, Secret},
    version::VERSION,
};

/// The gateway's share.
pub fn gateway_settings(config: &Config, secret: &Secret) -> gateway::Settings {
    const MIB: usize = 1 << 20;
    gateway::Settings {
        version: VERSION,
        secret: secret.to_secret_string(),
        tls: config.tls_cert.clone().zip(config.tls_key.clone()),
        trusted_proxies: config.trusted_proxies.to_vec(),
        public_url: config.public_url.as_ref().map(|url| url.origin().as_str().to_owned()),
        allowed_origins: config.allowed_origins.iter().map(|origin| origin.as_str().to_owned()).collect(),
        drain: config.drain(),
        max_connections: config.max_connections.as_usize(),
        bcrypt_threads: config.bcrypt_threads(),
        bcrypt_queue: config.bcrypt_queue.as_usize(),
        login_failures_per_min: config.login_failures_per_min.as_u32(),
        agent_failures_per_min: config.agent_auth_failures_per_min.as_u32(),
        command_expires: config.command_expires_secs.as_secs(),
        events_window: config.events_window.as_usize(),
        result_hold_bytes: config.result_hold_mib.as_usize().saturating_mul(MIB),
        terminals: gateway::TerminalSettings {
            ssh_allow: config.ssh_allow.to_vec(),
            allow_token_query: config.allow_token_query,
            limits: store::TerminalLimits {
                per_user: config.terminals_per_user.as_u32().into(),
                per_host: config.terminals_per_host.as_u32().into(),
                proxied_per_old_host: config.terminals_per_old_agent.as_u32().into(),
            },
            sockets_max: config.terminals_max.as_usize(),
            idle: config.terminal_idle_secs.as_secs(),
            most: config.terminal_max_secs.as_secs(),
            record: config.record_terminals,
        },
    }
}

/// The worker's share.
pub fn worker_settings(config: &Config) -> worker::Settings {
    let keep = store::Keep::days(
        config.retention_days.as_u32(),
        config.recording_retention_days.as_u32(),
        config.audit_retention_days.as_u32(),
    );
    worker::Settings { keep, ..worker::Settings::default() }
}

/// The store's share.
pub fn sqlite_options(config: &Config) -> store::sqlite::Options {
    store::sqlite::Options { pace_ms: pace_ms(config), ..store::sqlite::Options::default() }
}

/// The same in PostgreSQL.
pub fn postgres_options(config: &Config) -> store::postgres::Options {
    store::postgres::Options {
        pace_ms: pace_ms(config),
        connections: config.db_connections.as_u32(),
        patience: config.db_wait_secs.as_secs(),
        statement: config.db_statement_secs.as_secs(),
        ..store::postgres::Options::default()
    }
}

fn pace_ms(config: &Config) -> i64 {
    1_000 / i64::from(config.pace_per_sec.as_u32()).max(1)
}

/// The bus that the configuration names.
///
/// # Errors
/// When NATS cannot be used: at once for what no further attempt would change, after 10 s for a server that is not there.
pub async fn open_bus(config: &Config) -> anyhow::Result<Arc<dyn Bus>> {
    Ok(match nats_options(config) {
        None => Arc::new(MemoryBus::new()),
        Some(options) => Arc::new(NatsBus::connect(&options).await.context("cannot use the bus")?),
    })
}

fn nats_options(config: &Config) -> Option<NatsOptions> {
    let BusUrl::Nats(url) = &config.bus_url else { return None };
    let nkey = config.bus_nkey_file.clone().map(LoginFile::Nkey);
    Some(NatsOptions {
        login_file: nkey.or_else(|| config.bus_credentials_file.clone().map(LoginFile::Credentials)),
        tls_ca: config.bus_tls_ca.clone(),
        tls_client: config.bus_tls_cert.clone().zip(config.bus_tls_key.clone()),
        prefix: config.bus_prefix.clone(),
        agent_connections: config.bus_connections.as_usize(),
        name: format!("patchbay {:?}", config.role).to_lowercase(),
        ..NatsOptions::new(url.clone())
    })
}

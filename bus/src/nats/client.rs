//! Making a client of NATS: its options, the first connection, and what its events mean.

use std::{
    error::Error as _,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerError};
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::options::{LoginFile, NatsOptions, UrlLogin};

/// A server that says nothing for three of these is gone (the library's count). Our own questions notice it earlier.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take. After a network that dropped packets heals, the next attempt gets through.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Commands that wait for the connection. Few: what waits while the server hangs goes out late.
const COMMANDS: usize = 512;
/// Pause between two attempts of the first connection.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two attempts to reconnect, before its jitter.
const RECONNECT_MAX_MS: u64 = 800;
/// Complaints of the server that are logged at most once in this time: each refused subscription is one.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// Why there is no bus. One line each; logins are never part of it.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A file of the configuration.
    #[error("cannot use {}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The server does not want us.
    #[error("NATS at {0} refused the login")]
    Refused(String),
    /// Certificates.
    #[error("no TLS with NATS at {servers}: {reason}")]
    Tls {
        /// Which servers.
        servers: String,
        /// Why not.
        reason: String,
    },
    /// Nobody there, or nobody who speaks NATS.
    #[error("NATS at {servers} cannot be reached: {reason}")]
    Unreachable {
        /// Which servers.
        servers: String,
        /// What the last attempt said.
        reason: String,
    },
    /// Connected, but not allowed to use our subjects.
    #[error("NATS at {servers} does not carry messages below {prefix}.>: {reason}")]
    Forbidden {
        /// Which servers.
        servers: String,
        /// Our prefix.
        prefix: String,
        /// What the server said.
        reason: String,
    },
}

/// What the library tells of one connection.
#[derive(Default)]
pub(super) struct Signals {
    /// Messages that found their subscription full.
    pub dropped: AtomicU64,
    /// Something happened.
    pub woken: Notify,
    /// The login is refused since then, with no success after it.
    refused_since: Mutex<Option<Instant>>,
    /// What the server complained of last, and when that was logged.
    complaint: Mutex<Option<(String, Instant)>>,
}

impl Signals {
    /// Since when logins are refused.
    pub fn refused_since(&self) -> Option<Instant> {
        *self.refused_since.lock()
    }

    /// What the server complained of last.
    pub fn complaint(&self) -> Option<String> {
        self.complaint.lock().as_ref().map(|(text, _)| text.clone())
    }

    fn hear(&self, event: Event) {
        match event {
            Event::SlowConsumer(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            Event::Connected => *self.refused_since.lock() = None,
            Event::ServerError(ServerError::AuthorizationViolation) => self.refused(),
            Event::ServerError(error) => self.complain(&error.to_string()),
            Event::ClientError(ClientError::Other(kind)) if is_refusal(&kind) => self.refused(),
            Event::Disconnected
            | Event::LameDuckMode
            | Event::Draining
            | Event::Closed
            | Event::ClientError(ClientError::Other(_) | ClientError::MaxReconnects | ClientError::ServerNotInPool) => {
            }
        }
        self.woken.notify_one();
    }

    fn refused(&self) {
        self.refused_since.lock().get_or_insert_with(Instant::now);
    }

    fn complain(&self, text: &str) {
        let mut last = self.complaint.lock();
        if last.as_ref().is_none_or(|(_, at)| at.elapsed() >= COMPLAIN_EVERY) {
            // Most likely a permission that is missing: what it concerns will not arrive.
            tracing::error!(error = text, "NATS complains");
            *last = Some((text.to_owned(), Instant::now()));
        }
    }
}

/// The library names only the kind of an attempt that failed.
fn is_refusal(kind: &str) -> bool {
    [ConnectErrorKind::AuthorizationViolation, ConnectErrorKind::Authentication].iter().any(|k| k.to_string() == kind)
}

/// Connects once, for the first time; tries until `until`.
pub(super) async fn connect(
    options: &NatsOptions,
    subscription_capacity: usize,
    signals: &Arc<Signals>,
    until: Instant,
) -> Result<Client, NatsError> {
    let prepared = prepare(options, subscription_capacity, Arc::clone(signals)).await?;
    loop {
        // A resolver may take longer than all of it.
        let connecting = prepared.clone().connect(options.url.servers());
        let error = match timeout_at(until.max(Instant::now() + PAUSE), connecting).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => error,
            Err(_) => {
                let reason = "no answer in time".to_owned();
                return Err(NatsError::Unreachable { servers: options.url.to_string(), reason });
            }
        };
        match verdict(options, &error) {
            Some(for_good) => return Err(for_good),
            None if Instant::now() + PAUSE >= until => {
                let servers = options.url.to_string();
                return Err(NatsError::Unreachable { servers, reason: reason(&error) });
            }
            None => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What no further attempt would change.
fn verdict(options: &NatsOptions, error: &async_nats::ConnectError) -> Option<NatsError> {
    let servers = options.url.to_string();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => Some(NatsError::Refused(servers)),
        ConnectErrorKind::Authentication => Some(match &options.login_file {
            Some(LoginFile::Nkey(path) | LoginFile::Credentials(path)) => {
                NatsError::File { path: path.clone(), reason: "it holds no key that can sign".to_owned() }
            }
            None => NatsError::Refused(servers),
        }),
        ConnectErrorKind::Tls => Some(NatsError::Tls { servers, reason: reason(error) }),
        ConnectErrorKind::ServerParse => Some(NatsError::Unreachable { servers, reason: reason(error) }),
        // A handshake that failed is an IO error for the library; what rustls refuses has this kind.
        ConnectErrorKind::Io if io_kind(error) == Some(io::ErrorKind::InvalidData) => {
            Some(NatsError::Tls { servers, reason: reason(error) })
        }
        // It answered, and not in the language of NATS.
        ConnectErrorKind::Io if io_kind(error) == Some(io::ErrorKind::InvalidInput) => {
            Some(NatsError::Unreachable { servers, reason: "what listens there is no NATS server".to_owned() })
        }
        ConnectErrorKind::Dns | ConnectErrorKind::TimedOut | ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => {
            None
        }
    }
}

fn io_kind(error: &async_nats::ConnectError) -> Option<io::ErrorKind> {
    error.source()?.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// The innermost words, on one line.
fn reason(error: &async_nats::ConnectError) -> String {
    let text = match error.source() {
        Some(source) => source.to_string(),
        None => error.kind().to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn prepare(
    options: &NatsOptions,
    subscription_capacity: usize,
    signals: Arc<Signals>,
) -> Result<ConnectOptions, NatsError> {
    let mut prepared = ConnectOptions::new()
        .name(&options.name)
        .ping_interval(PING_EVERY)
        .connection_timeout(ATTEMPT)
        .client_capacity(COMMANDS)
        .subscription_capacity(subscription_capacity)
        .reconnect_delay_callback(reconnect_delay)
        // Only what was configured: a proxy or a name in a certificate may stand between us and what servers say of
        // each other.
        .ignore_discovered_servers()
        .require_tls(options.wants_tls())
        .event_callback(move |event| {
            signals.hear(event);
            std::future::ready(())
        });
    match options.url.login() {
        Some(UrlLogin::Password { user, password }) => {
            prepared = prepared.user_and_password(user.clone(), password.expose_secret().to_owned());
        }
        Some(UrlLogin::Token(token)) => prepared = prepared.token(token.expose_secret().to_owned()),
        None => {}
    }
    match &options.login_file {
        Some(LoginFile::Nkey(path)) => prepared = prepared.nkey(seed(path).await?),
        Some(LoginFile::Credentials(path)) => {
            prepared = prepared.credentials_file(path).await.map_err(|error| unusable(path, &error))?;
        }
        None => {}
    }
    if let Some(ca) = &options.tls_ca {
        readable(ca).await?;
        prepared = prepared.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &options.tls_client {
        readable(certificate).await?;
        readable(key).await?;
        prepared = prepared.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(prepared)
}

/// The line that is a seed: files may have others around it.
async fn seed(path: &Path) -> Result<String, NatsError> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| unusable(path, &error))?;
    let seed = text.lines().map(str::trim).find(|line| line.starts_with("SU"));
    seed.map(str::to_owned).ok_or_else(|| NatsError::File {
        path: path.to_owned(),
        reason: "it has no line that is the seed of a user's nkey (SU…)".to_owned(),
    })
}

/// The library would name neither the file nor what is wrong with it.
async fn readable(path: &Path) -> Result<(), NatsError> {
    let text = tokio::fs::read(path).await.map_err(|error| unusable(path, &error))?;
    let is_pem = text.windows(11).any(|window| window == b"-----BEGIN ");
    if is_pem { Ok(()) } else { Err(NatsError::File { path: path.to_owned(), reason: "it is not PEM".to_owned() }) }
}

fn unusable(path: &Path, error: &io::Error) -> NatsError {
    NatsError::File { path: path.to_owned(), reason: error.to_string() }
}

/// Doubling from 50 ms, half of it by chance: all clients of a server that restarts lose it in the same instant.
fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(5);
    let most = (50_u64 << doublings).min(RECONNECT_MAX_MS);
    Duration::from_millis(rand::random_range(most / 2..=most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_differ() {
        for (attempt, most) in [(0, 50), (1, 50), (2, 100), (3, 200), (5, 800), (6, 800), (usize::MAX, 800)] {
            let drawn: Vec<u128> = (0..200).map(|_| reconnect_delay(attempt).as_millis()).collect();
            assert!(drawn.iter().all(|ms| (most / 2..=most).contains(ms)), "{attempt}: {drawn:?}");
            assert!(drawn.iter().any(|ms| *ms != drawn[0]), "{attempt}: no jitter");
        }
    }

    #[test]
    fn a_refused_login_is_told_from_other_failures() {
        let signals = Signals::default();
        let failed = |kind: ConnectErrorKind| Event::ClientError(ClientError::Other(kind.to_string()));
        signals.hear(failed(ConnectErrorKind::Io));
        assert_eq!(signals.refused_since(), None);
        signals.hear(failed(ConnectErrorKind::AuthorizationViolation));
        let since = signals.refused_since();
        assert!(since.is_some());
        signals.hear(failed(ConnectErrorKind::AuthorizationViolation));
        assert_eq!(signals.refused_since(), since, "since the first");
        signals.hear(Event::Connected);
        assert_eq!(signals.refused_since(), None);
    }

    #[test]
    fn slow_consumers_are_counted() {
        let signals = Signals::default();
        signals.hear(Event::SlowConsumer(7));
        signals.hear(Event::SlowConsumer(8));
        assert_eq!(signals.dropped.load(Ordering::Relaxed), 2);
    }
}

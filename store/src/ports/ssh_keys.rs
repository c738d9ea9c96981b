//! The keys that the SSH servers of hosts show, and what is set for terminals on a host.

use async_trait::async_trait;
use uuid::Uuid;

use crate::StoreError;

/// A key that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSshKey {
    /// The server's port.
    pub port: u16,
    /// The public key, as OpenSSH writes it.
    pub key: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// Seen first.
    pub first_seen_at: i64,
    /// Seen last.
    pub last_seen_at: i64,
}

/// What a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyCheck {
    /// The one that is known.
    Same {
        /// None was known: it is from now on.
        first: bool,
    },
    /// Not the one that is known.
    Other {
        /// Of the one that is.
        fingerprint: String,
    },
}

/// A change of what is set for terminals; `None` leaves it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TerminalOptions {
    /// Offer algorithms that are no longer safe.
    pub legacy_algorithms: Option<bool>,
    /// Record them; `Some(None)` is as the server's default.
    pub record: Option<Option<bool>>,
}

/// The port.
#[async_trait]
pub trait SshKeys: Send + Sync {
    /// Compares the key that a host showed on a port with the one that is known. The first is trusted, and is known from
    /// then on; of several at once one is the first, on whatever gateways they come. `Gone` when there is no such host.
    async fn check_ssh_key(
        &self,
        host_id: Uuid,
        port: u16,
        key: &str,
        fingerprint: &str,
    ) -> Result<KeyCheck, StoreError>;

    /// The keys of a host, by port.
    async fn ssh_keys(&self, host_id: Uuid) -> Result<Vec<HostSshKey>, StoreError>;

    /// Forgets the key of one port, or all of a host; how many.
    async fn forget_ssh_keys(&self, host_id: Uuid, port: Option<u16>) -> Result<u64, StoreError>;

    /// What is set for terminals on a host. False: there is no such host.
    async fn set_terminal_options(&self, host_id: Uuid, change: &TerminalOptions) -> Result<bool, StoreError>;
}

//! Admin operations: what the command line asks for, over the server's Unix socket or with no server at all. What they
//! change reaches live sockets at once, by the bus.

mod password;

use std::sync::Arc;

use bus::Bus;
use schemas::timestamp::rfc3339;
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{AddHost, Host, HostFilter, NewAudit, NewKey, Store, StoreError};
use tokio::sync::Mutex;
use uuid::Uuid;

pub use self::password::{PASSWORD_MIN_CHARS, hash_password};

use self::password::{PASSWORD_COST, choose};
use crate::{
    agent::keys,
    api::{
        ApiError,
        hosts::{checked_name, close},
        key::{Credentials, random_key},
        revocation::revoke,
    },
    facts::announce_on,
};

/// Cost of agents' keys: 256 random bits need no more.
const KEY_COST: u32 = 10;

/// Longest name of a user, in characters.
const USERNAME_MAX: usize = 100;

/// Hosts read at once for a list.
const PAGE: u32 = 1_000;

/// What can be asked for, told apart by `op`.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdminRequest {
    /// Adds a host.
    HostAdd {
        /// Its name.
        name: String,
    },
    /// Lists all hosts.
    HostList,
    /// Removes a host.
    HostRemove {
        /// Its id, api_id or name.
        id: String,
    },
    /// Replaces a host's key.
    HostRotateKey {
        /// Its id, api_id or name.
        id: String,
    },
    /// The SSH keys that a host showed first.
    HostSshKeys {
        /// The host's id or name.
        id: String,
    },
    /// Forgets them: the next one that is shown is trusted.
    HostForgetSshKeys {
        /// The host's id or name.
        id: String,
        /// Of this port alone.
        port: Option<u16>,
    },
    /// Adds a user.
    UserAdd {
        /// Its name.
        username: String,
        /// One of the roles there are.
        role: String,
        /// Generated, and answered once, when left out.
        password: Option<String>,
    },
    /// Replaces a user's password and ends its sessions.
    UserPasswd {
        /// Its name.
        username: String,
        /// Generated, and answered once, when left out.
        password: Option<String>,
    },
}

/// Why it was not done, in words for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// There is none.
    #[error("there is no host {0:?}")]
    NoHost(String),
    /// There is none.
    #[error("there is no user {0:?}")]
    NoUser(String),
    /// There is none; these are there.
    #[error("there is no role {0:?}; the roles are {1}")]
    NoRole(String, String),
    /// What was given cannot be.
    #[error("{0}")]
    Invalid(String),
    /// It could not be hashed.
    #[error("a secret could not be hashed: {0}")]
    Hash(String),
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs admin operations.
pub struct Admin {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    /// One bcrypt run at a time, beside the pool: an operator does not wait behind logins.
    hashing: Mutex<()>,
}

impl Admin {
    /// On this store; what it changes is told over this bus.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, bus: Arc<dyn Bus>) -> Self {
        Self { store, bus, hashing: Mutex::default() }
    }

    /// Runs one.
    ///
    /// # Errors
    /// [`AdminError`], with nothing done.
    pub async fn run(&self, request: AdminRequest) -> Result<Value, AdminError> {
        match request {
            AdminRequest::HostAdd { name } => self.host_add(&name).await,
            AdminRequest::HostList => self.host_list().await,
            AdminRequest::HostRemove { id } => self.host_remove(&id).await,
            AdminRequest::HostRotateKey { id } => self.host_rotate_key(&id).await,
            AdminRequest::HostSshKeys { id } => self.host_ssh_keys(&id).await,
            AdminRequest::HostForgetSshKeys { id, port } => self.host_forget_ssh_keys(&id, port).await,
            AdminRequest::UserAdd { username, role, password } => self.user_add(&username, &role, password).await,
            AdminRequest::UserPasswd { username, password } => self.user_passwd(&username, password).await,
        }
    }

    async fn host_add(&self, name: &str) -> Result<Value, AdminError> {
        let name = checked_name(name).map_err(|error: ApiError| AdminError::Invalid(error.to_string()))?;
        let Credentials { api_id, api_key } = Credentials::generate();
        let id = Uuid::now_v7();
        let key = self.kept(&api_key).await?;
        self.store.add_hosts(&[AddHost { id, name: name.clone(), api_id: api_id.clone(), key }]).await?;
        Ok(json!({"id": id, "name": name, "api_id": api_id, "api_key": api_key}))
    }

    async fn host_list(&self) -> Result<Value, AdminError> {
        let mut items = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.store.list_hosts(&HostFilter::default(), cursor.as_deref(), PAGE).await?;
            items.extend(page.items.iter().map(listed));
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(json!({"items": items}));
            }
        }
    }

    async fn host_remove(&self, reference: &str) -> Result<Value, AdminError> {
        let host = self.find(reference).await?;
        let id = host.facts.id;
        let removed = self.store.remove_host(id).await?.ok_or_else(|| AdminError::NoHost(reference.to_owned()))?;
        close(self.bus.as_ref(), &removed.api_id, "host removed").await;
        revoke(self.bus.as_ref(), "host", id, "host removed").await;
        announce_on(self.bus.as_ref(), &removed.moved).await;
        Ok(json!({"id": id, "name": host.name, "api_id": host.facts.api_id}))
    }

    async fn host_rotate_key(&self, reference: &str) -> Result<Value, AdminError> {
        let host = self.find(reference).await?;
        let id = host.facts.id;
        let api_key = random_key();
        let key = self.kept(&api_key).await?;
        let rotated = self.store.rotate_key(id, &key).await?;
        let api_id = rotated.ok_or_else(|| AdminError::NoHost(reference.to_owned()))?;
        close(self.bus.as_ref(), &api_id, "key rotated").await;
        revoke(self.bus.as_ref(), "key", id, "key rotated").await;
        Ok(json!({"id": id, "name": host.name, "api_id": api_id, "api_key": api_key}))
    }

    async fn host_ssh_keys(&self, reference: &str) -> Result<Value, AdminError> {
        let host = self.find(reference).await?;
        let keys = self.store.ssh_keys(host.facts.id).await?;
        let shown = |key: &store::HostSshKey| {
            json!({
                "port": key.port,
                "fingerprint": key.fingerprint,
                "key": key.key,
                "first_seen_at": rfc3339(key.first_seen_at),
                "last_seen_at": rfc3339(key.last_seen_at),
            })
        };
        Ok(json!({"items": keys.iter().map(shown).collect::<Vec<_>>()}))
    }

    async fn host_forget_ssh_keys(&self, reference: &str, port: Option<u16>) -> Result<Value, AdminError> {
        let host = self.find(reference).await?;
        let id = host.facts.id;
        let forgotten = self.store.forget_ssh_keys(id, port).await?;
        let entry = NewAudit {
            event: "ssh_host_keys_forgotten",
            address: "admin command".to_owned(),
            host_id: Some(id),
            host_name: Some(host.name.clone()),
            target: port.map(|port| format!("port {port}")),
            ..NewAudit::default()
        };
        self.store.audit(&entry).await?;
        Ok(json!({"id": id, "name": host.name, "forgotten": forgotten}))
    }

    /// What is kept of a key.
    async fn kept(&self, api_key: &str) -> Result<NewKey, AdminError> {
        let hash = self.hash(api_key.to_owned(), KEY_COST).await?;
        Ok(NewKey { hash, digest: keys::digest(api_key) })
    }

    async fn hash(&self, secret: String, cost: u32) -> Result<String, AdminError> {
        let _turn = self.hashing.lock().await;
        let secret = Zeroizing::new(secret);
        let hashed = tokio::task::spawn_blocking(move || bcrypt::non_truncating_hash(secret.as_bytes(), cost)).await;
        match hashed {
            Ok(Ok(hash)) => Ok(hash),
            Ok(Err(error)) => Err(AdminError::Hash(error.to_string())),
            Err(error) => Err(AdminError::Hash(error.to_string())),
        }
    }

    async fn find(&self, reference: &str) -> Result<Host, AdminError> {
        self.store.find_host(reference).await?.ok_or_else(|| AdminError::NoHost(reference.to_owned()))
    }

    async fn user_add(&self, username: &str, role: &str, given: Option<String>) -> Result<Value, AdminError> {
        let username = checked_username(username)?;
        let (password, generated) = choose(given)?;
        let hash = self.hash(password, PASSWORD_COST).await?;
        let Some(user) = self.store.add_user(Uuid::now_v7(), username, &hash, role).await? else {
            let roles = self.store.roles().await?;
            let names: Vec<&str> = roles.iter().map(|role| role.name.as_str()).collect();
            return Err(AdminError::NoRole(role.to_owned(), names.join(", ")));
        };
        let answer = json!({"id": user.id, "username": user.username, "role": user.role.name});
        Ok(with_password(answer, generated))
    }

    async fn user_passwd(&self, username: &str, given: Option<String>) -> Result<Value, AdminError> {
        let (password, generated) = choose(given)?;
        let hash = self.hash(password, PASSWORD_COST).await?;
        let changed = self.store.set_password(username.trim(), &hash).await?;
        let (id, sessions) = changed.ok_or_else(|| AdminError::NoUser(username.to_owned()))?;
        revoke(self.bus.as_ref(), "user", id, "password changed").await;
        let answer = json!({"id": id, "username": username.trim(), "sessions_ended": sessions.len()});
        Ok(with_password(answer, generated))
    }
}

fn listed(host: &Host) -> Value {
    json!({
        "id": host.facts.id,
        "name": host.name,
        "api_id": host.facts.api_id,
        "connected": host.facts.connected,
        "secure": host.facts.connected && host.secure,
        "agent_version": host.agent_version,
        "last_seen_at": host.last_seen_at.map(rfc3339),
        "created_at": rfc3339(host.created_at),
    })
}

fn with_password(mut answer: Value, generated: Option<String>) -> Value {
    if let Some(password) = generated {
        answer["password"] = password.into();
    }
    answer
}

fn checked_username(username: &str) -> Result<&str, AdminError> {
    let name = username.trim();
    let fits = !name.is_empty() && name.chars().count() <= USERNAME_MAX && !name.chars().any(char::is_control);
    let what = || format!("a username has 1 to {USERNAME_MAX} characters, none of them a control character");
    fits.then_some(name).ok_or_else(|| AdminError::Invalid(what()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_op() {
        let read = |text: &str| serde_json::from_str::<AdminRequest>(text);
        assert!(
            matches!(read(r#"{"op":"host_add","name":"web"}"#), Ok(AdminRequest::HostAdd { name }) if name == "web")
        );
        assert!(matches!(read(r#"{"op":"host_list"}"#), Ok(AdminRequest::HostList)));
        let user = read(r#"{"op":"user_add","username":"ann","role":"readonly"}"#);
        assert!(matches!(user, Ok(AdminRequest::UserAdd { password: None, .. })));
        assert!(read(r#"{"op":"reboot"}"#).is_err());
        assert!(read(r#"{"op":"host_add"}"#).is_err());
    }
}

//! The keys of hosts' SSH servers, and what is set for terminals on a host.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    statement::{Cells, get, sql},
};
use crate::{HostSshKey, KeyCheck, SshKeys, StoreError, TerminalOptions};

/// How often a key is looked at that is forgotten and comes back in between.
const LOOKS: usize = 8;

pub const SEEN_AGAIN: &str = "UPDATE ssh_host_keys SET last_seen_at = $4 WHERE host_id = $1 AND port = $2 AND key = $3";

const FIRST: &str = "INSERT INTO ssh_host_keys (host_id, port, key, fingerprint, first_seen_at, last_seen_at) \
     VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (host_id, port) DO NOTHING";

pub const KNOWN: &str = "SELECT key, fingerprint FROM ssh_host_keys WHERE host_id = $1 AND port = $2";

pub const KEYS: &str =
    "SELECT port, key, fingerprint, first_seen_at, last_seen_at FROM ssh_host_keys WHERE host_id = $1 ORDER BY port";

/// The keys of ports from $2 to $3.
pub const FORGET: &str = "DELETE FROM ssh_host_keys WHERE host_id = $1 AND port BETWEEN $2 AND $3";

fn row(row: &impl Cells) -> Result<HostSshKey, StoreError> {
    let port: i64 = get(row, "port")?;
    Ok(HostSshKey {
        port: u16::try_from(port).map_err(|_| StoreError::Corrupt(format!("port {port}")))?,
        key: get(row, "key")?,
        fingerprint: get(row, "fingerprint")?,
        first_seen_at: get(row, "first_seen_at")?,
        last_seen_at: get(row, "last_seen_at")?,
    })
}

#[async_trait]
impl<E: Engine> SshKeys for SqlStore<E> {
    async fn check_ssh_key(
        &self,
        host_id: Uuid,
        port: u16,
        key: &str,
        fingerprint: &str,
    ) -> Result<KeyCheck, StoreError> {
        let mut tx = self.engine.begin().await?;
        let (now, port) = (self.now(), i64::from(port));
        for _ in 0..LOOKS {
            if tx.run(sql(SEEN_AGAIN).bind(host_id).bind(port).bind(key).bind(now)).await? == 1 {
                tx.commit().await?;
                return Ok(KeyCheck::Same { first: false });
            }
            // Waits for whoever is just inserting one.
            let first = sql(FIRST).bind(host_id).bind(port).bind(key).bind(fingerprint).bind(now);
            if tx.run(first).await? == 1 {
                tx.commit().await?;
                return Ok(KeyCheck::Same { first: true });
            }
            let Some(known) = tx.optional(sql(KNOWN).bind(host_id).bind(port)).await? else { continue };
            if get::<&str>(&known, "key")? != key {
                return Ok(KeyCheck::Other { fingerprint: get(&known, "fingerprint")? });
            }
        }
        Err(StoreError::Unavailable("the host's key changes all the time".to_owned()))
    }

    async fn ssh_keys(&self, host_id: Uuid) -> Result<Vec<HostSshKey>, StoreError> {
        self.reader().await?.all(sql(KEYS).bind(host_id)).await?.iter().map(row).collect()
    }

    async fn forget_ssh_keys(&self, host_id: Uuid, port: Option<u16>) -> Result<u64, StoreError> {
        let (first, last) = port.map_or((0, u16::MAX), |port| (port, port));
        self.writer().await?.run(sql(FORGET).bind(host_id).bind(i64::from(first)).bind(i64::from(last))).await
    }

    async fn set_terminal_options(&self, host_id: Uuid, change: &TerminalOptions) -> Result<bool, StoreError> {
        let query = sql("UPDATE hosts SET ssh_legacy = COALESCE($1, ssh_legacy), \
             record_terminals = CASE WHEN $2 = 1 THEN $3 ELSE record_terminals END WHERE id = $4")
        .bind(change.legacy_algorithms)
        .bind(change.record.is_some())
        .bind(change.record.flatten())
        .bind(host_id);
        Ok(self.writer().await?.run(query).await? == 1)
    }
}

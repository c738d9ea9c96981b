//! Hosts: their keys, what is kept of them, lists.

use std::collections::HashSet;

use async_trait::async_trait;
use jobs::Event;
use schemas::ApiId;
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    SqliteStore,
    commands::OPEN,
    conflict, presence,
    rows::{self, get, get_uuid},
    unavailable,
};
use crate::{
    AddHost, Applied, Connect, Connected, Host, HostAuth, HostFilter, Hosts, IntegrationChange, NewKey, Page, Presence,
    Removed, StoreError,
};

pub(super) const CONNECTED: &str = "SELECT COUNT(*) AS n FROM hosts WHERE connected = 1";

pub(super) const AUTH: &str =
    "SELECT id, name, key_hash, key_digest, key_version, flapping_until FROM hosts WHERE api_id = $1";

pub(super) const PRESENCE: &str = "SELECT api_id, connected, secure, disconnected_at FROM hosts \
     WHERE api_id IN (SELECT value FROM json_each($1))";

const HOST: &str = "SELECT h.*, h.id AS h_id FROM hosts h WHERE";

impl SqliteStore {
    async fn one_host(&self, condition: &'static str, argument: String) -> Result<Option<Host>, StoreError> {
        sqlx::query(AssertSqlSafe(format!("{HOST} {condition}")))
            .bind(argument)
            .fetch_optional(&self.readers)
            .await
            .map_err(unavailable)?
            .as_ref()
            .map(rows::host)
            .transpose()
    }
}

#[async_trait]
impl Hosts for SqliteStore {
    async fn add_hosts(&self, hosts: &[AddHost]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let now = self.clock.now_ms();
        for host in hosts {
            sqlx::query("INSERT INTO hosts (id, name, api_id, key_hash, key_digest, created_at) VALUES ($1, $2, $3, $4, $5, $6)")
                .bind(host.id.to_string())
                .bind(&host.name)
                .bind(host.api_id.as_str())
                .bind(&host.key.hash)
                .bind(host.key.digest.as_deref())
                .bind(now)
                .execute(&mut *tx)
                .await
                .map_err(|e| conflict(e, "a host of that name"))?;
        }
        tx.commit().await.map_err(unavailable)
    }

    async fn host_auth(&self, api_id: &ApiId) -> Result<Option<HostAuth>, StoreError> {
        let row = sqlx::query(AUTH).bind(api_id.as_str()).fetch_optional(&self.readers).await.map_err(unavailable)?;
        row.map(|row| {
            Ok(HostAuth {
                id: get_uuid(&row, "id")?,
                name: get(&row, "name")?,
                key_hash: get(&row, "key_hash")?,
                key_digest: get(&row, "key_digest")?,
                key_version: get(&row, "key_version")?,
                flapping_until: get(&row, "flapping_until")?,
            })
        })
        .transpose()
    }

    async fn keep_digest(&self, host_id: Uuid, key_version: i64, key: &NewKey) -> Result<(), StoreError> {
        sqlx::query("UPDATE hosts SET key_hash = $1, key_digest = $2 WHERE id = $3 AND key_version = $4")
            .bind(&key.hash)
            .bind(key.digest.as_deref())
            .bind(host_id.to_string())
            .bind(key_version)
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(unavailable)
    }

    async fn host(&self, id: Uuid) -> Result<Option<Host>, StoreError> {
        self.one_host("h.id = $1", id.to_string()).await
    }

    async fn find_host(&self, reference: &str) -> Result<Option<Host>, StoreError> {
        for condition in ["h.id = $1", "h.api_id = $1", "h.name = $1"] {
            if let Some(host) = self.one_host(condition, reference.to_owned()).await? {
                return Ok(Some(host));
            }
        }
        Ok(None)
    }

    async fn list_hosts(
        &self,
        filter: &HostFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Host>, StoreError> {
        let mut sql = format!("{HOST} h.name > $1");
        if let Some(connected) = filter.connected {
            sql.push_str(if connected { " AND h.connected = 1" } else { " AND h.connected = 0" });
        }
        if filter.search.is_some() {
            sql.push_str(" AND (instr(lower(h.name), lower($2)) > 0 OR instr(lower(h.hostname), lower($2)) > 0)");
        }
        sql.push_str(&format!(" ORDER BY h.name LIMIT {}", u64::from(limit) + 1));
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(cursor.unwrap_or(""));
        if let Some(search) = &filter.search {
            query = query.bind(search);
        }
        let rows = query.fetch_all(&self.readers).await.map_err(unavailable)?;
        let mut items: Vec<Host> = rows.iter().map(rows::host).collect::<Result<_, _>>()?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next_cursor = more.then(|| items.last().map(|h| h.name.clone())).flatten();
        Ok(Page { items, next_cursor })
    }

    async fn remove_host(&self, id: Uuid) -> Result<Option<Removed>, StoreError> {
        let mut work = self.work().await?;
        let open = work.read(OPEN, id.to_string()).await?;
        let row = sqlx::query("DELETE FROM hosts WHERE id = $1 RETURNING api_id")
            .bind(id.to_string())
            .fetch_optional(&mut *work.tx)
            .await
            .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let api_id = ApiId::parse(get(&row, "api_id")?).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let mut moved = Vec::with_capacity(open.len());
        for (command, host) in open {
            moved.push(work.step(command, host, &Event::Remove));
        }
        self.finish(work).await?;
        Ok(Some(Removed { api_id, moved }))
    }

    async fn rotate_key(&self, id: Uuid, key: &NewKey) -> Result<Option<ApiId>, StoreError> {
        let row = sqlx::query(
            "UPDATE hosts SET key_hash = $1, key_digest = $2, key_version = key_version + 1 WHERE id = $3 RETURNING api_id",
        )
        .bind(&key.hash)
        .bind(key.digest.as_deref())
        .bind(id.to_string())
        .fetch_optional(&self.writer)
        .await
        .map_err(unavailable)?;
        row.map(|row| ApiId::parse(get(&row, "api_id")?).map_err(|e| StoreError::Corrupt(e.to_string()))).transpose()
    }

    async fn connect_hosts(&self, connects: &[Connect]) -> Result<(Vec<Connected>, Vec<Applied>), StoreError> {
        let mut work = self.work().await?;
        let outcomes = presence::take_epochs(&mut work, connects).await?;
        let held: Vec<Uuid> = connects
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome != Connected::Refused)
            .map(|(connect, _)| connect.host_id)
            .collect();
        presence::want_seen(&mut work, &held).await?;
        let woken = presence::wake(&mut work, presence::WAKES, &held, self.options.pace_ms).await?;
        self.finish(work).await?;
        Ok((outcomes, woken))
    }

    async fn disconnect_hosts(&self, ends: &[(Uuid, i64)]) -> Result<Vec<bool>, StoreError> {
        let newest = sqlx::query(presence::DISCONNECT)
            .bind(json!(ends).to_string())
            .bind(self.clock.now_ms())
            .fetch_all(&self.writer)
            .await
            .map_err(unavailable)?
            .iter()
            .map(|row| Ok((get_uuid(row, "id")?, get(row, "epoch")?)))
            .collect::<Result<HashSet<(Uuid, i64)>, StoreError>>()?;
        Ok(ends.iter().map(|end| newest.contains(end)).collect())
    }

    async fn assert_hints(&self, gateway_id: Uuid, held: &[(Uuid, i64, bool)]) -> Result<Vec<Uuid>, StoreError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = held.iter().map(|(id, epoch, secure)| (id, epoch, i64::from(*secure))).collect();
        sqlx::query(presence::ASSERT_HINTS)
            .bind(json!(rows).to_string())
            .bind(self.clock.now_ms())
            .bind(gateway_id.to_string())
            .fetch_all(&self.writer)
            .await
            .map_err(unavailable)?
            .iter()
            .map(|row| get_uuid(row, "id"))
            .collect()
    }

    async fn gateways_hinted(&self) -> Result<Vec<Uuid>, StoreError> {
        let rows = sqlx::query(presence::GATEWAYS).fetch_all(&self.readers).await.map_err(unavailable)?;
        rows.iter().map(|row| get_uuid(row, "id")).collect()
    }

    async fn clear_hints_of(&self, gateway_id: Uuid) -> Result<Vec<Uuid>, StoreError> {
        sqlx::query(presence::CLEAR_HINTS_OF)
            .bind(gateway_id.to_string())
            .bind(self.clock.now_ms())
            .fetch_all(&self.writer)
            .await
            .map_err(unavailable)?
            .iter()
            .map(|row| get_uuid(row, "id"))
            .collect()
    }

    async fn wake_hosts(&self, hosts: &[Uuid]) -> Result<Vec<Applied>, StoreError> {
        let mut work = self.work().await?;
        let woken = presence::wake(&mut work, presence::WAITS, hosts, self.options.pace_ms).await?;
        self.finish(work).await?;
        Ok(woken)
    }

    async fn stale_keys(&self, held: &[(Uuid, i64)]) -> Result<Vec<Uuid>, StoreError> {
        let rows = sqlx::query(presence::STALE_KEYS)
            .bind(json!(held).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        rows.iter().map(|row| get_uuid(row, "id")).collect()
    }

    async fn clear_hints(&self) -> Result<u64, StoreError> {
        sqlx::query(presence::CLEAR_HINTS)
            .bind(self.clock.now_ms())
            .execute(&self.writer)
            .await
            .map(|done| done.rows_affected())
            .map_err(unavailable)
    }

    async fn presence(&self, api_ids: &[ApiId]) -> Result<Vec<Presence>, StoreError> {
        let ids: Vec<&str> = api_ids.iter().map(ApiId::as_str).collect();
        sqlx::query(PRESENCE)
            .bind(json!(ids).to_string())
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?
            .iter()
            .map(|row| {
                let connected = get::<i64>(row, "connected")? != 0;
                Ok(Presence {
                    api_id: get(row, "api_id")?,
                    connected,
                    secure: connected && get::<i64>(row, "secure")? != 0,
                    disconnected_at: get(row, "disconnected_at")?,
                })
            })
            .collect()
    }

    async fn connected_count(&self) -> Result<u64, StoreError> {
        let row = sqlx::query(CONNECTED).fetch_one(&self.readers).await.map_err(unavailable)?;
        Ok(u64::try_from(get::<i64>(&row, "n")?).unwrap_or(0))
    }

    async fn touch_host(&self, id: Uuid, agent_version: Option<&str>) -> Result<(), StoreError> {
        sqlx::query("UPDATE hosts SET last_seen_at = $1, agent_version = COALESCE($2, agent_version) WHERE id = $3")
            .bind(self.clock.now_ms())
            .bind(agent_version.filter(|v| !v.is_empty()))
            .bind(id.to_string())
            .execute(&self.writer)
            .await
            .map(drop)
            .map_err(unavailable)
    }

    async fn set_integrations(&self, id: Uuid, change: &IntegrationChange) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE hosts SET docker_enabled = COALESCE($1, docker_enabled), compliance_mode = COALESCE($2, compliance_mode), \
             openscap_enabled = COALESCE($3, openscap_enabled), docker_bench_enabled = COALESCE($4, docker_bench_enabled) \
             WHERE id = $5",
        )
        .bind(change.docker_enabled.map(i64::from))
        .bind(change.compliance_mode.map(|m| m.name()))
        .bind(change.openscap_enabled.map(i64::from))
        .bind(change.docker_bench_enabled.map(i64::from))
        .bind(id.to_string())
        .execute(&self.writer)
        .await
        .map_err(unavailable)?;
        Ok(done.rows_affected() == 1)
    }

    async fn settings_seen(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE hosts SET settings_seen = settings_revision WHERE id = $1 AND settings_seen < settings_revision",
        )
        .bind(id.to_string())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(unavailable)
    }
}

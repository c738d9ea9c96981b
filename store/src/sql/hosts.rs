//! Hosts: their keys, what is kept of them, lists.

use std::collections::HashSet;

use async_trait::async_trait;
use jobs::Event;
use schemas::ApiId;
use serde_json::json;
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    commands::OPEN,
    conflict, presence, rows,
    statement::{Cells, get, get_bool, get_uuid, sql},
};
use crate::{
    AddHost, Applied, Connect, Connected, Host, HostAuth, HostFilter, Hosts, IntegrationChange, NewKey, Page, Presence,
    Removed, StoreError,
};

pub const CONNECTED: &str = "SELECT COUNT(*) AS n FROM hosts WHERE connected = 1";

pub const AUTH: &str =
    "SELECT id, name, key_hash, key_digest, key_version, flapping_until FROM hosts WHERE api_id = $1";

pub const PRESENCE: &str = "SELECT api_id, connected, secure, disconnected_at FROM hosts \
     WHERE api_id IN (SELECT value FROM json_each($1))";

const HOST: &str = "SELECT h.*, h.id AS h_id FROM hosts h WHERE";

fn ids(rows: &[impl Cells]) -> Result<Vec<Uuid>, StoreError> {
    rows.iter().map(|row| get_uuid(row, "id")).collect()
}

/// What contains this, whatever its case.
fn pattern(search: &str) -> String {
    let mut pattern = String::from("%");
    for c in search.to_lowercase().chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

impl<E: Engine> SqlStore<E> {
    async fn one_host(&self, condition: &'static str, argument: String) -> Result<Option<Host>, StoreError> {
        self.reader()
            .await?
            .optional(sql(format!("{HOST} {condition}")).bind(argument))
            .await?
            .as_ref()
            .map(rows::host)
            .transpose()
    }
}

#[async_trait]
impl<E: Engine> Hosts for SqlStore<E> {
    async fn add_hosts(&self, hosts: &[AddHost]) -> Result<(), StoreError> {
        let mut tx = self.engine.begin().await?;
        let now = self.now();
        for host in hosts {
            tx.try_run(sql("INSERT INTO hosts (id, name, api_id, key_hash, key_digest, created_at) VALUES ($1, $2, $3, $4, $5, $6)").bind(host.id.to_string()).bind(&host.name).bind(host.api_id.as_str()).bind(&host.key.hash).bind(host.key.digest.as_deref()).bind(now)).await
                .map_err(|e| conflict(e, "a host of that name"))?;
        }
        tx.commit().await
    }

    async fn host_auth(&self, api_id: &ApiId) -> Result<Option<HostAuth>, StoreError> {
        let row = self.reader().await?.optional(sql(AUTH).bind(api_id.as_str())).await?;
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
        self.writer()
            .await?
            .run(
                sql("UPDATE hosts SET key_hash = $1, key_digest = $2 WHERE id = $3 AND key_version = $4")
                    .bind(&key.hash)
                    .bind(key.digest.as_deref())
                    .bind(host_id.to_string())
                    .bind(key_version),
            )
            .await
            .map(drop)
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
        let mut text = format!("{HOST} h.name > $1");
        if let Some(connected) = filter.connected {
            text.push_str(if connected { " AND h.connected = 1" } else { " AND h.connected = 0" });
        }
        if filter.search.is_some() {
            text.push_str(" AND (lower(h.name) LIKE $2 ESCAPE '!' OR lower(h.hostname) LIKE $2 ESCAPE '!')");
        }
        text.push_str(&format!(" ORDER BY h.name LIMIT {}", u64::from(limit) + 1));
        let mut query = sql(text).bind(cursor.unwrap_or(""));
        if let Some(search) = &filter.search {
            query = query.bind(pattern(search));
        }
        let rows = self.reader().await?.all(query).await?;
        let mut items: Vec<Host> = rows.iter().map(rows::host).collect::<Result<_, _>>()?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next_cursor = more.then(|| items.last().map(|h| h.name.clone())).flatten();
        Ok(Page { items, next_cursor })
    }

    async fn remove_host(&self, id: Uuid) -> Result<Option<Removed>, StoreError> {
        let mut work = self.work().await?;
        work.lock([&id]).await?;
        let open = work.read(OPEN, id.to_string()).await?;
        let row =
            work.tx.optional(sql("DELETE FROM hosts WHERE id = $1 RETURNING api_id").bind(id.to_string())).await?;
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
        let row = self.writer().await?.optional(sql(
            "UPDATE hosts SET key_hash = $1, key_digest = $2, key_version = key_version + 1 WHERE id = $3 RETURNING api_id",
        ).bind(&key.hash).bind(key.digest.as_deref()).bind(id.to_string())).await?;
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
        let woken = presence::wake(&mut work, presence::WAKES, &held, self.pace_ms).await?;
        self.finish(work).await?;
        Ok((outcomes, woken))
    }

    async fn disconnect_hosts(&self, ends: &[(Uuid, i64)]) -> Result<Vec<bool>, StoreError> {
        let mut work = self.work().await?;
        work.lock(ends.iter().map(|(id, _)| id)).await?;
        let newest = work
            .tx
            .all(sql(presence::DISCONNECT).bind(json!(ends).to_string()).bind(work.now))
            .await?
            .iter()
            .map(|row| Ok((get_uuid(row, "id")?, get(row, "epoch")?)))
            .collect::<Result<HashSet<(Uuid, i64)>, StoreError>>()?;
        self.finish(work).await?;
        Ok(ends.iter().map(|end| newest.contains(end)).collect())
    }

    async fn assert_hints(&self, gateway_id: Uuid, held: &[(Uuid, i64, bool)]) -> Result<Vec<Uuid>, StoreError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<_> = held.iter().map(|(id, epoch, secure)| (id, epoch, i64::from(*secure))).collect();
        let mut work = self.work().await?;
        work.lock(held.iter().map(|(id, _, _)| id)).await?;
        let hints = sql(presence::ASSERT_HINTS).bind(json!(rows).to_string()).bind(work.now).bind(gateway_id);
        let told = ids(&work.tx.all(hints).await?)?;
        self.finish(work).await?;
        Ok(told)
    }

    async fn gateways_hinted(&self) -> Result<Vec<Uuid>, StoreError> {
        ids(&self.reader().await?.all(sql(presence::GATEWAYS)).await?)
    }

    async fn clear_hints_of(&self, gateway_id: Uuid) -> Result<Vec<Uuid>, StoreError> {
        let mut work = self.work().await?;
        work.lock_held(gateway_id).await?;
        let cleared = work.tx.all(sql(presence::CLEAR_HINTS_OF).bind(gateway_id).bind(work.now)).await?;
        self.finish(work).await?;
        ids(&cleared)
    }

    async fn wake_hosts(&self, hosts: &[Uuid]) -> Result<Vec<Applied>, StoreError> {
        let mut work = self.work().await?;
        work.lock(hosts).await?;
        let woken = presence::wake(&mut work, presence::WAITS, hosts, self.pace_ms).await?;
        self.finish(work).await?;
        Ok(woken)
    }

    async fn stale_keys(&self, held: &[(Uuid, i64)]) -> Result<Vec<Uuid>, StoreError> {
        let rows = self.reader().await?.all(sql(presence::STALE_KEYS).bind(json!(held).to_string())).await?;
        ids(&rows)
    }

    async fn clear_hints(&self) -> Result<u64, StoreError> {
        self.writer().await?.run(sql(presence::CLEAR_HINTS).bind(self.now())).await
    }

    async fn presence(&self, api_ids: &[ApiId]) -> Result<Vec<Presence>, StoreError> {
        let ids: Vec<&str> = api_ids.iter().map(ApiId::as_str).collect();
        self.reader()
            .await?
            .all(sql(PRESENCE).bind(json!(ids).to_string()))
            .await?
            .iter()
            .map(|row| {
                let connected = get_bool(row, "connected")?;
                Ok(Presence {
                    api_id: get(row, "api_id")?,
                    connected,
                    secure: connected && get_bool(row, "secure")?,
                    disconnected_at: get(row, "disconnected_at")?,
                })
            })
            .collect()
    }

    async fn connected_count(&self) -> Result<u64, StoreError> {
        let row = self.reader().await?.one(sql(CONNECTED)).await?;
        Ok(u64::try_from(get::<i64>(&row, "n")?).unwrap_or(0))
    }

    async fn touch_host(&self, id: Uuid, agent_version: Option<&str>) -> Result<(), StoreError> {
        self.writer()
            .await?
            .run(
                sql("UPDATE hosts SET last_seen_at = $1, agent_version = COALESCE($2, agent_version) WHERE id = $3")
                    .bind(self.now())
                    .bind(agent_version.filter(|v| !v.is_empty()))
                    .bind(id.to_string()),
            )
            .await
            .map(drop)
    }

    async fn set_integrations(&self, id: Uuid, change: &IntegrationChange) -> Result<bool, StoreError> {
        let done = self.writer().await?.run(sql(
            "UPDATE hosts SET docker_enabled = COALESCE($1, docker_enabled), compliance_mode = COALESCE($2, compliance_mode), \
             openscap_enabled = COALESCE($3, openscap_enabled), docker_bench_enabled = COALESCE($4, docker_bench_enabled) \
             WHERE id = $5",
        ).bind(change.docker_enabled.map(i64::from)).bind(change.compliance_mode.map(|m| m.name())).bind(change.openscap_enabled.map(i64::from)).bind(change.docker_bench_enabled.map(i64::from)).bind(id.to_string())).await?;
        Ok(done == 1)
    }

    async fn settings_seen(&self, id: Uuid) -> Result<(), StoreError> {
        self.writer().await?.run(sql(
            "UPDATE hosts SET settings_seen = settings_revision WHERE id = $1 AND settings_seen < settings_revision",
        ).bind(id.to_string())).await.map(drop)
    }
}

//! Hosts and their presence.

use std::collections::HashSet;

use async_trait::async_trait;
use jobs::{Event, Kind};
use schemas::ApiId;
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    SqliteStore, batch,
    commands::Work,
    conflict,
    rows::{self, get, get_uuid, id_list},
    unavailable,
};
use crate::{
    AddHost, Applied, Connect, Connected, Host, HostAuth, HostFilter, Hosts, IntegrationChange, NewBatch, NewKey, Page,
    Presence, Removed, StoreError, Target,
};

/// Replacements of one id within this time count together.
const FLAP_WINDOW_MS: i64 = 60_000;
/// More of them than this are flapping.
const FLAP_MAX: i64 = 6;
/// How long newcomers are refused then.
const FLAP_PENALTY_MS: i64 = 60_000;

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
        let row = sqlx::query(
            "SELECT id, name, key_hash, key_digest, key_version, flapping_until FROM hosts WHERE api_id = $1",
        )
        .bind(api_id.as_str())
        .fetch_optional(&self.readers)
        .await
        .map_err(unavailable)?;
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
        let open = work.read("c.host_id = $1 AND c.final = 0", id.to_string()).await?;
        let row = sqlx::query("DELETE FROM hosts WHERE id = $1 RETURNING api_id")
            .bind(id.to_string())
            .fetch_optional(&mut *work.tx)
            .await
            .map_err(unavailable)?;
        let Some(row) = row else { return Ok(None) };
        let api_id = ApiId::parse(get(&row, "api_id")?).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        let mut moved = Vec::with_capacity(open.len());
        for (command, host) in open {
            moved.push(work.step(command, host, &Event::Remove).await?);
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
        let mut outcomes = Vec::with_capacity(connects.len());
        let named = named_hosts(&mut work, connects).await?;
        for connect in connects {
            outcomes.push(connect_one(&mut work, connect, named.contains(&connect.host_id)).await?);
        }
        let held: Vec<Uuid> = connects
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| **outcome != Connected::Refused)
            .map(|(connect, _)| connect.host_id)
            .collect();
        want_seen(&mut work, &held).await?;
        let woken = wake(&mut work, &held, self.options.pace_ms).await?;
        self.finish(work).await?;
        Ok((outcomes, woken))
    }

    async fn disconnect_hosts(&self, ends: &[(Uuid, i64)]) -> Result<Vec<bool>, StoreError> {
        let mut tx = self.begin().await?;
        let now = self.clock.now_ms();
        let mut was_newest = Vec::with_capacity(ends.len());
        for (id, epoch) in ends {
            let done = sqlx::query(
                "UPDATE hosts SET connected = 0, gateway_id = NULL, connected_at = NULL, disconnected_at = $1 \
                 WHERE id = $2 AND epoch = $3 AND connected = 1",
            )
            .bind(now)
            .bind(id.to_string())
            .bind(epoch)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
            was_newest.push(done.rows_affected() == 1);
        }
        tx.commit().await.map_err(unavailable)?;
        Ok(was_newest)
    }

    async fn assert_hints(&self, gateway_id: Uuid, held: &[(Uuid, i64, bool)]) -> Result<(), StoreError> {
        if held.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = held.iter().map(|(id, epoch, secure)| json!([id, epoch, i64::from(*secure)])).collect();
        sqlx::query(
            "UPDATE hosts SET connected = 1, gateway_id = $1, secure = v.secure, \
             connected_at = COALESCE(connected_at, $3) \
             FROM (SELECT value ->> 0 AS id, value ->> 1 AS epoch, value ->> 2 AS secure FROM json_each($2)) v \
             WHERE hosts.id = v.id AND hosts.epoch = v.epoch AND (connected = 0 OR gateway_id <> $1)",
        )
        .bind(gateway_id.to_string())
        .bind(serde_json::Value::from(rows).to_string())
        .bind(self.clock.now_ms())
        .execute(&self.writer)
        .await
        .map(drop)
        .map_err(unavailable)
    }

    async fn clear_hints(&self) -> Result<u64, StoreError> {
        sqlx::query("UPDATE hosts SET connected = 0, gateway_id = NULL, connected_at = NULL, disconnected_at = $1 WHERE connected = 1")
            .bind(self.clock.now_ms())
            .execute(&self.writer)
            .await
            .map(|done| done.rows_affected())
            .map_err(unavailable)
    }

    async fn presence(&self, api_ids: &[ApiId]) -> Result<Vec<Presence>, StoreError> {
        let ids: Vec<&str> = api_ids.iter().map(ApiId::as_str).collect();
        sqlx::query("SELECT api_id, connected, secure, disconnected_at FROM hosts WHERE api_id IN (SELECT value FROM json_each($1))")
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
        let row = sqlx::query("SELECT COUNT(*) AS n FROM hosts WHERE connected = 1")
            .fetch_one(&self.readers)
            .await
            .map_err(unavailable)?;
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

/// Hosts whose row still names a connection: a new one replaces it.
async fn named_hosts(work: &mut Work, connects: &[Connect]) -> Result<HashSet<Uuid>, StoreError> {
    sqlx::query("SELECT id FROM hosts WHERE connected = 1 AND id IN (SELECT value FROM json_each($1))")
        .bind(id_list(connects.iter().map(|c| &c.host_id)))
        .fetch_all(&mut *work.tx)
        .await
        .map_err(unavailable)?
        .iter()
        .map(|row| get_uuid(row, "id"))
        .collect()
}

async fn connect_one(work: &mut Work, connect: &Connect, replaced: bool) -> Result<Connected, StoreError> {
    let row = sqlx::query(
        "UPDATE hosts SET epoch = epoch + 1, secure = $1, gateway_id = $2, connected_at = $3, \
         replacements = CASE WHEN connected = 0 THEN replacements \
             WHEN $3 - replacements_since > $6 THEN 1 ELSE replacements + 1 END, \
         replacements_since = CASE WHEN connected = 1 AND $3 - replacements_since > $6 THEN $3 ELSE replacements_since END, \
         flapping_until = CASE WHEN connected = 1 AND $3 - replacements_since <= $6 AND replacements + 1 > $7 \
             THEN $3 + $8 ELSE flapping_until END, \
         last_seen_at = $3, disconnected_at = NULL, connected = 1 \
         WHERE id = $4 AND key_version = $5 RETURNING epoch, flapping_until",
    )
    .bind(i64::from(connect.secure))
    .bind(connect.gateway_id.to_string())
    .bind(work.now)
    .bind(connect.host_id.to_string())
    .bind(connect.key_version)
    .bind(FLAP_WINDOW_MS)
    .bind(FLAP_MAX)
    .bind(FLAP_PENALTY_MS)
    .fetch_optional(&mut *work.tx)
    .await
    .map_err(unavailable)?;
    let Some(row) = row else {
        return Ok(Connected::Refused);
    };
    Ok(Connected::Epoch {
        epoch: get(&row, "epoch")?,
        replaced,
        flapping: get::<i64>(&row, "flapping_until")? > work.now,
    })
}

/// A command by `system` for each host that has not seen the settings its owner wants.
async fn want_seen(work: &mut Work, hosts: &[Uuid]) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT id, update_interval FROM hosts h WHERE settings_seen < settings_revision \
         AND id IN (SELECT value FROM json_each($1)) \
         AND NOT EXISTS (SELECT 1 FROM commands WHERE host_id = h.id AND final = 0 AND kind = 'settings_update')",
    )
    .bind(id_list(hosts))
    .fetch_all(&mut *work.tx)
    .await
    .map_err(unavailable)?;
    for row in rows {
        let host_id = get_uuid(&row, "id")?;
        let minutes: i64 = get(&row, "update_interval")?;
        let system = NewBatch {
            id: Uuid::now_v7(),
            kind: Kind::SettingsUpdate,
            payload: json!({ jobs::kinds::settings_update::UPDATE_INTERVAL: minutes }),
            target: Target::Hosts(vec![host_id]),
            expires_in_ms: 86_400_000,
            spread_ms: None,
            requested_by: "system".to_owned(),
            traceparent: None,
            idempotency: None,
        };
        batch::insert(work, &system, &[(Uuid::now_v7(), host_id)], 0).await?;
    }
    Ok(())
}

/// Wakes what waits for these hosts, a later statement of the transaction that made them connected.
async fn wake(work: &mut Work, hosts: &[Uuid], pace_ms: i64) -> Result<Vec<Applied>, StoreError> {
    let open = work
        .read(
            "c.final = 0 AND c.state IN ('waiting', 'sent', 'delivered', 'running') \
             AND c.host_id IN (SELECT value FROM json_each($1)) ORDER BY c.id",
            id_list(hosts),
        )
        .await?;
    let paced = |kind: Kind, state| state == jobs::State::Waiting && kind.spec().paced();
    let n = open.iter().filter(|(c, _)| paced(c.kind, c.state)).count();
    let mut slot = match n {
        0 | 1 => work.now,
        n => work.slots(i64::try_from(n).unwrap_or(0), pace_ms).await?,
    };
    let mut woken = Vec::with_capacity(open.len());
    for (command, host) in open {
        let takes_slot = paced(command.kind, command.state);
        woken.push(work.step(command, host, &Event::Wake { slot }).await?);
        if takes_slot {
            slot += pace_ms;
        }
    }
    Ok(woken)
}

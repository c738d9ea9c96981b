//! Presence: epochs, what a connect wakes, and the hints of who holds whom.

use std::collections::{BTreeMap, HashMap, HashSet};

use jobs::{Command, Event, Kind, State};
use serde_json::json;
use uuid::Uuid;

use super::{
    Conn, batch,
    rows::id_list,
    statement::{get, get_uuid, sql},
    terminals,
    work::Work,
};
use crate::{Applied, Connect, Connected, NewBatch, StoreError, Target};

/// Replacements of one id within this time count together.
const FLAP_WINDOW_MS: i64 = 60_000;
/// More of them than this are flapping.
const FLAP_MAX: i64 = 6;
/// How long newcomers are refused then.
const FLAP_PENALTY_MS: i64 = 60_000;

/// Which of these hosts' rows still name a connection: a new one replaces it.
pub const NAMED: &str = "SELECT id FROM hosts WHERE connected = 1 AND id IN (SELECT value FROM json_each($1))";

/// $1: host, key version, secure, gateway; $3: the window, $4: the most replacements in it, $5: the penalty.
pub const CONNECT: &str = "UPDATE hosts SET epoch = epoch + 1, secure = v.secure, gateway_id = v.gateway_id, \
     connected_at = $2, last_seen_at = $2, disconnected_at = NULL, connected = 1, \
     replacements = CASE WHEN connected = 0 THEN replacements \
         WHEN $2 - replacements_since > $3 THEN 1 ELSE replacements + 1 END, \
     replacements_since = CASE WHEN connected = 1 AND $2 - replacements_since > $3 THEN $2 ELSE replacements_since END, \
     flapping_until = CASE WHEN connected = 1 AND $2 - replacements_since <= $3 AND replacements + 1 > $4 \
         THEN $2 + $5 ELSE flapping_until END \
     FROM (SELECT value ->> 0 AS id, CAST(value ->> 1 AS BIGINT) AS key_version, \
         CAST(value ->> 2 AS BIGINT) AS secure, value ->> 3 AS gateway_id \
         FROM json_each($1)) AS v \
     WHERE hosts.id = v.id AND hosts.key_version = v.key_version RETURNING hosts.id, epoch, flapping_until";

/// $1: host, epoch. Only who is the newest has anything to end.
pub const DISCONNECT: &str = "UPDATE hosts SET connected = 0, gateway_id = NULL, connected_at = NULL, \
     disconnected_at = $2 FROM (SELECT value ->> 0 AS id, CAST(value ->> 1 AS BIGINT) AS epoch FROM json_each($1)) AS v \
     WHERE hosts.id = v.id AND hosts.epoch = v.epoch AND connected = 1 RETURNING hosts.id, hosts.epoch";

/// $1: host, epoch, secure; $3: the gateway.
pub const ASSERT_HINTS: &str = "UPDATE hosts SET connected = 1, gateway_id = $3, secure = v.secure, \
     connected_at = COALESCE(connected_at, $2), disconnected_at = NULL \
     FROM (SELECT value ->> 0 AS id, CAST(value ->> 1 AS BIGINT) AS epoch, CAST(value ->> 2 AS BIGINT) AS secure \
         FROM json_each($1)) AS v \
     WHERE hosts.id = v.id AND hosts.epoch = v.epoch AND (connected = 0 OR gateway_id <> $3) RETURNING hosts.id";

/// One step along the index a gateway, however many hosts each holds or terminals are open on it.
pub const GATEWAYS: &str = "WITH RECURSIVE named(id) AS (SELECT MIN(gateway_id) FROM hosts WHERE connected = 1 \
     UNION ALL SELECT (SELECT MIN(gateway_id) FROM hosts WHERE connected = 1 AND gateway_id > named.id) FROM named \
     WHERE named.id IS NOT NULL), \
     opened(id) AS (SELECT MIN(gateway_id) FROM terminal_sessions WHERE ended_at IS NULL \
     UNION ALL SELECT (SELECT MIN(gateway_id) FROM terminal_sessions WHERE ended_at IS NULL AND gateway_id > opened.id) \
     FROM opened WHERE opened.id IS NOT NULL) \
     SELECT id FROM named WHERE id IS NOT NULL UNION SELECT id FROM opened WHERE id IS NOT NULL";

pub const CLEAR_HINTS_OF: &str = "UPDATE hosts SET connected = 0, gateway_id = NULL, connected_at = NULL, \
     disconnected_at = $2 WHERE connected = 1 AND gateway_id = $1 RETURNING id";

/// $1: host, key version.
pub const STALE_KEYS: &str = "SELECT v.id FROM (SELECT value ->> 0 AS id, CAST(value ->> 1 AS BIGINT) AS key_version \
         FROM json_each($1)) AS v \
     LEFT JOIN hosts h ON h.id = v.id AND h.key_version = v.key_version WHERE h.id IS NULL";

pub const CLEAR_HINTS: &str = "UPDATE hosts SET connected = 0, gateway_id = NULL, connected_at = NULL, \
     disconnected_at = $1 WHERE connected = 1";

/// Hosts that have not seen the settings their owner wants, and have nothing under way that would tell them. What is under
/// way is looked for by its host: the kind is hidden from the planner.
pub const UNSEEN: &str = "SELECT id, update_interval FROM hosts h WHERE settings_seen < settings_revision \
     AND id IN (SELECT value FROM json_each($1)) \
     AND NOT EXISTS (SELECT 1 FROM commands WHERE host_id = h.id AND final = 0 AND kind || '' = 'settings_update')";

/// A condition on `c`: what a connect may wake.
pub const WAKES: &str = "c.final = 0 AND c.state IN ('waiting', 'sent', 'delivered', 'running') \
     AND c.host_id IN (SELECT value FROM json_each($1)) ORDER BY c.id";

/// A condition on `c`: what waits for these hosts.
pub const WAITS: &str = "c.final = 0 AND c.state = 'waiting' \
     AND c.host_id IN (SELECT value FROM json_each($1)) ORDER BY c.id";

/// Makes each connection its host's newest: one statement for the group.
pub async fn take_epochs<C: Conn>(work: &mut Work<C>, connects: &[Connect]) -> Result<Vec<Connected>, StoreError> {
    work.lock(connects.iter().map(|c| &c.host_id)).await?;
    let replaced: HashSet<Uuid> = work
        .tx
        .all(sql(NAMED).bind(id_list(connects.iter().map(|c| &c.host_id))))
        .await?
        .iter()
        .map(|row| get_uuid(row, "id"))
        .collect::<Result<_, _>>()?;
    let rows: Vec<_> = connects.iter().map(|c| (c.host_id, c.key_version, i64::from(c.secure), c.gateway_id)).collect();
    let rows = work
        .tx
        .all(
            sql(CONNECT)
                .bind(json!(rows).to_string())
                .bind(work.now)
                .bind(FLAP_WINDOW_MS)
                .bind(FLAP_MAX)
                .bind(FLAP_PENALTY_MS),
        )
        .await?;
    let mut epochs = HashMap::with_capacity(rows.len());
    for row in &rows {
        let flapping = get::<i64>(row, "flapping_until")? > work.now;
        epochs.insert(get_uuid(row, "id")?, (get::<i64>(row, "epoch")?, flapping));
    }
    let mut held = terminals::at_agents_by_host(&mut work.tx, id_list(epochs.keys())).await?;
    // Each epoch is given once, whatever the group holds.
    let outcome = |connect: &Connect| match epochs.remove(&connect.host_id) {
        Some((epoch, flapping)) => Connected::Epoch {
            epoch,
            replaced: replaced.contains(&connect.host_id),
            flapping,
            terminals: held.remove(&connect.host_id).unwrap_or_default(),
        },
        None => Connected::Refused,
    };
    Ok(connects.iter().map(outcome).collect())
}

/// A command by `system` for each host that has not seen the settings its owner wants.
pub async fn want_seen<C: Conn>(work: &mut Work<C>, hosts: &[Uuid]) -> Result<(), StoreError> {
    let rows = work.tx.all(sql(UNSEEN).bind(id_list(hosts))).await?;
    let mut by_minutes: BTreeMap<i64, Vec<(Uuid, Uuid)>> = BTreeMap::new();
    for row in rows {
        let fresh = (Uuid::now_v7(), get_uuid(&row, "id")?);
        by_minutes.entry(get(&row, "update_interval")?).or_default().push(fresh);
    }
    for (minutes, fresh) in by_minutes {
        let system = NewBatch {
            id: Uuid::now_v7(),
            kind: Kind::SettingsUpdate,
            payload: json!({ jobs::kinds::settings_update::UPDATE_INTERVAL: minutes }),
            target: Target::Hosts(fresh.iter().map(|(_, host_id)| *host_id).collect()),
            expires_in_ms: 86_400_000,
            spread_ms: None,
            requested_by: "system".to_owned(),
            traceparent: None,
            idempotency: None,
        };
        batch::insert(work, &system, &fresh, 0).await?;
    }
    Ok(())
}

/// Wakes what these hosts' commands wait for, those of [`WAKES`] or [`WAITS`]: after a connect a later statement of the
/// transaction that made them connected. Answers what moved.
pub async fn wake<C: Conn>(
    work: &mut Work<C>,
    which: &'static str,
    hosts: &[Uuid],
    pace_ms: i64,
) -> Result<Vec<Applied>, StoreError> {
    let open = work.read(which, id_list(hosts)).await?;
    let paced = |c: &Command| c.state == State::Waiting && c.kind.spec().paced();
    let n = open.iter().filter(|(c, _)| paced(c)).count();
    let mut slot = match n {
        0 | 1 => work.now,
        n => work.slots(i64::try_from(n).unwrap_or(0), pace_ms).await?,
    };
    let mut woken = Vec::with_capacity(open.len());
    for (command, host) in open {
        let takes_slot = paced(&command);
        let applied = work.step(command, host, &Event::Wake { slot });
        if takes_slot {
            slot += pace_ms;
        }
        if applied.step.moved {
            woken.push(applied);
        }
    }
    Ok(woken)
}

//! Making commands: one statement for many hosts, few tasks.

use std::collections::{HashMap, HashSet};

use jobs::{Kind, State};
use serde_json::json;
use uuid::Uuid;

use super::{
    Conn,
    rows::id_list,
    statement::{get, get_uuid, sql},
    work::{Work, lock_sql},
};
use crate::{
    Created, CreatedCommand, NewBatch, NotCreated, StoreError, Target,
    ports::commands::{CREATED_SHOWN, OPEN_MAX},
};

/// States in which an identical scan serves instead.
pub const TWIN_SCANS: &str = "('queued', 'waiting', 'sending', 'sent', 'delivered', 'running')";
/// States in which an identical command of another kind does: its host has not read it.
pub const TWINS: &str = "('queued', 'waiting', 'sending')";

/// Open commands of these hosts that ask for the same. Looked for by their host: the kind is hidden from the planner, and no
/// order is asked for, or it would walk through all commands of the kind.
pub fn twins_sql(states: &str) -> String {
    format!(
        "SELECT id, host_id, state FROM commands WHERE final = 0 AND kind || '' = $1 AND payload = $2 AND state IN {states} \
         AND cancel_requested_at IS NULL AND host_id IN (SELECT value FROM json_each($3))"
    )
}

pub const OPEN_COUNTS: &str = "SELECT host_id, COUNT(*) AS n FROM commands \
     WHERE final = 0 AND host_id IN (SELECT value FROM json_each($1)) GROUP BY host_id";

/// Rows one INSERT carries.
const ROWS: usize = 1_000;

pub async fn create<C: Conn>(
    work: &mut Work<C>,
    batch: &NewBatch,
    pace_ms: i64,
) -> Result<Result<Created, NotCreated>, StoreError> {
    if let Some(answered) = replay(work, batch).await? {
        return Ok(answered);
    }
    let hosts = match hosts(work, &batch.target).await? {
        Ok(hosts) => hosts,
        Err(missing) => return Ok(Err(NotCreated::UnknownHosts(missing))),
    };
    if batch.kind == Kind::SettingsUpdate {
        want_settings(work, batch, &hosts).await?;
    }
    let open = open_counts(work, &hosts).await?;
    let twins = twins(work, batch, &hosts).await?;
    let mut created = Created { batch_id: batch.id, count: 0, coalesced: 0, skipped: Vec::new(), commands: Vec::new() };
    let mut fresh = Vec::with_capacity(hosts.len());
    for host_id in hosts {
        if let Some(&(id, state)) = twins.get(&host_id) {
            created.coalesced += 1;
            show(&mut created, id, host_id, state);
        } else if open.get(&host_id).is_some_and(|n| *n >= OPEN_MAX) {
            created.skipped.push(host_id);
        } else {
            let id = Uuid::now_v7();
            show(&mut created, id, host_id, State::Queued);
            fresh.push((id, host_id));
        }
    }
    if fresh.is_empty() && created.coalesced == 0 && !created.skipped.is_empty() {
        return Ok(Err(NotCreated::AllFull(created.skipped)));
    }
    created.count = u64::try_from(fresh.len()).unwrap_or(0);
    insert(work, batch, &fresh, pace_ms).await?;
    remember(work, batch, &created).await?;
    Ok(Ok(created))
}

fn show(created: &mut Created, id: Uuid, host_id: Uuid, state: State) {
    if created.commands.len() < CREATED_SHOWN {
        created.commands.push(CreatedCommand { id, host_id, state });
    }
}

/// The answer that the first request with this key got.
async fn replay<C: Conn>(
    work: &mut Work<C>,
    batch: &NewBatch,
) -> Result<Option<Result<Created, NotCreated>>, StoreError> {
    let Some((key, hash)) = &batch.idempotency else {
        return Ok(None);
    };
    let row = work.tx.optional(sql(
        "SELECT request_hash, answer FROM idempotency_keys WHERE username = $1 AND key = $2 AND created_at > $3",
    ).bind(&batch.requested_by).bind(key).bind(work.now - 86_400_000)).await?;
    let Some(row) = row else { return Ok(None) };
    if get::<&str>(&row, "request_hash")? != hash {
        return Ok(Some(Err(NotCreated::OtherRequest)));
    }
    let answer = serde_json::from_str(get(&row, "answer")?).map_err(|e| StoreError::Corrupt(format!("answer: {e}")))?;
    Ok(Some(Ok(answer)))
}

async fn remember<C: Conn>(work: &mut Work<C>, batch: &NewBatch, created: &Created) -> Result<(), StoreError> {
    let Some((key, hash)) = &batch.idempotency else {
        return Ok(());
    };
    let answer = serde_json::to_string(created).map_err(|e| StoreError::Corrupt(e.to_string()))?;
    work.tx.run(sql(
        "INSERT INTO idempotency_keys (username, key, request_hash, answer, created_at) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (username, key) DO UPDATE SET request_hash = excluded.request_hash, answer = excluded.answer, \
         created_at = excluded.created_at",
    ).bind(&batch.requested_by).bind(key).bind(hash).bind(answer).bind(work.now)).await.map(drop)
}

/// The hosts of the batch, locked, in id order, each once; or those that do not exist.
async fn hosts<C: Conn>(work: &mut Work<C>, target: &Target) -> Result<Result<Vec<Uuid>, Vec<Uuid>>, StoreError> {
    let query = match target {
        Target::All => sql(format!("SELECT id FROM hosts ORDER BY id{}", C::LOCK)),
        Target::Hosts(ids) => sql(lock_sql::<C>()).bind(id_list(ids)),
    };
    let rows = work.tx.all(query).await?;
    work.refresh();
    let found: Vec<Uuid> = rows.iter().map(|row| get_uuid(row, "id")).collect::<Result<_, _>>()?;
    if let Target::Hosts(asked) = target {
        let known: HashSet<&Uuid> = found.iter().collect();
        let mut missing: Vec<Uuid> = asked.iter().filter(|id| !known.contains(id)).copied().collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            return Ok(Err(missing));
        }
    }
    Ok(Ok(found))
}

/// The interval is what the host's owner wants from now on, whatever becomes of the frame.
async fn want_settings<C: Conn>(work: &mut Work<C>, batch: &NewBatch, hosts: &[Uuid]) -> Result<(), StoreError> {
    let minutes = batch.payload.get(jobs::kinds::settings_update::UPDATE_INTERVAL);
    work.tx
        .run(
            sql("UPDATE hosts SET update_interval = $1, settings_revision = settings_revision + 1 \
         WHERE id IN (SELECT value FROM json_each($2))")
            .bind(minutes.and_then(serde_json::Value::as_i64))
            .bind(id_list(hosts)),
        )
        .await
        .map(drop)
}

async fn open_counts<C: Conn>(work: &mut Work<C>, hosts: &[Uuid]) -> Result<HashMap<Uuid, i64>, StoreError> {
    work.tx
        .all(sql(OPEN_COUNTS).bind(id_list(hosts)))
        .await?
        .iter()
        .map(|row| Ok((get_uuid(row, "host_id")?, get(row, "n")?)))
        .collect()
}

/// Open commands that do what the batch asks for: a scan in any open state, another kind only while it is not sent.
async fn twins<C: Conn>(
    work: &mut Work<C>,
    batch: &NewBatch,
    hosts: &[Uuid],
) -> Result<HashMap<Uuid, (Uuid, State)>, StoreError> {
    let spec = batch.kind.spec();
    let states = if spec.exclusive() {
        TWIN_SCANS
    } else if spec.repeatable(&batch.payload) {
        TWINS
    } else {
        return Ok(HashMap::new());
    };
    let text = twins_sql(states);
    let rows =
        work.tx.all(sql(text).bind(batch.kind.name()).bind(batch.payload.to_string()).bind(id_list(hosts))).await?;
    let mut oldest: HashMap<Uuid, (Uuid, State)> = HashMap::with_capacity(rows.len());
    for row in &rows {
        let state = State::of_name(get(row, "state")?).ok_or_else(|| StoreError::Corrupt("state".to_owned()))?;
        let (id, host_id) = (get_uuid(row, "id")?, get_uuid(row, "host_id")?);
        let twin = oldest.entry(host_id).or_insert((id, state));
        if id < twin.0 {
            *twin = (id, state);
        }
    }
    Ok(oldest)
}

pub async fn insert<C: Conn>(
    work: &mut Work<C>,
    batch: &NewBatch,
    fresh: &[(Uuid, Uuid)],
    pace_ms: i64,
) -> Result<(), StoreError> {
    let count = i64::try_from(fresh.len()).unwrap_or(i64::MAX);
    // Single commands do not wait for the fleet.
    let (first, gap_ms) = match batch.spread_ms {
        Some(spread) if count > 1 => (work.now, spread / count),
        _ if count > 1 && batch.kind.spec().paced() => (work.slots(count, pace_ms).await?, pace_ms),
        _ => (work.now, 0),
    };
    work.tasks.trace(batch.traceparent.as_deref());
    let expires_at = work.now + batch.expires_in_ms;
    let mut slot = first;
    for chunk in fresh.chunks(ROWS) {
        let mut rows = Vec::with_capacity(chunk.len());
        for (id, host_id) in chunk {
            let expires_at = expires_at.max(slot + 1);
            rows.push(json!([id, host_id, slot, expires_at, (slot + jobs::life::SAFETY_MS).min(expires_at)]));
            work.tasks.add(batch.kind.spec().queue(), *id, slot);
            slot += gap_ms;
        }
        work.tx.run(sql(
            "INSERT INTO commands (id, host_id, not_before, expires_at, next_check_at, batch_id, kind, payload, state, \
             exclusive, queued_at, requested_by, traceparent) \
             SELECT value ->> 0, value ->> 1, CAST(value ->> 2 AS BIGINT), \
             CAST(value ->> 3 AS BIGINT), CAST(value ->> 4 AS BIGINT), $2, $3, $4, 'queued', $5, $6, $7, $8 \
             FROM json_each($1)",
        ).bind(serde_json::Value::from(rows).to_string()).bind(batch.id.to_string()).bind(batch.kind.name()).bind(batch.payload.to_string()).bind(i64::from(batch.kind.spec().exclusive())).bind(work.now).bind(&batch.requested_by).bind(batch.traceparent.as_deref())).await?;
    }
    Ok(())
}

//! Where the queues stand, and which workers live.

use std::borrow::Cow;

use async_trait::async_trait;
use jobs::{Command, Kind, Queue, State, queue::SCHEDULES};
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore, commands,
    rows::{self, COMMAND},
    statement::{Cells, get, get_uuid, sql, uuid},
};
use crate::{ALIVE_MS, Beat, REPORTS_MS, Standing, Status, StoreError, UnderWay};

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// The states of a command that is under way while it is not final.
const ACTIVE: [State; 4] = [State::Sending, State::Sent, State::Delivered, State::Running];

const BEAT: &str = "INSERT INTO worker_processes (id, host, started_at, seen_at) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at";

pub const REPORTER: &str = "SELECT MIN(id) AS id FROM worker_processes WHERE seen_at > $1";

pub const WORKERS: &str =
    "SELECT id, host, started_at FROM worker_processes WHERE seen_at > $1 ORDER BY started_at, id LIMIT $2";

pub const ENDED: &str = "SELECT kind, minute, n FROM command_ends WHERE minute >= $1";

pub const OLD_WORKERS: &str = "DELETE FROM worker_processes WHERE seen_at < $1";

/// The first entry of an index for each kind and state: a search each, however many there are behind it.
pub fn oldest_sql() -> String {
    let one = |kind: Kind, state: State| {
        let (kind, state) = (kind.name(), state.name());
        format!(
            "SELECT '{kind}' AS kind, '{state}' AS state, MIN(id) AS id FROM commands \
             WHERE final = 0 AND kind = '{kind}' AND state = '{state}'"
        )
    };
    let all = Kind::ALL.into_iter().flat_map(|kind| [State::Queued, State::Waiting].map(|state| one(kind, state)));
    all.collect::<Vec<_>>().join(" UNION ALL ")
}

/// The oldest under way of all kinds, out of the oldest of each kind and state.
pub fn under_way_sql() -> String {
    let since: Vec<String> = ACTIVE.iter().map(|s| format!("WHEN '{0}' THEN c.{0}_at", s.name())).collect();
    let parts = Kind::ALL.into_iter().flat_map(|kind| ACTIVE.map(|state| (kind.name(), state.name())));
    let parts: Vec<String> = parts
        .enumerate()
        .map(|(i, (kind, state))| {
            format!(
                "SELECT id FROM (SELECT id FROM commands WHERE final = 0 AND kind = '{kind}' AND state = '{state}' \
                 ORDER BY id LIMIT $1) AS p{i}"
            )
        })
        .collect();
    format!(
        "SELECT c.id, c.kind, c.state, c.host_id, h.name AS host, CASE c.state {} END AS since \
         FROM commands c LEFT JOIN hosts h ON h.id = c.host_id WHERE c.id IN ({}) ORDER BY c.id LIMIT $1",
        since.join(" "),
        parts.join(" UNION ALL ")
    )
}

/// The newest tick of each schedule.
pub fn ticks_sql() -> String {
    let one =
        |name: &str| format!("SELECT '{name}' AS name, MAX(tick) AS tick FROM schedule_ticks WHERE name = '{name}'");
    SCHEDULES.iter().map(|schedule| one(schedule.name)).collect::<Vec<_>>().join(" UNION ALL ")
}

/// How many the statement reads: few numbers, so that each is prepared once, and in the text, so that PostgreSQL plans for
/// that many and not for a part of the table.
const PAGES: [u32; 3] = [10, 100, 1_000];

/// The newest of a queue, out of the newest of each of its kinds.
pub fn newest_sql(queue: Queue, limit: u32) -> String {
    let parts: Vec<String> = queue
        .kinds()
        .enumerate()
        .map(|(i, kind)| {
            format!(
                "SELECT id FROM (SELECT id FROM commands WHERE kind = '{}' ORDER BY id DESC LIMIT {limit}) AS p{i}",
                kind.name()
            )
        })
        .collect();
    format!(
        "SELECT {COMMAND} FROM commands c WHERE c.id IN ({}) ORDER BY c.id DESC LIMIT {limit}",
        parts.join(" UNION ALL ")
    )
}

fn kind(row: &impl Cells) -> Result<Kind, StoreError> {
    let name: &str = get(row, "kind")?;
    Kind::of_name(name).ok_or_else(|| StoreError::Corrupt(format!("kind {name:?}")))
}

fn state(row: &impl Cells) -> Result<State, StoreError> {
    let name: &str = get(row, "state")?;
    State::of_name(name).ok_or_else(|| StoreError::Corrupt(format!("state {name:?}")))
}

fn count(row: &impl Cells) -> Result<u64, StoreError> {
    Ok(u64::try_from(get::<i64>(row, "n")?).unwrap_or(0))
}

fn worker(row: &impl Cells) -> Result<Beat, StoreError> {
    Ok(Beat { id: get_uuid(row, "id")?, host: get(row, "host")?, started_at: get(row, "started_at")? })
}

/// A UUIDv7 begins with the time it was made.
fn made_at(id: Uuid) -> i64 {
    let (secs, nanos) = id.get_timestamp().map_or((0, 0), |t| t.to_unix());
    i64::try_from(secs).unwrap_or(0) * 1_000 + i64::from(nanos / 1_000_000)
}

fn under_way(row: &impl Cells) -> Result<UnderWay, StoreError> {
    let id = get_uuid(row, "id")?;
    let created_at = made_at(id);
    Ok(UnderWay {
        id,
        kind: kind(row)?,
        state: state(row)?,
        host_id: get_uuid(row, "host_id")?,
        host: get(row, "host")?,
        created_at,
        since: get::<Option<i64>>(row, "since")?.unwrap_or(created_at),
    })
}

async fn all<C: Conn, T>(
    tx: &mut C,
    text: impl Into<Cow<'static, str>>,
    args: &[i64],
    read: impl Fn(&C::Row) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError> {
    let statement = args.iter().fold(sql(text), |statement, arg| statement.bind(*arg));
    tx.all(statement).await?.iter().map(read).collect()
}

#[async_trait]
impl<E: Engine> Status for SqlStore<E> {
    async fn beat(&self, worker: &Beat) -> Result<bool, StoreError> {
        let mut tx = self.engine.begin().await?;
        let now = self.now();
        tx.run(sql(BEAT).bind(worker.id.to_string()).bind(&worker.host).bind(worker.started_at).bind(now)).await?;
        let row = tx.one(sql(REPORTER).bind(now - REPORTS_MS)).await?;
        let reports = get_uuid(&row, "id")? == worker.id;
        tx.commit().await?;
        Ok(reports)
    }

    async fn leave(&self, worker: Uuid) -> Result<(), StoreError> {
        self.writer()
            .await?
            .run(sql("DELETE FROM worker_processes WHERE id = $1").bind(worker.to_string()))
            .await
            .map(drop)
    }

    async fn standing(&self, minutes: u32, limit: u32) -> Result<Standing, StoreError> {
        // One transaction: what is counted and what is listed are of one moment.
        let mut tx = self.engine.snapshot().await?;
        let at = self.now();
        let since = at / MINUTE_MS - i64::from(minutes);
        let oldest = |row: &<E::Conn as Conn>::Row| {
            let made = get::<Option<&str>>(row, "id")?.map(uuid).transpose()?.map(made_at);
            Ok(made.map(|made| (kind(row).ok(), state(row).ok(), made)))
        };
        let oldest = all(&mut tx, oldest_sql(), &[], oldest).await?;
        let standing = Standing {
            at,
            counts: all(&mut tx, commands::COUNTS, &[], |row| Ok((kind(row)?, state(row)?, count(row)?))).await?,
            ended: all(&mut tx, ENDED, &[since], |row| Ok((kind(row)?, get(row, "minute")?, count(row)?))).await?,
            oldest: oldest
                .into_iter()
                .flatten()
                .filter_map(|(kind, state, made)| Some((kind?, state?, made)))
                .collect(),
            under_way: all(&mut tx, under_way_sql(), &[limit.into()], under_way).await?,
            workers: all(&mut tx, WORKERS, &[at - ALIVE_MS, limit.into()], worker).await?,
            ticks: all(&mut tx, ticks_sql(), &[], |row| Ok((get(row, "name")?, get::<Option<i64>>(row, "tick")?)))
                .await?
                .into_iter()
                .filter_map(|(name, tick)| Some((name, tick?)))
                .collect(),
        };
        tx.commit().await?;
        Ok(standing)
    }

    async fn queue_commands(&self, queue: Queue, limit: u32) -> Result<Vec<Command>, StoreError> {
        if queue.kinds().next().is_none() {
            return Ok(Vec::new());
        }
        let page = PAGES.into_iter().find(|page| *page >= limit).unwrap_or(PAGES[2]);
        let rows = self.reader().await?.all(sql(newest_sql(queue, page))).await?;
        rows.iter().take(limit as usize).map(rows::command).collect()
    }

    async fn retire_status(&self) -> Result<u64, StoreError> {
        let mut tx = self.engine.begin().await?;
        let before = self.now() - HOUR_MS;
        let mut removed = 0;
        for (text, before) in [(OLD_WORKERS, before), (E::OLD_MINUTES, before / MINUTE_MS)] {
            removed += tx.run(sql(text).bind(before)).await?;
        }
        tx.commit().await?;
        Ok(removed)
    }
}

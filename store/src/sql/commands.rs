//! Commands: events on locked rows.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use jobs::{Command, Deed, Event, HostFacts, Kind, State};
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    rows::{self, COMMAND, id_list},
    statement::{get, get_uuid, sql},
    work::Work,
};
use crate::{Applied, Commands, Created, Due, ListFilter, Listed, NewBatch, NotCreated, Page, StoreError, failpoint};

/// How long a deed may come after its command has ended unconfirmed.
const LATE_MS: i64 = 86_400_000;

/// Due rows, as seen without taking the writer.
pub const DUE: &str = "SELECT id FROM commands WHERE next_check_at <= $1 ORDER BY next_check_at LIMIT $2";

pub const COUNTS: &str = "SELECT kind, state, n FROM command_counts WHERE n > 0";

/// Which of these hosts have a scan under way.
pub const BUSY: &str = "SELECT host_id FROM commands WHERE exclusive = 1 \
     AND state IN ('sending', 'sent', 'delivered', 'running') AND host_id IN (SELECT value FROM json_each($1))";

// Conditions on `c`.
pub const BY_ID: &str = "c.id IN (SELECT value FROM json_each($1))";
pub const OPEN: &str = "c.host_id = $1 AND c.final = 0 ORDER BY c.id";
pub const UNDER_WAY: &str =
    "c.host_id = $1 AND c.final = 0 AND c.state IN ('sending', 'sent', 'delivered', 'running') ORDER BY c.id";
pub const LATELY_UNCONFIRMED: &str = "c.id IN (SELECT id FROM commands WHERE host_id = $1 ORDER BY id DESC LIMIT 20) \
     AND c.state = 'unconfirmed' ORDER BY c.id";

/// A page of a list, and what to bind from $3 on. One text a combination of filters: each is planned for its own index.
pub fn list_sql(filter: &ListFilter) -> (String, Vec<String>) {
    let mut sql = format!("SELECT {COMMAND} FROM commands c WHERE c.id < $1");
    let mut args = Vec::new();
    // Of a batch or a host there are few: their state and kind are hidden from the planner, which would rather walk through
    // all commands of a kind.
    let hidden = if filter.batch_id.is_some() || filter.host_id.is_some() { " || ''" } else { "" };
    let (kind, state) = (format!("kind{hidden}"), format!("state{hidden}"));
    let mut narrow = |column: &str, value: Option<String>| {
        if let Some(value) = value {
            args.push(value);
            sql.push_str(&format!(" AND c.{column} = ${}", args.len() + 2));
        }
    };
    narrow("batch_id", filter.batch_id.map(|id| id.to_string()));
    narrow("host_id", filter.host_id.map(|id| id.to_string()));
    narrow(&state, filter.state.map(|s| s.name().to_owned()));
    narrow(&kind, filter.kind.map(|k| k.name().to_owned()));
    sql.push_str(" ORDER BY c.id DESC LIMIT $2");
    (sql, args)
}

/// A number for a user's key: two keys with one number only wait for each other.
fn number_of(username: &str, key: &str) -> i64 {
    // FNV-1a: the same in every process.
    let bytes = username.bytes().chain([0]).chain(key.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash.cast_signed()
}

async fn busy_hosts<C: Conn>(work: &mut Work<C>, hosts: &HashSet<Uuid>) -> Result<HashSet<Uuid>, StoreError> {
    if hosts.is_empty() {
        return Ok(HashSet::new());
    }
    work.tx.all(sql(BUSY).bind(id_list(hosts))).await?.iter().map(|row| get_uuid(row, "host_id")).collect()
}

#[async_trait]
impl<E: Engine> Commands for SqlStore<E> {
    async fn create(&self, batch: &NewBatch) -> Result<Result<Created, NotCreated>, StoreError> {
        let mut work = match &batch.idempotency {
            // Two requests with one key at once: the second sees what the first made.
            Some((key, _)) => {
                let tx = self.engine.begin_alone(number_of(&batch.requested_by, key)).await?;
                Work::new(tx, self.engine.clock().clone())
            }
            None => self.work().await?,
        };
        let created = super::batch::create(&mut work, batch, self.pace_ms).await?;
        if created.is_ok() {
            self.finish(work).await?;
            failpoint::hit("row_inserted");
        }
        Ok(created)
    }

    async fn command(&self, id: Uuid) -> Result<Option<Command>, StoreError> {
        let text = format!("SELECT {COMMAND} FROM commands c WHERE c.id = $1");
        self.reader().await?.optional(sql(text).bind(id.to_string())).await?.as_ref().map(rows::command).transpose()
    }

    async fn list_commands(
        &self,
        filter: &ListFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Listed>, StoreError> {
        let (text, args) = list_sql(filter);
        let mut query = sql(text).bind(cursor.unwrap_or("~").to_owned()).bind(i64::from(limit) + 1);
        for arg in args {
            query = query.bind(arg);
        }
        let rows = self.reader().await?.all(query).await?;
        let items = rows.iter().map(rows::command).collect::<Result<_, _>>()?;
        Ok(super::page(items, limit, |command: &Command| command.id))
    }

    async fn apply(&self, events: &[(Uuid, Event<'_>)]) -> Result<Vec<Applied>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.work().await?;
        work.lock_of(events.iter().map(|(id, _)| id)).await?;
        let read = work.read(BY_ID, id_list(events.iter().map(|(id, _)| id))).await?;
        let mut rows: HashMap<Uuid, (Command, HostFacts)> = read.into_iter().map(|pair| (pair.0.id, pair)).collect();
        let takers: HashSet<Uuid> = events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Take { .. }))
            .filter_map(|(id, _)| rows.get(id))
            .filter(|(command, _)| command.kind.spec().exclusive())
            .map(|(command, _)| command.host_id)
            .collect();
        let mut busy = busy_hosts(&mut work, &takers).await?;
        // Some row has more than one event: the next goes on from where the one before left it.
        let repeats = rows.len() < events.len();
        let mut applied = Vec::with_capacity(events.len());
        for (id, event) in events {
            let Some((command, host)) = rows.remove(id) else { continue };
            let exclusive = command.kind.spec().exclusive();
            let done = match event {
                Event::Take { .. } => {
                    let blocked = exclusive && busy.contains(&command.host_id);
                    work.step(command, host, &Event::Take { blocked })
                }
                event => work.step(command, host, event),
            };
            if exclusive && done.command.state == State::Sending {
                busy.insert(done.command.host_id);
            }
            if repeats {
                rows.insert(*id, (done.command.clone(), done.host.clone()));
            }
            applied.push(done);
        }
        self.finish(work).await?;
        Ok(applied)
    }

    async fn observe(&self, host_id: Uuid, deeds: &[Deed]) -> Result<Vec<Applied>, StoreError> {
        let mut work = self.work().await?;
        work.lock([&host_id]).await?;
        let applied = observe(&mut work, host_id, deeds).await?;
        self.finish(work).await?;
        Ok(applied)
    }

    async fn claim_due(&self, limit: u32) -> Result<Vec<Due>, StoreError> {
        // Most sweeps find nothing: they look without taking the writer.
        let due = self.reader().await?.all(sql(DUE).bind(self.now()).bind(limit)).await?;
        let ids: Vec<Uuid> = due.iter().map(|row| get_uuid(row, "id")).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.work().await?;
        let mine = work.lock_free(&ids).await?;
        let read = work.read(BY_ID, id_list(&ids)).await?;
        let mut claimed = Vec::with_capacity(read.len());
        for (command, host) in read {
            // Somebody moves this host's commands just now: the next turn looks again. A host that is gone has no lock.
            if mine.as_ref().is_some_and(|mine| !mine.contains(&host.id) && !host.api_id.is_empty()) {
                continue;
            }
            // Another sweep was first, or what the row waited for.
            if command.next_check_at.is_none_or(|at| at > work.now) {
                continue;
            }
            // The look ends the row or sets the time of the next one: that is the claim.
            let applied = work.step(command, host, &Event::Check);
            claimed.push(Due { applied });
        }
        self.finish(work).await?;
        Ok(claimed)
    }

    async fn recover(&self) -> Result<u64, StoreError> {
        let mut work = self.work().await?;
        if let Some(release) = E::RELEASE_TASKS {
            work.tx.run(sql(release)).await?;
        }
        let found = work
            .tx
            .run(
                sql(
                    "UPDATE commands SET next_check_at = $1 WHERE final = 0 AND state IN ('queued', 'sending', 'sent')",
                )
                .bind(work.now),
            )
            .await?;
        self.finish(work).await?;
        Ok(found)
    }

    async fn counts(&self) -> Result<Vec<(Kind, State, u64)>, StoreError> {
        let rows = self.reader().await?.all(sql(COUNTS)).await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let kind = Kind::of_name(get(row, "kind").ok()?)?;
                let state = State::of_name(get(row, "state").ok()?)?;
                Some((kind, state, u64::try_from(get::<i64>(row, "n").ok()?).ok()?))
            })
            .collect())
    }
}

/// Applies deeds to the commands of a host that they may concern: those under way, and those that ended unconfirmed
/// within a day (a late deed is named in their evidence). The host is locked.
pub async fn observe<C: Conn>(work: &mut Work<C>, host_id: Uuid, deeds: &[Deed]) -> Result<Vec<Applied>, StoreError> {
    let mut rows = work.read(UNDER_WAY, host_id.to_string()).await?;
    if deeds.iter().any(|d| !matches!(d, Deed::ScanPhase { .. })) {
        let since = work.now - LATE_MS;
        let ended = work.read(LATELY_UNCONFIRMED, host_id.to_string()).await?;
        rows.extend(ended.into_iter().filter(|(c, _)| c.times.at(State::Unconfirmed).is_some_and(|at| at > since)));
    }
    let mut applied = Vec::new();
    for (mut command, host) in rows {
        let mut changed: Option<Applied> = None;
        for deed in deeds {
            let mut done = work.step(command, host.clone(), &Event::Observe(deed));
            command = done.command.clone();
            if done.step.changed {
                // One that a deed has moved and the next only touched has moved.
                done.step.moved |= changed.is_some_and(|before| before.step.moved);
                changed = Some(done);
            }
        }
        applied.extend(changed);
    }
    Ok(applied)
}

//! Commands: events on locked rows.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use jobs::{Command, Deed, Event, HostFacts, Kind, State};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::{
    SqliteStore,
    rows::{self, COMMAND, get_uuid, id_list},
    unavailable,
    work::Work,
};
use crate::{Applied, Commands, Created, Due, ListFilter, Listed, NewBatch, NotCreated, Page, StoreError, failpoint};

/// How long a deed may come after its command has ended unconfirmed.
const LATE_MS: i64 = 86_400_000;

/// Due rows, as seen without taking the writer.
pub(super) const DUE: &str = "SELECT id FROM commands WHERE next_check_at <= $1 ORDER BY next_check_at LIMIT $2";

pub(super) const COUNTS: &str = "SELECT kind, state, n FROM command_counts WHERE n > 0";

/// Which of these hosts have a scan under way.
pub(super) const BUSY: &str = "SELECT host_id FROM commands WHERE exclusive = 1 \
     AND state IN ('sending', 'sent', 'delivered', 'running') AND host_id IN (SELECT value FROM json_each($1))";

// Conditions on `c`.
pub(super) const BY_ID: &str = "c.id IN (SELECT value FROM json_each($1))";
pub(super) const OPEN: &str = "c.host_id = $1 AND c.final = 0 ORDER BY c.id";
pub(super) const UNDER_WAY: &str =
    "c.host_id = $1 AND c.final = 0 AND c.state IN ('sending', 'sent', 'delivered', 'running') ORDER BY c.id";
pub(super) const LATELY_UNCONFIRMED: &str = "c.id IN (SELECT id FROM commands WHERE host_id = $1 ORDER BY id DESC LIMIT 20) \
     AND c.state = 'unconfirmed' ORDER BY c.id";

/// A page of a list, and what to bind from $3 on. One text a combination of filters: each is planned for its own index.
pub(super) fn list_sql(filter: &ListFilter) -> (String, Vec<String>) {
    let mut sql = format!("SELECT {COMMAND} FROM commands c WHERE c.id < $1");
    let mut args = Vec::new();
    let mut narrow = |column: &str, value: Option<String>| {
        if let Some(value) = value {
            args.push(value);
            sql.push_str(&format!(" AND c.{column} = ${}", args.len() + 2));
        }
    };
    narrow("batch_id", filter.batch_id.map(|id| id.to_string()));
    narrow("host_id", filter.host_id.map(|id| id.to_string()));
    narrow("state", filter.state.map(|s| s.name().to_owned()));
    narrow("kind", filter.kind.map(|k| k.name().to_owned()));
    sql.push_str(" ORDER BY c.id DESC LIMIT $2");
    (sql, args)
}

async fn busy_hosts(work: &mut Work, hosts: &HashSet<Uuid>) -> Result<HashSet<Uuid>, StoreError> {
    if hosts.is_empty() {
        return Ok(HashSet::new());
    }
    sqlx::query(BUSY)
        .bind(id_list(hosts))
        .fetch_all(&mut *work.tx)
        .await
        .map_err(unavailable)?
        .iter()
        .map(|row| get_uuid(row, "host_id"))
        .collect()
}

#[async_trait]
impl Commands for SqliteStore {
    async fn create(&self, batch: &NewBatch) -> Result<Result<Created, NotCreated>, StoreError> {
        let mut work = self.work().await?;
        let created = super::batch::create(&mut work, batch, self.options.pace_ms).await?;
        if created.is_ok() {
            self.finish(work).await?;
            failpoint::hit("row_inserted");
        }
        Ok(created)
    }

    async fn command(&self, id: Uuid) -> Result<Option<Command>, StoreError> {
        let sql = format!("SELECT {COMMAND} FROM commands c WHERE c.id = $1");
        sqlx::query(AssertSqlSafe(sql))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await
            .map_err(unavailable)?
            .as_ref()
            .map(rows::command)
            .transpose()
    }

    async fn list_commands(
        &self,
        filter: &ListFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Listed>, StoreError> {
        let (sql, args) = list_sql(filter);
        let mut query =
            sqlx::query(AssertSqlSafe(sql)).bind(cursor.unwrap_or("~").to_owned()).bind(i64::from(limit) + 1);
        for arg in args {
            query = query.bind(arg);
        }
        let rows = query.fetch_all(&self.readers).await.map_err(unavailable)?;
        let mut items: Vec<Command> = rows.iter().map(rows::command).collect::<Result<_, _>>()?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next_cursor = more.then(|| items.last().map(|c| c.id.to_string())).flatten();
        Ok(Page { items, next_cursor })
    }

    async fn apply(&self, events: &[(Uuid, Event<'_>)]) -> Result<Vec<Applied>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.work().await?;
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
        let applied = observe(&mut work, host_id, deeds).await?;
        self.finish(work).await?;
        Ok(applied)
    }

    async fn claim_due(&self, limit: u32) -> Result<Vec<Due>, StoreError> {
        // Most sweeps find nothing: they look without taking the writer.
        let due = sqlx::query(DUE)
            .bind(self.clock.now_ms())
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        let ids: Vec<Uuid> = due.iter().map(|row| get_uuid(row, "id")).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.work().await?;
        let read = work.read(BY_ID, id_list(&ids)).await?;
        let mut claimed = Vec::with_capacity(read.len());
        for (command, host) in read {
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
        Self::release_tasks(&mut work.tx).await?;
        let found = sqlx::query(
            "UPDATE commands SET next_check_at = $1 WHERE final = 0 AND state IN ('queued', 'sending', 'sent')",
        )
        .bind(work.now)
        .execute(&mut *work.tx)
        .await
        .map_err(unavailable)?;
        self.finish(work).await?;
        Ok(found.rows_affected())
    }

    async fn counts(&self) -> Result<Vec<(Kind, State, u64)>, StoreError> {
        let rows = sqlx::query(COUNTS).fetch_all(&self.readers).await.map_err(unavailable)?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let kind = Kind::of_name(row.try_get("kind").ok()?)?;
                let state = State::of_name(row.try_get("state").ok()?)?;
                Some((kind, state, u64::try_from(row.try_get::<i64, _>("n").ok()?).ok()?))
            })
            .collect())
    }
}

/// Applies deeds to the commands of a host that they may concern: those under way, and those that ended unconfirmed
/// within a day (a late deed is named in their evidence).
pub(super) async fn observe(work: &mut Work, host_id: Uuid, deeds: &[Deed]) -> Result<Vec<Applied>, StoreError> {
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

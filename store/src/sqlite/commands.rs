//! Commands: events on locked rows. The decisions are those of `jobs::life`; here are only the rows.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use jobs::{Command, Deed, Event, HostFacts, Kind, State, life};
use sqlx::{AssertSqlSafe, Row, Sqlite, Transaction, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    SqliteStore,
    queue::Tasks,
    rows::{self, COMMAND, FACTS, get, get_uuid, id_list},
    unavailable,
};
use crate::{Applied, Commands, Created, Due, ListFilter, Listed, NewBatch, NotCreated, Page, StoreError, failpoint};

/// States that hold a host's one place for a scan.
const ACTIVE: &str = "('sending', 'sent', 'delivered', 'running')";

/// A write transaction over commands: what it pushes and rings at its end.
pub(super) struct Work {
    pub tx: Transaction<'static, Sqlite>,
    pub now: i64,
    pub tasks: Tasks,
}

impl Work {
    /// Applies one event to a row that was read in this transaction.
    pub async fn step(
        &mut self,
        mut command: Command,
        host: HostFacts,
        event: &Event<'_>,
    ) -> Result<Applied, StoreError> {
        let step = life::apply(&mut command, &host, event, self.now);
        if step.changed {
            rows::update(&mut self.tx, &command).await?;
        }
        if let Some(at) = step.push_at {
            self.tasks.add(command.kind.spec().queue(), command.id, at);
        }
        if step.ring_next {
            self.ring_next(command.host_id).await?;
        }
        if step.moved && command.state == State::Delivered && command.kind == Kind::SettingsUpdate {
            self.settings_delivered(&command).await?;
        }
        Ok(Applied { command, host, step })
    }

    /// The host's place for a scan is free: the oldest that waits for it is next.
    async fn ring_next(&mut self, host_id: Uuid) -> Result<(), StoreError> {
        let next = sqlx::query(
            "SELECT id, kind, not_before FROM commands WHERE host_id = $1 AND state = 'queued' AND final = 0 \
             AND exclusive = 1 ORDER BY id LIMIT 1",
        )
        .bind(host_id.to_string())
        .fetch_optional(&mut *self.tx)
        .await
        .map_err(unavailable)?;
        if let Some(row) = next {
            let kind: &str = get(&row, "kind")?;
            let kind = Kind::of_name(kind).ok_or_else(|| StoreError::Corrupt("kind".to_owned()))?;
            let at: i64 = get(&row, "not_before")?;
            self.tasks.add(kind.spec().queue(), get_uuid(&row, "id")?, at.max(self.now));
        }
        Ok(())
    }

    async fn settings_delivered(&mut self, command: &Command) -> Result<(), StoreError> {
        let minutes = command.payload.get(jobs::kinds::settings_update::UPDATE_INTERVAL);
        sqlx::query("UPDATE hosts SET settings_seen = settings_revision WHERE id = $1 AND update_interval = $2")
            .bind(command.host_id.to_string())
            .bind(minutes.and_then(serde_json::Value::as_i64))
            .execute(&mut *self.tx)
            .await
            .map(drop)
            .map_err(unavailable)
    }

    /// Reads rows that match a condition on `c`, with their hosts.
    pub async fn read(
        &mut self,
        condition: &'static str,
        argument: String,
    ) -> Result<Vec<(Command, HostFacts)>, StoreError> {
        let sql = format!(
            "SELECT {COMMAND}, {FACTS} FROM commands c LEFT JOIN hosts h ON h.id = c.host_id WHERE {condition}"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(argument)
            .fetch_all(&mut *self.tx)
            .await
            .map_err(unavailable)?
            .iter()
            .map(read_pair)
            .collect()
    }

    /// Which of these hosts have a scan under way.
    async fn busy_hosts(&mut self, hosts: &HashSet<Uuid>) -> Result<HashSet<Uuid>, StoreError> {
        if hosts.is_empty() {
            return Ok(HashSet::new());
        }
        let sql = format!(
            "SELECT host_id FROM commands WHERE exclusive = 1 AND state IN {ACTIVE} \
             AND host_id IN (SELECT value FROM json_each($1))"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(id_list(hosts))
            .fetch_all(&mut *self.tx)
            .await
            .map_err(unavailable)?
            .iter()
            .map(|row| get_uuid(row, "host_id"))
            .collect()
    }

    /// Takes `n` slots of the fleet's pace; the first is returned, the others follow `pace_ms` apart.
    pub async fn slots(&mut self, n: i64, pace_ms: i64) -> Result<i64, StoreError> {
        let row = sqlx::query("UPDATE pace SET next_at = MAX(next_at, $1) + $2 WHERE id = 1 RETURNING next_at")
            .bind(self.now)
            .bind(n * pace_ms)
            .fetch_one(&mut *self.tx)
            .await
            .map_err(unavailable)?;
        Ok(get::<i64>(&row, "next_at")? - n * pace_ms)
    }
}

fn read_pair(row: &SqliteRow) -> Result<(Command, HostFacts), StoreError> {
    let command = rows::command(row)?;
    let facts = rows::facts(row, command.host_id)?;
    Ok((command, facts))
}

impl SqliteStore {
    pub(super) async fn work(&self) -> Result<Work, StoreError> {
        let tx = self.begin().await?;
        let now = self.clock.now_ms();
        Ok(Work { tx, now, tasks: Tasks::new(now) })
    }

    /// Pushes the tasks, commits, and rings for those that are due.
    pub(super) async fn finish(&self, work: Work) -> Result<(), StoreError> {
        let Work { mut tx, tasks, .. } = work;
        let ring = tasks.push(&mut tx).await?;
        tx.commit().await.map_err(unavailable)?;
        if ring {
            self.bell.ring();
        }
        Ok(())
    }
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
        // One text a combination of filters: each is planned for its own index.
        let mut sql = format!("SELECT {COMMAND} FROM commands c WHERE c.id < $1");
        let mut args = vec![cursor.map_or_else(|| "~".to_owned(), str::to_owned)];
        let mut narrow = |column: &str, value: Option<String>| {
            if let Some(value) = value {
                args.push(value);
                sql.push_str(&format!(" AND c.{column} = ${}", args.len()));
            }
        };
        narrow("batch_id", filter.batch_id.map(|id| id.to_string()));
        narrow("host_id", filter.host_id.map(|id| id.to_string()));
        narrow("state", filter.state.map(|s| s.name().to_owned()));
        narrow("kind", filter.kind.map(|k| k.name().to_owned()));
        sql.push_str(&format!(" ORDER BY c.id DESC LIMIT {}", u64::from(limit) + 1));
        let mut query = sqlx::query(AssertSqlSafe(sql));
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
        let read =
            work.read("c.id IN (SELECT value FROM json_each($1))", id_list(events.iter().map(|(id, _)| id))).await?;
        let mut rows: HashMap<Uuid, (Command, HostFacts)> = read.into_iter().map(|pair| (pair.0.id, pair)).collect();
        let takers: HashSet<Uuid> = events
            .iter()
            .filter(|(_, event)| matches!(event, Event::Take { .. }))
            .filter_map(|(id, _)| rows.get(id))
            .filter(|(command, _)| command.kind.spec().exclusive())
            .map(|(command, _)| command.host_id)
            .collect();
        let mut busy = work.busy_hosts(&takers).await?;
        let mut applied = Vec::with_capacity(events.len());
        for (id, event) in events {
            let Some((command, host)) = rows.remove(id) else { continue };
            let exclusive = command.kind.spec().exclusive();
            let done = match event {
                Event::Take { .. } => {
                    let blocked = exclusive && busy.contains(&command.host_id);
                    work.step(command, host, &Event::Take { blocked }).await?
                }
                event => work.step(command, host, event).await?,
            };
            if exclusive && done.command.state == State::Sending {
                busy.insert(done.command.host_id);
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
        let now = self.clock.now_ms();
        let due = sqlx::query("SELECT id FROM commands WHERE next_check_at <= $1 ORDER BY next_check_at LIMIT $2")
            .bind(now)
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
        let ids: Vec<Uuid> = due.iter().map(|row| get_uuid(row, "id")).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.work().await?;
        let read = work.read("c.id IN (SELECT value FROM json_each($1))", id_list(&ids)).await?;
        let mut claimed = Vec::with_capacity(read.len());
        for (mut command, host) in read {
            if command.next_check_at.is_none_or(|at| at > now) {
                continue;
            }
            // Whatever the look decides, nobody else looks for a while.
            command.next_check_at = Some(now + life::CLAIM_MS);
            let applied = work.step(command, host, &Event::Check).await?;
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
        let rows = sqlx::query("SELECT kind, state, n FROM command_counts WHERE n > 0")
            .fetch_all(&self.readers)
            .await
            .map_err(unavailable)?;
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

/// Applies deeds to the commands of a host that they may concern: those under way, and the last of each kind that ended
/// unconfirmed within a day (a late deed is named in its evidence).
pub(super) async fn observe(work: &mut Work, host_id: Uuid, deeds: &[Deed]) -> Result<Vec<Applied>, StoreError> {
    let mut applied = Vec::new();
    let mut rows = work
        .read(
            "c.host_id = $1 AND c.final = 0 AND c.state IN ('sending', 'sent', 'delivered', 'running') ORDER BY c.id",
            host_id.to_string(),
        )
        .await?;
    let ends = deeds.iter().any(|d| !matches!(d, Deed::ScanPhase { .. }));
    if ends {
        let recent = work
            .read(
                "c.id IN (SELECT id FROM commands WHERE host_id = $1 ORDER BY id DESC LIMIT 20) AND c.state = 'unconfirmed'",
                host_id.to_string(),
            )
            .await?;
        rows.extend(recent);
    }
    for (mut command, host) in rows {
        let mut changed = None;
        for deed in deeds {
            let done = work.step(command, host.clone(), &Event::Observe(deed)).await?;
            command = done.command.clone();
            if done.step.changed {
                changed = Some(done);
            }
        }
        applied.extend(changed);
    }
    Ok(applied)
}

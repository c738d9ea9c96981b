//! A write transaction over commands. The decisions are those of `jobs::life`; here they are gathered, and written at
//! the end in few statements: each costs two changes of thread, more than what it does to a row.

use std::collections::{BTreeMap, HashSet};

use jobs::{Command, Event, HostFacts, Kind, State, life};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    rows::{self, COMMAND, FACTS, id_list},
    statement::{Cells, get, get_uuid, sql},
    tasks::Tasks,
};
use crate::{Applied, Clock, StoreError, measure};

/// The oldest scan that is queued, of each of these hosts.
pub const NEXT_SCANS: &str = "SELECT id, kind, not_before FROM commands WHERE id IN (SELECT MIN(id) FROM commands \
     WHERE final = 0 AND state = 'queued' AND exclusive = 1 AND host_id IN (SELECT value FROM json_each($1)) \
     GROUP BY host_id)";

/// These hosts have read these minutes. Older settings that were read late do not count as the newest.
pub const SETTINGS_READ: &str = "UPDATE hosts SET settings_seen = settings_revision \
     FROM (SELECT value ->> 0 AS id, CAST(value ->> 1 AS BIGINT) AS minutes FROM json_each($1)) AS v \
     WHERE hosts.id = v.id AND hosts.update_interval = v.minutes";

/// The fleet's next slots.
pub const SLOTS: &str =
    "UPDATE pace SET next_at = CASE WHEN next_at > $1 THEN next_at ELSE $1 END + $2 WHERE id = 1 RETURNING next_at";

/// Hosts by id, in the order in which every transaction locks them.
pub fn lock_sql<C: Conn>() -> String {
    format!("SELECT id FROM hosts WHERE id IN (SELECT value FROM json_each($1)) ORDER BY id{}", C::LOCK)
}

/// The hosts that a gateway is said to hold.
pub const HELD: &str = "SELECT id FROM hosts WHERE connected = 1 AND gateway_id = $1";

/// The hosts of commands.
pub const LOCK_OF: &str = "SELECT id FROM hosts WHERE id IN (SELECT host_id FROM commands \
     WHERE id IN (SELECT value FROM json_each($1)))";

/// Rows that match a condition on `c`, with their hosts.
pub fn read_sql(condition: &str) -> String {
    format!("SELECT {COMMAND}, {FACTS} FROM commands c LEFT JOIN hosts h ON h.id = c.host_id WHERE {condition}")
}

/// What a transaction writes, pushes and rings at its end.
pub struct Work<C> {
    pub tx: C,
    pub now: i64,
    clock: Clock,
    pub tasks: Tasks,
    /// Rows as they are to be written.
    changed: BTreeMap<Uuid, Command>,
    /// Hosts whose place for a scan may be free.
    free: HashSet<Uuid>,
    /// Hosts that have read settings, and how many minutes these said.
    settings_read: Vec<(Uuid, i64)>,
    /// Commands that have ended, and how.
    ended: Vec<(Uuid, Kind, State)>,
}

impl<E: Engine> SqlStore<E> {
    pub async fn work(&self) -> Result<Work<E::Conn>, StoreError> {
        Ok(Work::new(self.engine.begin().await?, self.engine.clock().clone()))
    }

    /// Writes the rows, pushes the tasks, commits, and rings for those that are due.
    pub async fn finish(&self, mut work: Work<E::Conn>) -> Result<(), StoreError> {
        work.write().await?;
        let Work { mut tx, tasks, ended, now, .. } = work;
        let ring = tasks.push(&mut tx).await?;
        tx.commit().await?;
        for (id, kind, state) in ended {
            measure::ended(id, kind, state, now);
        }
        for queue in ring {
            self.bell.ring(queue);
        }
        Ok(())
    }
}

impl<C: Conn> Work<C> {
    pub fn new(tx: C, clock: Clock) -> Self {
        let now = clock.now_ms();
        Self {
            tx,
            now,
            clock,
            tasks: Tasks::new(now),
            changed: BTreeMap::new(),
            free: HashSet::new(),
            settings_read: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// What was waited for took time: whoever had the rows before wrote later times than our beginning.
    pub fn refresh(&mut self) {
        self.now = self.clock.now_ms();
        self.tasks.begin_at(self.now);
    }

    /// Locks these hosts; before anything else, and once a transaction.
    pub async fn lock(&mut self, hosts: impl IntoIterator<Item = &Uuid>) -> Result<(), StoreError> {
        self.lock_by(lock_sql::<C>(), id_list(hosts)).await
    }

    /// Locks the hosts of these commands.
    pub async fn lock_of(&mut self, commands: impl IntoIterator<Item = &Uuid>) -> Result<(), StoreError> {
        self.lock_by(format!("{LOCK_OF} ORDER BY id{}", C::LOCK), id_list(commands)).await
    }

    /// Locks the hosts that this gateway is said to hold.
    pub async fn lock_held(&mut self, gateway_id: Uuid) -> Result<(), StoreError> {
        self.lock_by(format!("{HELD} ORDER BY id{}", C::LOCK), gateway_id.to_string()).await
    }

    async fn lock_by(&mut self, text: String, argument: String) -> Result<(), StoreError> {
        if !C::LOCK.is_empty() {
            self.tx.all(sql(text).bind(argument)).await?;
            self.refresh();
        }
        Ok(())
    }

    /// Locks the hosts of these commands but those that somebody else is at: answers which it got; `None` is all.
    pub async fn lock_free(
        &mut self,
        commands: impl IntoIterator<Item = &Uuid>,
    ) -> Result<Option<HashSet<Uuid>>, StoreError> {
        if C::LOCK.is_empty() {
            return Ok(None);
        }
        let text = format!("{LOCK_OF} ORDER BY id{} SKIP LOCKED", C::LOCK);
        let rows = self.tx.all(sql(text).bind(id_list(commands))).await?;
        self.refresh();
        rows.iter().map(|row| get_uuid(row, "id")).collect::<Result<_, _>>().map(Some)
    }

    /// Applies one event to a row that was read in this transaction. The row is written when the transaction ends.
    pub fn step(&mut self, mut command: Command, host: HostFacts, event: &Event<'_>) -> Applied {
        let step = life::apply(&mut command, &host, event, self.now);
        if step.changed {
            self.changed.insert(command.id, command.clone());
        }
        if let Some(at) = step.push_at {
            self.tasks.add(command.kind.spec().queue(), command.id, at);
        }
        let ended = step.moved && command.is_final();
        if ended {
            self.ended.push((command.id, command.kind, command.state));
        }
        // A scan that was rung and ends before it began leaves its turn to the next.
        if step.ring_next || (ended && command.kind.spec().exclusive()) {
            self.free.insert(command.host_id);
        }
        if step.moved && command.state == State::Delivered && command.kind == Kind::SettingsUpdate {
            let minutes = command.payload.get(jobs::kinds::settings_update::UPDATE_INTERVAL).and_then(Value::as_i64);
            self.settings_read.extend(minutes.map(|minutes| (command.host_id, minutes)));
        }
        Applied { command, host, step }
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        rows::update(&mut self.tx, self.changed.values()).await?;
        if !self.settings_read.is_empty() {
            self.tx.run(sql(SETTINGS_READ).bind(json!(self.settings_read).to_string())).await?;
        }
        self.ring_next().await
    }

    /// Where the place for a scan is free, the oldest that waits for it is next.
    async fn ring_next(&mut self) -> Result<(), StoreError> {
        if self.free.is_empty() {
            return Ok(());
        }
        let next = self.tx.all(sql(NEXT_SCANS).bind(id_list(&self.free))).await?;
        for row in next {
            let kind: &str = get(&row, "kind")?;
            let kind = Kind::of_name(kind).ok_or_else(|| StoreError::Corrupt("kind".to_owned()))?;
            self.tasks.add(kind.spec().queue(), get_uuid(&row, "id")?, get(&row, "not_before")?);
        }
        Ok(())
    }

    /// Reads rows that match a condition on `c`, with their hosts.
    pub async fn read(
        &mut self,
        condition: &'static str,
        argument: String,
    ) -> Result<Vec<(Command, HostFacts)>, StoreError> {
        self.tx.all(sql(read_sql(condition)).bind(argument)).await?.iter().map(read_pair).collect()
    }

    /// Takes `n` slots of the fleet's pace; the first is returned, the others follow `pace_ms` apart.
    pub async fn slots(&mut self, n: i64, pace_ms: i64) -> Result<i64, StoreError> {
        let row = self.tx.one(sql(SLOTS).bind(self.now).bind(n * pace_ms)).await?;
        Ok(get::<i64>(&row, "next_at")? - n * pace_ms)
    }
}

fn read_pair(row: &impl Cells) -> Result<(Command, HostFacts), StoreError> {
    let command = rows::command(row)?;
    let facts = rows::facts(row, command.host_id)?;
    Ok((command, facts))
}

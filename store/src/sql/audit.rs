//! The audit log. An id is a UUIDv7 of the store's clock, and an entry's time is what its id says: the order of ids is that
//! of time, and a time is a place among the ids.

use async_trait::async_trait;
use serde_json::json;
use uuid::{Builder, Timestamp, Uuid};

use super::{
    Conn, Engine, SqlStore,
    statement::{Cells, get, get_uuid, sql, uuid},
    terminals::mode,
};
use crate::{Audit, AuditFilter, AuditRow, NewAudit, Page, StoreError};

const INSERT: &str = "INSERT INTO audit_log (id, at, event, user_id, username, address, host_id, host_name, session_id, mode, \
     target, reason, duration_ms, bytes_in, bytes_out) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

/// $1: terminal, id of its entry, time; $2: the event. What the entry says is what the terminal's row does.
pub const OF_TERMINALS: &str = "INSERT INTO audit_log (id, at, event, user_id, username, address, host_id, host_name, \
     session_id, mode, target, reason, duration_ms, bytes_in, bytes_out) \
     SELECT v.entry, v.at, CAST($2 AS TEXT), t.user_id, t.username, t.address, t.host_id, t.host_name, t.id, t.mode, t.target, \
         t.reason, t.ended_at - t.connected_at, CASE WHEN t.ended_at IS NULL THEN NULL ELSE t.bytes_in END, \
         CASE WHEN t.ended_at IS NULL THEN NULL ELSE t.bytes_out END \
     FROM (SELECT value ->> 0 AS id, value ->> 1 AS entry, CAST(value ->> 2 AS BIGINT) AS at FROM json_each($1)) AS v \
     JOIN terminal_sessions t ON t.id = v.id";

/// A page of the log, and what to bind from $4 on. $1 and $3 are the places between which it lies, neither included.
pub fn list_sql(filter: &AuditFilter) -> (String, Vec<String>) {
    let mut sql = String::from("SELECT * FROM audit_log a WHERE a.id < $1 AND a.id > $3");
    let mut args = Vec::new();
    // Where a terminal, host or user is asked for, what else is asked for is hidden from the planner: it would rather walk
    // through all entries of an event.
    let mut hidden = "";
    let wanted = [
        ("session_id", filter.session_id.map(|id| id.to_string())),
        ("host_id", filter.host_id.map(|id| id.to_string())),
        ("user_id", filter.user_id.map(|id| id.to_string())),
        ("event", filter.event.clone()),
    ];
    for (column, value) in wanted {
        if let Some(value) = value {
            args.push(value);
            sql.push_str(&format!(" AND a.{column}{hidden} = ${}", args.len() + 3));
            hidden = " || ''";
        }
    }
    sql.push_str(" ORDER BY a.id DESC LIMIT $2");
    (sql, args)
}

/// What is lower than every id of this time, and no lower than any before.
pub fn place(ms: i64) -> String {
    // Of times that no id can have, the nearest that one can.
    let ms = u64::try_from(ms).unwrap_or(0).min((1 << 48) - 1);
    Builder::from_unix_timestamp_millis(ms, &[0; 10]).into_uuid().to_string()
}

fn row(row: &impl Cells) -> Result<AuditRow, StoreError> {
    let id = |column| get::<Option<&str>>(row, column)?.map(uuid).transpose();
    Ok(AuditRow {
        id: get_uuid(row, "id")?,
        at: get(row, "at")?,
        event: get(row, "event")?,
        user_id: id("user_id")?,
        username: get(row, "username")?,
        address: get(row, "address")?,
        host_id: id("host_id")?,
        host_name: get(row, "host_name")?,
        session_id: id("session_id")?,
        mode: get::<Option<&str>>(row, "mode")?.map(mode).transpose()?,
        target: get(row, "target")?,
        reason: get(row, "reason")?,
        duration_ms: get(row, "duration_ms")?,
        bytes_in: get(row, "bytes_in")?,
        bytes_out: get(row, "bytes_out")?,
    })
}

impl<E: Engine> SqlStore<E> {
    /// The id of an entry, and its time.
    fn entry(&self) -> (Uuid, i64) {
        let now = u64::try_from(self.now()).unwrap_or(0);
        let nanos = u32::try_from(now % 1_000 * 1_000_000).unwrap_or(0);
        let id = Uuid::new_v7(Timestamp::from_unix(&self.entries, now / 1_000, nanos));
        let (secs, nanos) = id.get_timestamp().map_or((now / 1_000, nanos), |at| at.to_unix());
        (id, i64::try_from(secs * 1_000 + u64::from(nanos) / 1_000_000).unwrap_or(i64::MAX))
    }

    /// An entry for each of these terminals, in the transaction that changed them.
    pub async fn audit_terminals(&self, tx: &mut E::Conn, event: &'static str, ids: &[Uuid]) -> Result<(), StoreError> {
        let rows: Vec<(Uuid, Uuid, i64)> = ids
            .iter()
            .map(|id| {
                let (entry, at) = self.entry();
                (*id, entry, at)
            })
            .collect();
        tx.run(sql(OF_TERMINALS).bind(json!(rows).to_string()).bind(event)).await.map(drop)
    }
}

#[async_trait]
impl<E: Engine> Audit for SqlStore<E> {
    async fn audit(&self, entry: &NewAudit) -> Result<(), StoreError> {
        let mut tx = self.writer().await?;
        let (id, at) = self.entry();
        let statement = sql(INSERT)
            .bind(id)
            .bind(at)
            .bind(entry.event)
            .bind(entry.user_id)
            .bind(entry.username.as_deref())
            .bind(&entry.address)
            .bind(entry.host_id)
            .bind(entry.host_name.as_deref())
            .bind(entry.session_id)
            .bind(entry.mode.map(|mode| mode.name()))
            .bind(entry.target.as_deref())
            .bind(entry.reason.as_deref())
            .bind(entry.duration_ms)
            .bind(entry.bytes_in)
            .bind(entry.bytes_out);
        tx.run(statement).await.map(drop)
    }

    async fn audits(&self, filter: &AuditFilter) -> Result<Page<AuditRow>, StoreError> {
        let (text, args) = list_sql(filter);
        let mut before = filter.until_ms.map_or_else(|| "~".to_owned(), place);
        if let Some(cursor) = &filter.cursor {
            before = before.min(cursor.clone());
        }
        let from = filter.from_ms.map(place).unwrap_or_default();
        let mut query = sql(text).bind(before).bind(i64::from(filter.limit) + 1).bind(from);
        for arg in args {
            query = query.bind(arg);
        }
        let rows = self.reader().await?.all(query).await?;
        let items = rows.iter().map(row).collect::<Result<_, _>>()?;
        Ok(super::page(items, filter.limit, |entry: &AuditRow| entry.id))
    }
}

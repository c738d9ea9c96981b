//! Terminals. One is opened under its user's lock and its host's, in this order; several are changed in the order of their
//! ids.

use std::collections::HashMap;

use async_trait::async_trait;
use schemas::Generation;
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore, conflict,
    rows::id_list,
    statement::{Cells, get, get_bool, get_uuid, sql},
};
use crate::{
    AT_AGENT_MAX, NewTerminal, Page, StoreError, TerminalEnd, TerminalFilter, TerminalLimits, TerminalMode,
    TerminalOpened, TerminalRow, Terminals,
};

const OPENED: &str = "ssh_terminal_opened";
const CLOSED: &str = "ssh_terminal_closed";

/// Terminals of a dead gateway that one transaction ends.
const ENDED_AT_ONCE: u64 = 256;

/// $1: the user, $2: the host.
pub const OPEN_COUNTS: &str = "SELECT (SELECT COUNT(*) FROM terminal_sessions WHERE ended_at IS NULL AND user_id = $1) AS of_user, \
     (SELECT COUNT(*) FROM terminal_sessions WHERE ended_at IS NULL AND host_id = $2) AS on_host, \
     (SELECT COUNT(*) FROM terminal_sessions WHERE ended_at IS NULL AND host_id = $2 AND mode = 'proxy') AS proxied";

const INSERT: &str = "INSERT INTO terminal_sessions (id, host_id, host_name, user_id, username, address, gateway_id, mode, \
     target, opened_at, at_agent) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

pub const TERMINAL: &str = "SELECT * FROM terminal_sessions WHERE id = $1";

pub const TERMINAL_CONNECTED: &str =
    "UPDATE terminal_sessions SET connected_at = $2 WHERE id = $1 AND connected_at IS NULL AND ended_at IS NULL";

/// The first end wins.
pub const END: &str = "UPDATE terminal_sessions SET ended_at = $2, reason = $3, bytes_in = $4, bytes_out = $5, shed = $6, \
     exit_status = $7 WHERE id = $1 AND ended_at IS NULL";

/// The newest few of each of these hosts: what the window leaves out is few, and is found by host.
pub const AT_AGENTS: &str = "SELECT host_id, id FROM (SELECT host_id, id, \
         ROW_NUMBER() OVER (PARTITION BY host_id ORDER BY id DESC) AS place FROM terminal_sessions \
         WHERE at_agent = 1 AND host_id IN (SELECT value FROM json_each($1))) AS held \
     WHERE place <= $2 ORDER BY host_id, id DESC";

/// The agents of these shells hold them no longer.
pub fn left_sql<C: Conn>() -> String {
    format!(
        "UPDATE terminal_sessions SET at_agent = 0 WHERE id IN (SELECT id FROM terminal_sessions \
         WHERE id IN (SELECT value FROM json_each($1)) AND at_agent = 1 ORDER BY id{})",
        C::LOCK
    )
}

/// Ends some of those that are open, on one gateway ($4) or on any.
pub fn end_some_sql<C: Conn>(of_gateway: bool) -> String {
    let whose = if of_gateway { " AND gateway_id = $4" } else { "" };
    format!(
        "UPDATE terminal_sessions SET ended_at = $1, reason = $2 WHERE ended_at IS NULL AND id IN \
         (SELECT id FROM terminal_sessions WHERE ended_at IS NULL{whose} ORDER BY id LIMIT $3{}) RETURNING id",
        C::LOCK
    )
}

/// A page of terminals, or of those that have a recording, and what to bind from $3 on.
pub fn list_sql(filter: &TerminalFilter, recorded: bool) -> (String, Vec<String>) {
    let mut sql = String::from("SELECT * FROM terminal_sessions t WHERE t.id < $1");
    let mut args = Vec::new();
    let mut narrow = |column: &str, id: Option<Uuid>| {
        if let Some(id) = id {
            args.push(id.to_string());
            sql.push_str(&format!(" AND t.{column} = ${}", args.len() + 2));
        }
    };
    narrow("host_id", filter.host_id);
    narrow("user_id", filter.user_id);
    match filter.open {
        Some(true) => sql.push_str(" AND t.ended_at IS NULL"),
        Some(false) => sql.push_str(" AND t.ended_at IS NOT NULL"),
        None => {}
    }
    if recorded {
        sql.push_str(" AND t.recorded = 1");
    }
    sql.push_str(" ORDER BY t.id DESC LIMIT $2");
    (sql, args)
}

pub fn mode(name: &str) -> Result<TerminalMode, StoreError> {
    TerminalMode::of_name(name).ok_or_else(|| StoreError::Corrupt(format!("mode {name:?}")))
}

pub fn row(row: &impl Cells) -> Result<TerminalRow, StoreError> {
    Ok(TerminalRow {
        id: get_uuid(row, "id")?,
        host_id: get_uuid(row, "host_id")?,
        host_name: get(row, "host_name")?,
        user_id: get_uuid(row, "user_id")?,
        username: get(row, "username")?,
        address: get(row, "address")?,
        gateway_id: get_uuid(row, "gateway_id")?,
        mode: mode(get(row, "mode")?)?,
        target: get(row, "target")?,
        opened_at: get(row, "opened_at")?,
        connected_at: get(row, "connected_at")?,
        ended_at: get(row, "ended_at")?,
        reason: get(row, "reason")?,
        bytes_in: get(row, "bytes_in")?,
        bytes_out: get(row, "bytes_out")?,
        shed: get(row, "shed")?,
        exit_status: get(row, "exit_status")?,
        recorded: get_bool(row, "recorded")?,
    })
}

/// A number for a user, for what only one process does at a time for one: two users with one number only wait for each other.
fn number_of(user_id: Uuid) -> i64 {
    user_id.as_u64_pair().1.cast_signed()
}

/// Those that the agents of these hosts may still hold, newest first.
pub async fn at_agents<C: Conn>(conn: &mut C, hosts: String) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
    let rows = conn.all(sql(AT_AGENTS).bind(hosts).bind(AT_AGENT_MAX)).await?;
    rows.iter().map(|row| Ok((get_uuid(row, "host_id")?, get_uuid(row, "id")?))).collect()
}

/// The same by host, within a transaction.
pub async fn at_agents_by_host<C: Conn>(tx: &mut C, hosts: String) -> Result<HashMap<Uuid, Vec<Uuid>>, StoreError> {
    let mut by_host: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    for (host_id, id) in at_agents(tx, hosts).await? {
        by_host.entry(host_id).or_default().push(id);
    }
    Ok(by_host)
}

impl<E: Engine> SqlStore<E> {
    /// The rows of a page of terminals, one more than it holds.
    pub async fn terminal_rows(
        &self,
        filter: &TerminalFilter,
        recorded: bool,
    ) -> Result<Vec<<E::Conn as Conn>::Row>, StoreError> {
        let (text, args) = list_sql(filter, recorded);
        let mut query = sql(text).bind(filter.cursor.as_deref().unwrap_or("~")).bind(i64::from(filter.limit) + 1);
        for arg in args {
            query = query.bind(arg);
        }
        self.reader().await?.all(query).await
    }

    /// Ends some that are open on this gateway, or on any.
    async fn end_some(&self, gateway_id: Option<Uuid>, reason: &str) -> Result<u64, StoreError> {
        let mut tx = self.engine.begin().await?;
        let mut query = sql(end_some_sql::<E::Conn>(gateway_id.is_some()))
            .bind(self.now())
            .bind(reason)
            .bind(i64::try_from(ENDED_AT_ONCE).unwrap_or(i64::MAX));
        if let Some(gateway_id) = gateway_id {
            query = query.bind(gateway_id);
        }
        let mut ids: Vec<Uuid> =
            tx.all(query).await?.iter().map(|row| get_uuid(row, "id")).collect::<Result<_, _>>()?;
        if ids.is_empty() {
            return Ok(0);
        }
        ids.sort_unstable();
        self.audit_terminals(&mut tx, CLOSED, &ids).await?;
        tx.commit().await?;
        Ok(u64::try_from(ids.len()).unwrap_or(0))
    }
}

#[async_trait]
impl<E: Engine> Terminals for SqlStore<E> {
    async fn open_terminal(&self, new: &NewTerminal, limits: &TerminalLimits) -> Result<TerminalOpened, StoreError> {
        let mut tx = self.engine.begin_alone(number_of(new.user_id)).await?;
        let host = format!(
            "SELECT name, agent_version, ssh_legacy, record_terminals FROM hosts WHERE id = $1{}",
            E::Conn::LOCK
        );
        let host = tx.optional(sql(host).bind(new.host_id)).await?.ok_or(StoreError::Gone)?;
        // Whoever opened one for this user or on this host has committed: a statement of our own sees it.
        let open = tx.one(sql(OPEN_COUNTS).bind(new.user_id).bind(new.host_id)).await?;
        let of_user: i64 = get(&open, "of_user")?;
        if of_user >= limits.per_user {
            return Ok(TerminalOpened::UserFull(of_user));
        }
        let on_host: i64 = get(&open, "on_host")?;
        if on_host >= limits.per_host {
            return Ok(TerminalOpened::HostFull(on_host));
        }
        let proxied = new.mode == TerminalMode::Proxy;
        let version: Option<&str> = get(&host, "agent_version")?;
        let old = version.and_then(Generation::of_version) != Some(Generation::V21);
        let proxied_open: i64 = get(&open, "proxied")?;
        if proxied && old && proxied_open >= limits.proxied_per_old_host {
            return Ok(TerminalOpened::OldAgentFull(proxied_open));
        }
        let insert = sql(INSERT)
            .bind(new.id)
            .bind(new.host_id)
            .bind(get::<&str>(&host, "name")?)
            .bind(new.user_id)
            .bind(&new.username)
            .bind(&new.address)
            .bind(new.gateway_id)
            .bind(new.mode.name())
            .bind(&new.target)
            .bind(self.now())
            .bind(proxied);
        tx.try_run(insert).await.map_err(|e| conflict(e, "a terminal of that id"))?;
        tx.commit().await?;
        let record: Option<i64> = get(&host, "record_terminals")?;
        Ok(TerminalOpened::Opened {
            record: record.map_or(new.record, |record| record != 0),
            legacy_algorithms: get_bool(&host, "ssh_legacy")?,
        })
    }

    async fn terminal_connected(&self, id: Uuid) -> Result<(), StoreError> {
        let mut tx = self.engine.begin().await?;
        if tx.run(sql(TERMINAL_CONNECTED).bind(id).bind(self.now())).await? == 1 {
            self.audit_terminals(&mut tx, OPENED, &[id]).await?;
        }
        tx.commit().await
    }

    async fn end_terminal(&self, id: Uuid, end: &TerminalEnd) -> Result<bool, StoreError> {
        let mut tx = self.engine.begin().await?;
        let query = sql(END)
            .bind(id)
            .bind(self.now())
            .bind(&end.reason)
            .bind(end.bytes_in)
            .bind(end.bytes_out)
            .bind(end.shed)
            .bind(end.exit_status);
        let first = tx.run(query).await? == 1;
        if first {
            self.audit_terminals(&mut tx, CLOSED, &[id]).await?;
        }
        tx.commit().await?;
        Ok(first)
    }

    async fn terminals_left_agent(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.writer().await?.run(sql(left_sql::<E::Conn>()).bind(id_list(ids))).await.map(drop)
    }

    async fn terminals_at_agents(&self, hosts: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
        at_agents(&mut self.reader().await?, id_list(hosts)).await
    }

    async fn end_terminals_of(&self, gateway_id: Option<Uuid>, reason: &str) -> Result<u64, StoreError> {
        let mut ended = 0;
        loop {
            let some = self.end_some(gateway_id, reason).await?;
            ended += some;
            if some < ENDED_AT_ONCE {
                return Ok(ended);
            }
        }
    }

    async fn terminals(&self, filter: &TerminalFilter) -> Result<Page<TerminalRow>, StoreError> {
        let rows = self.terminal_rows(filter, false).await?;
        let items = rows.iter().map(row).collect::<Result<_, _>>()?;
        Ok(super::page(items, filter.limit, |terminal: &TerminalRow| terminal.id))
    }

    async fn terminal(&self, id: Uuid) -> Result<Option<TerminalRow>, StoreError> {
        self.reader().await?.optional(sql(TERMINAL).bind(id)).await?.as_ref().map(row).transpose()
    }
}

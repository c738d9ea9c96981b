//! Rows to values and back.

use std::sync::LazyLock;

use jobs::{
    Command, HostFacts, Kind, State,
    command::{ComplianceMode, Times},
};
use schemas::Generation;
use uuid::Uuid;

use super::{
    Conn,
    statement::{Cells, Statement, Value, get, get_bool, get_uuid, sql, uuid},
};
use crate::{Host, ReportSummaryRow, StoreError};

/// The columns of a command, in the order that [`command`] reads them.
pub const COMMAND: &str = "c.id, c.host_id, c.batch_id, c.kind, c.payload, c.state, c.attempt, c.losses, c.refusals, \
     c.asked_epoch, c.held_epoch, c.not_before, c.expires_at, c.next_check_at, c.cancel_requested_at, c.last_sign_at, \
     c.returned_at, c.queued_at, c.waiting_at, c.sending_at, c.sent_at, c.delivered_at, c.running_at, c.succeeded_at, \
     c.failed_at, c.cancelled_at, c.unconfirmed_at, c.expired_at, c.evidence, c.error, c.notes, c.requested_by, c.traceparent";

/// The columns of a host's facts.
pub const FACTS: &str = "h.id AS h_id, h.api_id, h.epoch, h.connected, h.agent_version, h.docker_enabled, \
     h.compliance_mode, h.openscap_enabled, h.docker_bench_enabled, h.update_interval";

fn json<T: serde::de::DeserializeOwned>(text: &str, column: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt(format!("column {column}: {e}")))
}

pub fn small(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

pub fn command(row: &impl Cells) -> Result<Command, StoreError> {
    let kind: &str = get(row, "kind")?;
    let state: &str = get(row, "state")?;
    let mut times = Times::default();
    for s in State::ALL {
        times.set(s, get(row, &format!("{}_at", s.name()))?);
    }
    let evidence: Option<&str> = get(row, "evidence")?;
    Ok(Command {
        id: get_uuid(row, "id")?,
        host_id: get_uuid(row, "host_id")?,
        batch_id: get_uuid(row, "batch_id")?,
        kind: Kind::of_name(kind).ok_or_else(|| StoreError::Corrupt(format!("kind {kind:?}")))?,
        payload: json(get(row, "payload")?, "payload")?,
        state: State::of_name(state).ok_or_else(|| StoreError::Corrupt(format!("state {state:?}")))?,
        attempt: small(get(row, "attempt")?),
        losses: small(get(row, "losses")?),
        refusals: small(get(row, "refusals")?),
        asked_epoch: get(row, "asked_epoch")?,
        held_epoch: get(row, "held_epoch")?,
        not_before: get(row, "not_before")?,
        expires_at: get(row, "expires_at")?,
        next_check_at: get(row, "next_check_at")?,
        cancel_requested_at: get(row, "cancel_requested_at")?,
        last_sign_at: get(row, "last_sign_at")?,
        returned_at: get(row, "returned_at")?,
        times,
        evidence: evidence.map(|e| json(e, "evidence")).transpose()?,
        error: get(row, "error")?,
        notes: json(get(row, "notes")?, "notes")?,
        requested_by: get(row, "requested_by")?,
        traceparent: get(row, "traceparent")?,
    })
}

/// Facts of the host that `row` was joined with; a host that was removed is offline for ever.
pub fn facts(row: &impl Cells, host_id: Uuid) -> Result<HostFacts, StoreError> {
    if get::<Option<&str>>(row, "h_id")?.is_none() {
        return Ok(HostFacts {
            id: host_id,
            api_id: String::new(),
            epoch: 0,
            connected: false,
            generation: None,
            docker_enabled: false,
            compliance_mode: ComplianceMode::Disabled,
            openscap_enabled: false,
            docker_bench_enabled: false,
            update_interval: 60,
        });
    }
    let version: Option<&str> = get(row, "agent_version")?;
    Ok(HostFacts {
        id: host_id,
        api_id: get(row, "api_id")?,
        epoch: get(row, "epoch")?,
        connected: get_bool(row, "connected")?,
        generation: version.and_then(Generation::of_version),
        docker_enabled: get_bool(row, "docker_enabled")?,
        compliance_mode: ComplianceMode::of_name(get(row, "compliance_mode")?),
        openscap_enabled: get_bool(row, "openscap_enabled")?,
        docker_bench_enabled: get_bool(row, "docker_bench_enabled")?,
        update_interval: minutes(row)?,
    })
}

fn minutes(row: &impl Cells) -> Result<u32, StoreError> {
    u32::try_from(get::<i64>(row, "update_interval")?).map_err(|_| StoreError::Corrupt("update_interval".to_owned()))
}

/// A host, from `SELECT h.*, h.id AS h_id`.
pub fn host(row: &impl Cells) -> Result<Host, StoreError> {
    let id = get_uuid(row, "id")?;
    let gateway: Option<&str> = get(row, "gateway_id")?;
    let reported_at: Option<i64> = get(row, "reported_at")?;
    let report = match reported_at {
        None => None,
        Some(reported_at) => Some(ReportSummaryRow {
            reported_at,
            os_type: get(row, "os_type")?,
            os_version: get(row, "os_version")?,
            hostname: get(row, "hostname")?,
            ip: get(row, "ip")?,
            architecture: get(row, "architecture")?,
            kernel_version: get(row, "kernel_version")?,
            packages: get(row, "packages")?,
            updates: get(row, "updates")?,
            security_updates: get(row, "security_updates")?,
            needs_reboot: get_bool(row, "needs_reboot")?,
            reboot_reason: get(row, "reboot_reason")?,
        }),
    };
    Ok(Host {
        facts: facts(row, id)?,
        name: get(row, "name")?,
        secure: get_bool(row, "secure")?,
        gateway_id: gateway.map(uuid).transpose()?,
        connected_at: get(row, "connected_at")?,
        disconnected_at: get(row, "disconnected_at")?,
        last_seen_at: get(row, "last_seen_at")?,
        agent_version: get(row, "agent_version")?,
        update_interval: minutes(row)?,
        report,
        ssh_legacy_algorithms: get_bool(row, "ssh_legacy")?,
        record_terminals: get::<Option<i64>>(row, "record_terminals")?.map(|record| record != 0),
        created_at: get(row, "created_at")?,
    })
}

/// What of a command may change, in the order that [`bind`] binds it, after its id.
const CHANGING: [&str; 28] = [
    "state",
    "final",
    "attempt",
    "losses",
    "refusals",
    "asked_epoch",
    "held_epoch",
    "not_before",
    "expires_at",
    "next_check_at",
    "cancel_requested_at",
    "last_sign_at",
    "returned_at",
    "evidence",
    "error",
    "notes",
    "ended_at",
    "queued_at",
    "waiting_at",
    "sending_at",
    "sent_at",
    "delivered_at",
    "running_at",
    "succeeded_at",
    "failed_at",
    "cancelled_at",
    "unconfirmed_at",
    "expired_at",
];

/// Rows one statement writes: few shapes, so that each is prepared once. A statement costs two changes of thread, which
/// is more than what it does to a row.
const SHAPES: [usize; 3] = [1, 8, 64];

/// Writes `rows` commands in one statement; rows without an id are none. Every place is used once and in order, so they need
/// no numbers where the engine has none.
pub fn update_sql(rows: usize, numbered: bool) -> String {
    let sets: Vec<String> =
        CHANGING.iter().enumerate().map(|(i, name)| format!("{name} = v.column{}", i + 2)).collect();
    let width = CHANGING.len() + 1;
    let row = |n: usize| {
        let place = |i: usize| if numbered { format!("${}", n * width + i) } else { "?".to_owned() };
        let places: Vec<String> = (1..=width).map(place).collect();
        format!("({})", places.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    let (sets, rows) = (sets.join(", "), rows.join(", "));
    format!("UPDATE commands SET {sets} FROM (VALUES {rows}) AS v WHERE commands.id = v.column1")
}

type Updates = [String; SHAPES.len()];
static NUMBERED: LazyLock<Updates> = LazyLock::new(|| SHAPES.map(|rows| update_sql(rows, true)));
static IN_ORDER: LazyLock<Updates> = LazyLock::new(|| SHAPES.map(|rows| update_sql(rows, false)));

/// Writes everything of these commands that may change.
pub async fn update<'a, C: Conn>(
    tx: &mut C,
    mut commands: impl ExactSizeIterator<Item = &'a Command> + Send,
) -> Result<(), StoreError> {
    let updates = if C::NUMBERED { &NUMBERED } else { &IN_ORDER };
    while commands.len() > 0 {
        let shape = SHAPES.iter().position(|n| *n >= commands.len()).unwrap_or(SHAPES.len() - 1);
        let mut statement = sql(updates[shape].as_str());
        for _ in 0..SHAPES[shape] {
            statement = match commands.next() {
                Some(command) => bind(statement, command)?,
                None => nobody(statement),
            };
        }
        tx.run(statement).await?;
    }
    Ok(())
}

/// A row that is none: its id is null. Each value has its column's type all the same.
fn nobody(statement: Statement) -> Statement {
    let null = |name: &str| if is_text(name) { Value::Text(None) } else { Value::Int(None) };
    names().fold(statement, |statement, name| statement.bind(null(name)))
}

/// What a row of the statement holds.
fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once("id").chain(CHANGING)
}

fn is_text(name: &str) -> bool {
    matches!(name, "id" | "state" | "evidence" | "error" | "notes")
}

fn bind(statement: Statement, c: &Command) -> Result<Statement, StoreError> {
    let unwritable = |e: serde_json::Error| StoreError::Corrupt(e.to_string());
    let evidence = c.evidence.as_ref().map(serde_json::to_string).transpose().map_err(unwritable)?;
    let notes = serde_json::to_string(&c.notes).map_err(unwritable)?;
    let statement = statement
        .bind(c.id.to_string())
        .bind(c.state.name())
        .bind(i64::from(c.is_final()))
        .bind(c.attempt)
        .bind(c.losses)
        .bind(c.refusals)
        .bind(c.asked_epoch)
        .bind(c.held_epoch)
        .bind(c.not_before)
        .bind(c.expires_at)
        .bind(c.next_check_at)
        .bind(c.cancel_requested_at)
        .bind(c.last_sign_at)
        .bind(c.returned_at)
        .bind(evidence)
        .bind(c.error.clone())
        .bind(notes)
        .bind(c.is_final().then(|| c.times.at(c.state)).flatten());
    Ok(State::ALL.iter().fold(statement, |statement, state| statement.bind(c.times.at(*state))))
}

/// A JSON array of ids, for `IN (SELECT value FROM json_each($1))`: one statement whatever their number.
pub fn id_list<'a>(ids: impl IntoIterator<Item = &'a Uuid>) -> String {
    let ids: Vec<String> = ids.into_iter().map(Uuid::to_string).collect();
    serde_json::to_string(&ids).unwrap_or_else(|_| "[]".to_owned())
}

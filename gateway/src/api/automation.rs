//! Queues as upstream's UI knows them (protocol 4.5), and the ticket that opens the dashboard.
//!
//! Upstream counts five states. Ours map to them so: `queued` is waiting; `waiting` (for its agent) is delayed; what is
//! under way (`sending`, `sent`, `delivered`, `running`) is active; `succeeded`, and `delivered` of a kind of which nothing
//! more can be seen, is completed; `failed`, `unconfirmed` and `expired` are failed. `cancelled` is none of them: there a
//! job that is called off is gone. Housekeeping has no commands, so its queue is none of these.

use std::collections::BTreeMap;

use axum::{
    Json as Answer,
    extract::{Path, State},
};
use jobs::{Command, Kind, Queue, State as CommandState};
use schemas::timestamp::rfc3339;
use serde::Serialize;
use serde_json::Value;
use store::NewTicket;
use utoipa::ToSchema;

use super::{body::Query, error::ApiError, key::random_key, session::Caller};
use crate::{App, agent::keys};

/// How long a ticket is good.
pub const TICKET_SECS: i64 = 30;
/// Jobs that are listed when nothing else is asked for.
const JOBS_DEFAULT: u32 = 10;
/// Jobs that failed, or that are open or failed, above which upstream calls the queues unwell.
const FAILED_MAX: u64 = 10;
const JOBS_MAX: u64 = 1_000;

/// A one-time pass.
#[derive(Serialize, ToSchema)]
pub struct Ticket {
    /// 64 hex digits, for `GET /bullboard?ticket=…`.
    ticket: String,
    /// Seconds.
    #[serde(rename = "expiresIn")]
    expires_in: i64,
}

/// A queue's jobs by upstream's states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Stats {
    waiting: u64,
    active: u64,
    completed: u64,
    failed: u64,
    delayed: u64,
}

/// Queues by name.
#[derive(Serialize, ToSchema)]
pub struct QueueStats {
    success: bool,
    #[schema(inline)]
    data: BTreeMap<&'static str, Stats>,
}

/// A command as upstream shows a job.
#[derive(Serialize, ToSchema)]
pub struct Job {
    id: String,
    /// The kind of command.
    name: &'static str,
    /// `waiting`, `delayed`, `active`, `completed`, `failed`, or `cancelled`.
    status: &'static str,
    /// Always null, as are `data` and `returnvalue`: `GET /commands/{id}` has what is known.
    progress: Option<u64>,
    data: Option<Value>,
    returnvalue: Option<Value>,
    #[serde(rename = "failedReason")]
    failed_reason: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(rename = "processedOn")]
    processed_on: Option<i64>,
    /// Milliseconds since the Unix epoch.
    #[serde(rename = "finishedOn")]
    finished_on: Option<i64>,
    /// RFC 3339.
    #[serde(rename = "createdAt")]
    created_at: String,
    #[serde(rename = "attemptsMade")]
    attempts_made: i32,
    /// Milliseconds from when it was made until it may be sent.
    delay: i64,
}

/// The newest jobs of a queue.
#[derive(Serialize, ToSchema)]
pub struct Jobs {
    success: bool,
    data: Vec<Job>,
}

/// How the queues are.
#[derive(Serialize, ToSchema)]
pub struct QueueHealth {
    success: bool,
    data: HealthData,
}

/// How the queues are, by upstream's measure.
#[derive(Serialize, ToSchema)]
pub struct HealthData {
    /// `healthy`, `warning` (more than 1,000 jobs), `error` (more than 10 failed).
    status: &'static str,
    /// Jobs that wait, are active or have failed.
    #[serde(rename = "totalJobs")]
    total_jobs: u64,
    #[schema(inline)]
    queues: BTreeMap<&'static str, Stats>,
    /// RFC 3339.
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

/// It is there.
#[derive(Serialize, ToSchema)]
pub struct Alive {
    status: &'static str,
    /// RFC 3339.
    timestamp: String,
}

/// `POST /automation/bullboard-ticket`.
///
/// # Errors
/// 503 when the store is away.
pub async fn ticket(State(app): State<App>, caller: Caller) -> Result<Answer<Ticket>, ApiError> {
    let ticket = random_key();
    let digest = keys::digest(&ticket).ok_or_else(|| ApiError::Internal("a random key has no digest".to_owned()))?;
    let kept = NewTicket {
        digest,
        user_id: caller.account.id,
        session_id: caller.session_id,
        host_id: None,
        lifetime_ms: TICKET_SECS * 1_000,
    };
    app.store.issue_ticket(&kept).await?;
    Ok(Answer(Ticket { ticket, expires_in: TICKET_SECS }))
}

/// `GET /automation/stats`.
///
/// # Errors
/// 503 when the store is away.
pub async fn stats(State(app): State<App>) -> Result<Answer<QueueStats>, ApiError> {
    Ok(Answer(QueueStats { success: true, data: count(&app).await? }))
}

/// `GET /automation/stats/{queue}`.
///
/// # Errors
/// 400 for a queue that is none, 503 when the store is away.
pub async fn queue_stats(State(app): State<App>, Path(name): Path<String>) -> Result<Answer<QueueStats>, ApiError> {
    let queue = queue(&name)?;
    let mut data = count(&app).await?;
    data.retain(|name, _| *name == queue.name());
    Ok(Answer(QueueStats { success: true, data }))
}

/// `GET /automation/jobs/{queue}?limit=10`.
///
/// # Errors
/// 400 for a queue or a limit that is none, 503 when the store is away.
pub async fn jobs(
    State(app): State<App>,
    Path(name): Path<String>,
    mut query: Query,
) -> Result<Answer<Jobs>, ApiError> {
    let queue = queue(&name)?;
    let limit = query.limit_or(JOBS_DEFAULT)?;
    query.end()?;
    let newest = app.store.queue_commands(queue, limit).await?;
    Ok(Answer(Jobs { success: true, data: newest.iter().map(job).collect() }))
}

/// `GET /automation/health`.
///
/// # Errors
/// 503 when the store is away.
pub async fn health(State(app): State<App>) -> Result<Answer<QueueHealth>, ApiError> {
    let queues = count(&app).await?;
    let timestamp = rfc3339(app.store.clock().now_ms());
    Ok(Answer(QueueHealth { success: true, data: judge(queues, timestamp) }))
}

/// `GET /health`.
pub async fn alive(State(app): State<App>) -> Answer<Alive> {
    Answer(Alive { status: "ok", timestamp: rfc3339(app.store.clock().now_ms()) })
}

fn queue(name: &str) -> Result<Queue, ApiError> {
    Queue::of_name(name).filter(|queue| has_commands(*queue)).ok_or(ApiError::NoQueue)
}

fn has_commands(queue: Queue) -> bool {
    queue.kinds().next().is_some()
}

async fn count(app: &App) -> Result<BTreeMap<&'static str, Stats>, ApiError> {
    Ok(gather(&app.store.counts().await?))
}

fn gather(counts: &[(Kind, CommandState, u64)]) -> BTreeMap<&'static str, Stats> {
    let queues = Queue::ALL.into_iter().filter(|queue| has_commands(*queue));
    let mut all: BTreeMap<_, _> = queues.map(|queue| (queue.name(), Stats::default())).collect();
    for (kind, state, n) in counts {
        let stats = all.entry(kind.spec().queue().name()).or_default();
        match upstream(*kind, *state) {
            "waiting" => stats.waiting += n,
            "delayed" => stats.delayed += n,
            "active" => stats.active += n,
            "completed" => stats.completed += n,
            "failed" => stats.failed += n,
            _ => {}
        }
    }
    all
}

/// What upstream calls it.
fn upstream(kind: Kind, state: CommandState) -> &'static str {
    use CommandState as S;
    match state {
        S::Queued => "waiting",
        S::Waiting => "delayed",
        S::Delivered if !kind.spec().has_deed() => "completed",
        S::Sending | S::Sent | S::Delivered | S::Running => "active",
        S::Succeeded => "completed",
        S::Failed | S::Unconfirmed | S::Expired => "failed",
        S::Cancelled => "cancelled",
    }
}

fn judge(queues: BTreeMap<&'static str, Stats>, timestamp: String) -> HealthData {
    let failed: u64 = queues.values().map(|stats| stats.failed).sum();
    let total_jobs = queues.values().map(|s| s.waiting + s.active + s.delayed + s.failed).sum();
    let (status, message) = if failed > FAILED_MAX {
        ("error", Some("High number of failed jobs"))
    } else if total_jobs > JOBS_MAX {
        ("warning", Some("High number of queued jobs"))
    } else {
        ("healthy", None)
    };
    HealthData { status, total_jobs, queues, timestamp, message }
}

fn job(command: &Command) -> Job {
    let made = jobs::view::created_at(command).unwrap_or(0);
    let ended = command.is_final().then(|| command.times.at(command.state)).flatten();
    let status = upstream(command.kind, command.state);
    Job {
        id: command.id.to_string(),
        name: command.kind.name(),
        status,
        progress: None,
        data: None,
        returnvalue: None,
        failed_reason: command.error.clone().filter(|_| status == "failed"),
        processed_on: command.times.at(CommandState::Sending),
        finished_on: ended,
        created_at: rfc3339(made),
        attempts_made: command.attempt,
        delay: (command.not_before - made).max(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_a_name_of_upstreams() {
        use CommandState as S;
        let counts: Vec<_> = S::ALL.into_iter().map(|state| (Kind::ReportNow, state, 1)).collect();
        let stats = gather(&counts)["agent-commands"];
        assert_eq!(stats, Stats { waiting: 1, active: 4, completed: 1, failed: 3, delayed: 1 });
        // What only has to be read is done when it is read.
        let read = gather(&[(Kind::SettingsUpdate, S::Delivered, 7)]);
        assert_eq!(read["agent-commands"], Stats { completed: 7, ..Stats::default() });
        assert_eq!(read["compliance"], Stats::default());
        assert_eq!(read.len(), 2);
    }

    #[test]
    fn health_is_by_upstreams_measure() {
        let of = |waiting, failed| {
            let stats = Stats { waiting, failed, ..Stats::default() };
            judge(BTreeMap::from([("agent-commands", stats)]), String::new()).status
        };
        assert_eq!(
            [of(0, 0), of(990, 10), of(991, 10), of(0, 11), of(5_000, 11)],
            ["healthy", "healthy", "warning", "error", "error"]
        );
    }

    #[test]
    fn housekeeping_is_no_queue_of_commands() {
        assert!(queue("agent-commands").is_ok() && queue("compliance").is_ok());
        for none in ["maintenance", "", "Compliance", "agent-commands "] {
            assert!(matches!(queue(none), Err(ApiError::NoQueue)), "{none:?}");
        }
    }
}

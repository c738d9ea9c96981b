//! Where the queues stand: what a worker publishes as `queues.status`, answers to `queues.status.ask`, and dashboards show.
//!
//! Times are points in time, not ages: a snapshot of a quiet queue stays the same while its oldest command grows older.
//! An age is `at` minus the time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::timestamp;

/// Most commands under way that a snapshot names.
pub const RUNNING_MAX: usize = 50;
/// Whole minutes of throughput that a snapshot tells, beside the one that is not over.
pub const MINUTES: usize = 10;
/// Most workers that a snapshot names.
pub const WORKERS_MAX: usize = 50;

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStatus {
    /// When it was true.
    #[serde(with = "timestamp")]
    pub at: i64,
    /// The worker that says so.
    pub worker: Uuid,
    /// Each queue of commands.
    pub queues: Vec<QueueStanding>,
    /// Commands under way in all queues.
    pub running_count: u64,
    /// The oldest [`RUNNING_MAX`] of them, the oldest first: what hangs is at the top.
    pub running: Vec<Running>,
    /// Worker processes that were heard of within the last 15 s, the longest running first; at most [`WORKERS_MAX`].
    pub workers: Vec<WorkerAlive>,
    /// The schedules.
    pub schedules: Vec<NextTick>,
}

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStanding {
    /// Its name.
    pub name: String,
    /// Its commands by state, each state named. Those that ended count until retention removes them.
    pub counts: BTreeMap<String, u64>,
    /// Commands that ended, by minute, the oldest minute first: [`MINUTES`] whole ones, then the one that is not over.
    pub ended: Vec<u64>,
    /// When the oldest command that is queued was made.
    #[serde(with = "timestamp::option")]
    pub oldest_queued_at: Option<i64>,
    /// When the oldest command that waits for its agent was made.
    #[serde(with = "timestamp::option")]
    pub oldest_waiting_at: Option<i64>,
}

/// A command under way: being sent, sent, delivered or running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The command.
    pub id: Uuid,
    /// Its queue.
    pub queue: String,
    /// What was asked.
    pub kind: String,
    /// Where it stands.
    pub state: String,
    /// Of which host.
    pub host_id: Uuid,
    /// The host's name; null for a host that was removed.
    pub host: Option<String>,
    /// When it was made.
    #[serde(with = "timestamp")]
    pub created_at: i64,
    /// When it came into this state.
    #[serde(with = "timestamp")]
    pub since: i64,
}

/// A worker process that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAlive {
    /// New at each start.
    pub id: Uuid,
    /// The machine's name.
    pub host: String,
    /// Running since.
    #[serde(with = "timestamp")]
    pub started_at: i64,
}

/// When a schedule is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextTick {
    /// Its name.
    pub name: String,
    /// Seconds between two ticks.
    pub every_secs: i64,
    /// When the period of its last tick began; null before the first one.
    #[serde(with = "timestamp::option")]
    pub last_at: Option<i64>,
    /// When the next one is due.
    #[serde(with = "timestamp")]
    pub next_at: i64,
}

//! Where the queues stand, and which workers live. Cheap however many commands there are: kept counts, and the ends of
//! indexes.

use async_trait::async_trait;
use jobs::{Command, Kind, Queue, State};
use uuid::Uuid;

use crate::StoreError;

/// A worker that was not heard of for so long is dead, milliseconds.
pub const ALIVE_MS: i64 = 15_000;

/// A worker that was not heard of for so long leaves reporting to another, milliseconds.
pub const REPORTS_MS: i64 = 8_000;

/// A worker process says that it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// New at each start, and higher than those of earlier ones.
    pub id: Uuid,
    /// The machine's name.
    pub host: String,
    /// Running since.
    pub started_at: i64,
}

/// Everything that a snapshot of the queues is made of, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The moment.
    pub at: i64,
    /// Commands by kind and state; those of which there are none are left out.
    pub counts: Vec<(Kind, State, u64)>,
    /// Commands that ended, by kind and minute since the Unix epoch; only minutes that were asked for.
    pub ended: Vec<(Kind, i64, u64)>,
    /// The oldest command that is queued, and the oldest that waits, of each kind: when it was made.
    pub oldest: Vec<(Kind, State, i64)>,
    /// The oldest commands under way, the oldest first.
    pub under_way: Vec<UnderWay>,
    /// Workers that live, the longest running first.
    pub workers: Vec<Beat>,
    /// The last tick of each schedule, by its name.
    pub ticks: Vec<(String, i64)>,
}

/// A command under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay {
    /// The command.
    pub id: Uuid,
    /// What was asked.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// Of which host.
    pub host_id: Uuid,
    /// The host's name, unless it was removed.
    pub host: Option<String>,
    /// When it was made.
    pub created_at: i64,
    /// When it came into this state.
    pub since: i64,
}

/// The port.
#[async_trait]
pub trait Status: Send + Sync {
    /// Notes that a worker lives. True for the one that is to report: the longest running of those that were heard of
    /// within [`REPORTS_MS`].
    async fn beat(&self, worker: &Beat) -> Result<bool, StoreError>;

    /// A worker goes, in order: another reports from its next beat on.
    async fn leave(&self, worker: Uuid) -> Result<(), StoreError>;

    /// Where the queues stand: commands that ended in the last `minutes` and this one, at most `limit` commands under way
    /// and as many workers.
    async fn standing(&self, minutes: u32, limit: u32) -> Result<Standing, StoreError>;

    /// The newest commands of a queue, newest first.
    async fn queue_commands(&self, queue: Queue, limit: u32) -> Result<Vec<Command>, StoreError>;

    /// Removes workers that were silent for an hour, and counts of minutes that nobody asks for any more.
    async fn retire_status(&self) -> Result<u64, StoreError>;
}

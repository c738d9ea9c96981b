//! Housekeeping.

use async_trait::async_trait;

use crate::StoreError;

/// How long things are kept, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Final commands and what belongs to them.
    pub commands_ms: i64,
    /// Recordings of terminals that have ended; at most as long as the terminals themselves.
    pub recordings_ms: i64,
    /// Terminals that have ended, and the audit log.
    pub audit_ms: i64,
}

impl Keep {
    /// So many days.
    #[must_use]
    pub fn days(commands: u32, recordings: u32, audit: u32) -> Self {
        const DAY_MS: i64 = 86_400_000;
        let [commands_ms, recordings_ms, audit_ms] = [commands, recordings, audit].map(|days| DAY_MS * i64::from(days));
        Self { commands_ms, recordings_ms, audit_ms }
    }
}

impl Default for Keep {
    fn default() -> Self {
        Self::days(30, 30, 365)
    }
}

/// What retention removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retired {
    /// Final commands.
    pub commands: u64,
    /// Finished tasks of the queue, and workers that are gone.
    pub tasks: u64,
    /// Ended sessions.
    pub sessions: u64,
    /// Old idempotency keys.
    pub keys: u64,
    /// Ended terminals.
    pub terminals: u64,
    /// Chunks of recordings.
    pub chunks: u64,
    /// Recordings of which no chunk is left.
    pub recordings: u64,
    /// Entries of the audit log.
    pub audits: u64,
}

impl Retired {
    /// Rows in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { commands, tasks, sessions, keys, terminals, chunks, recordings, audits } = self;
        commands + tasks + sessions + keys + terminals + chunks + recordings + audits
    }
}

/// The port.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Claims a schedule's tick: true for the first who asks in a period, who also pushed its task.
    async fn tick(&self, schedule: &jobs::queue::Schedule) -> Result<bool, StoreError>;

    /// Removes one batch of what is past retention. Call again until it removes nothing.
    async fn retire(&self, keep: &Keep) -> Result<Retired, StoreError>;

    /// Folds what was counted in passing into totals, a bounded part at a time; nothing where counting needs no folding.
    async fn fold_counts(&self) -> Result<(), StoreError>;

    /// Is the store there? A cheap read.
    async fn ping(&self) -> Result<(), StoreError>;
}

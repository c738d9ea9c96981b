//! Housekeeping.

use async_trait::async_trait;

use crate::StoreError;

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
}

impl Retired {
    /// Rows in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.commands + self.tasks + self.sessions + self.keys
    }
}

/// The port.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Claims a schedule's tick: true for the first who asks in a period, who also pushed its task.
    async fn tick(&self, schedule: &jobs::queue::Schedule) -> Result<bool, StoreError>;

    /// Removes one batch of what is past retention. Call again until it removes nothing.
    async fn retire(&self, keep_ms: i64) -> Result<Retired, StoreError>;

    /// Folds what was counted in passing into totals, a bounded part at a time; nothing where counting needs no folding.
    async fn fold_counts(&self) -> Result<(), StoreError>;

    /// Is the store there? A cheap read.
    async fn ping(&self) -> Result<(), StoreError>;
}

//! The queues, and what a task carries: ids only. The command's row is the truth; a task is the alarm clock that wakes
//! a worker for it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most commands one task carries. They are delivered side by side.
pub const TASK_IDS_MAX: usize = 256;

/// A queue of the executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Queue {
    /// Everything that is asked of a host but scans.
    AgentCommands,
    /// Scans.
    Compliance,
    /// Our own housekeeping.
    Maintenance,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::AgentCommands, Self::Compliance, Self::Maintenance];

    /// The name in the queue's tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentCommands => "agent-commands",
            Self::Compliance => "compliance",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Body of a task of the two command queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliverTask {
    /// The commands to look at.
    pub ids: Vec<Uuid>,
}

/// Body of a task of the maintenance queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceTask {
    /// The schedule's name.
    pub name: String,
}

/// A schedule: at most one tick a period, whoever asks first.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Its name: also the task's.
    pub name: &'static str,
    /// Seconds between ticks.
    pub every_secs: i64,
}

/// Removes what is past retention.
pub const RETENTION: Schedule = Schedule { name: "retention", every_secs: 300 };

/// All schedules.
pub const SCHEDULES: [Schedule; 1] = [RETENTION];

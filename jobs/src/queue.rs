//! The queues, and what a task carries: ids only. The command's row is the truth; a task is the alarm clock that wakes
//! a worker for it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Kind;

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

    /// Reads a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|queue| queue.name() == name)
    }

    /// The kinds of commands that its workers send; none for housekeeping.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| kind.spec().queue() == self)
    }

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

impl Schedule {
    /// When it is due, after its last tick: now, or when the next period begins. Milliseconds since the Unix epoch.
    #[must_use]
    pub fn next_at(&self, last_tick: Option<i64>, now_ms: i64) -> i64 {
        let every_ms = self.every_secs * 1_000;
        let period = now_ms.div_euclid(every_ms);
        if last_tick.is_some_and(|last| last >= period) { (period + 1) * every_ms } else { now_ms }
    }

    /// When the period of a tick began. Milliseconds since the Unix epoch.
    #[must_use]
    pub fn began_at(&self, tick: i64) -> i64 {
        tick * self.every_secs * 1_000
    }
}

/// Removes what is past retention.
pub const RETENTION: Schedule = Schedule { name: "retention", every_secs: 300 };

/// All schedules.
pub const SCHEDULES: [Schedule; 1] = [RETENTION];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_due_once_a_period() {
        let hourly = Schedule { name: "hourly", every_secs: 3_600 };
        const HOUR: i64 = 3_600_000;
        assert_eq!(hourly.next_at(None, 5 * HOUR + 7), 5 * HOUR + 7, "never yet: now");
        assert_eq!(hourly.next_at(Some(4), 5 * HOUR + 7), 5 * HOUR + 7, "nobody took this period's yet");
        assert_eq!(hourly.next_at(Some(5), 5 * HOUR + 7), 6 * HOUR);
        assert_eq!(hourly.began_at(5), 5 * HOUR);
    }

    #[test]
    fn every_kind_is_in_one_queue() {
        let all: usize = Queue::ALL.into_iter().map(|queue| queue.kinds().count()).sum();
        assert_eq!(all, Kind::ALL.len());
        assert_eq!(Queue::of_name("compliance").map(|q| q.kinds().collect()), Some(vec![Kind::ComplianceScan]));
        assert_eq!(Queue::of_name("Compliance"), None);
    }
}

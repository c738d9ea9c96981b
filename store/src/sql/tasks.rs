//! Tasks that a transaction pushes at its end: commands by queue and second, each once, the oldest first.

use std::collections::{BTreeMap, BTreeSet};

use jobs::{
    Queue,
    queue::{DeliverTask, MaintenanceTask, TASK_IDS_MAX},
};
use uuid::Uuid;

use super::{Conn, NewTask};
use crate::StoreError;

#[derive(Default)]
pub struct Tasks {
    due: BTreeMap<(Queue, u64), BTreeSet<Uuid>>,
    trace: Option<String>,
    now: i64,
}

impl Tasks {
    pub fn new(now: i64) -> Self {
        Self { now, ..Self::default() }
    }

    /// The transaction goes on from this time.
    pub fn begin_at(&mut self, now: i64) {
        self.now = now;
    }

    /// All tasks of this transaction belong to this trace.
    pub fn trace(&mut self, traceparent: Option<&str>) {
        self.trace = traceparent.map(str::to_owned);
    }

    pub fn add(&mut self, queue: Queue, id: Uuid, at: i64) {
        // What is due now is due at 0: the queue compares whole seconds of another clock.
        let second = if at <= self.now { 0 } else { u64::try_from(at.div_euclid(1000)).unwrap_or(0) };
        self.due.entry((queue, second)).or_default().insert(id);
    }

    /// Pushes them. Answers the queues to ring for after the commit: those with a task that is due now.
    pub async fn push<C: Conn>(self, tx: &mut C) -> Result<Vec<Queue>, StoreError> {
        let mut by_queue: BTreeMap<Queue, Vec<NewTask>> = BTreeMap::new();
        let mut ring = Vec::new();
        for ((queue, second), ids) in self.due {
            let due = second == 0 || second * 1000 <= u64::try_from(self.now).unwrap_or(0);
            if due && !ring.contains(&queue) {
                ring.push(queue);
            }
            let ids: Vec<Uuid> = ids.into_iter().collect();
            for ids in ids.chunks(TASK_IDS_MAX) {
                let body = json(&DeliverTask { ids: ids.to_vec() })?;
                by_queue.entry(queue).or_default().push(NewTask { body, second, traceparent: self.trace.clone() });
            }
        }
        for (queue, tasks) in by_queue {
            tx.push_tasks(queue, tasks).await?;
        }
        Ok(ring)
    }
}

/// Pushes a maintenance task that is due now.
pub async fn push_maintenance<C: Conn>(tx: &mut C, name: &str) -> Result<(), StoreError> {
    let body = json(&MaintenanceTask { name: name.to_owned() })?;
    tx.push_tasks(Queue::Maintenance, vec![NewTask { body, second: 0, traceparent: None }]).await
}

fn json<T: serde::Serialize>(body: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(body).map_err(|e| StoreError::Corrupt(e.to_string()))
}

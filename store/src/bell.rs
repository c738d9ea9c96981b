//! Wakes the workers of this process when a commit has pushed a task that is due.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Waker},
};

use jobs::Queue;
use parking_lot::Mutex;

/// One bell a queue: a fetch takes the store's one writer, so only the workers that have something to fetch wake. Any
/// number of listeners; a ring that nobody waits for is not lost, its number is remembered.
#[derive(Debug, Default)]
pub struct Bell {
    queues: [One; Queue::ALL.len()],
}

#[derive(Debug, Default)]
struct One {
    rings: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

impl Bell {
    fn of(&self, queue: Queue) -> &One {
        &self.queues[queue as usize]
    }

    /// Rings once.
    pub fn ring(&self, queue: Queue) {
        let one = self.of(queue);
        one.rings.fetch_add(1, Ordering::AcqRel);
        for waker in std::mem::take(&mut *one.waiting.lock()) {
            waker.wake();
        }
    }

    /// How often it has rung for any queue.
    #[must_use]
    pub fn rings(&self) -> u64 {
        Queue::ALL.into_iter().map(|queue| self.rings_for(queue)).sum()
    }

    /// How often it has rung for this one.
    #[must_use]
    pub fn rings_for(&self, queue: Queue) -> u64 {
        self.of(queue).rings.load(Ordering::Acquire)
    }

    /// True when it has rung since `seen`, which is brought up to date; else the task is woken by the next ring.
    pub fn poll(&self, queue: Queue, seen: &mut u64, cx: &Context<'_>) -> bool {
        let mut waiting = self.of(queue).waiting.lock();
        let rings = self.rings_for(queue);
        if rings != *seen {
            *seen = rings;
            return true;
        }
        if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        false
    }
}

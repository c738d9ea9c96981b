//! Wakes the workers of this process when a commit has pushed a task that is due.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Waker},
};

use parking_lot::Mutex;

/// A bell with any number of listeners. A ring that nobody waits for is not lost: its number is remembered.
#[derive(Debug, Default)]
pub struct Bell {
    rings: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

impl Bell {
    /// Rings once.
    pub fn ring(&self) {
        self.rings.fetch_add(1, Ordering::AcqRel);
        for waker in std::mem::take(&mut *self.waiting.lock()) {
            waker.wake();
        }
    }

    /// How often it has rung.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Acquire)
    }

    /// True when it has rung since `seen`, which is brought up to date; else the task is woken by the next ring.
    pub fn poll(&self, seen: &mut u64, cx: &Context<'_>) -> bool {
        let mut waiting = self.waiting.lock();
        let rings = self.rings();
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

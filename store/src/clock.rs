//! The store's clock. It follows the database's where several processes share one; tests may set it forward; for whoever
//! reads it, it never goes back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    hands: Arc<Hands>,
}

#[derive(Debug, Default)]
struct Hands {
    /// Set forward by tests.
    ahead_ms: AtomicI64,
    /// What the clock that is followed shows more than ours.
    offset_ms: AtomicI64,
    /// The latest time that was told.
    told_ms: AtomicI64,
}

impl Clock {
    /// The time.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        let hands = &self.hands;
        let now = self.own_ms() + hands.offset_ms.load(Ordering::Relaxed) + hands.ahead_ms.load(Ordering::Relaxed);
        now.max(hands.told_ms.fetch_max(now, Ordering::Relaxed))
    }

    /// This machine's time, whatever is followed.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the ambient clock")]
    pub fn own_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }

    /// Follows another clock that shows so much more than this machine's.
    pub fn follow(&self, offset_ms: i64) {
        self.hands.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// Sets it forward, for tests of what takes long.
    pub fn advance(&self, ms: i64) {
        self.hands.ahead_ms.fetch_add(ms.max(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn it_follows_another_clock_and_never_goes_back() {
        let clock = Clock::default();
        clock.follow(60_000);
        let ahead = clock.now_ms();
        assert!(ahead >= clock.own_ms() + 59_000);
        clock.follow(0);
        assert!(clock.now_ms() >= ahead);
        clock.follow(120_000);
        assert!(clock.now_ms() >= ahead + 59_000);
    }
}

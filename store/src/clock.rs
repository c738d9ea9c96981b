//! The store's clock. Tests may set it forward; nothing may set it back.

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
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    /// The time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the ambient clock")]
    pub fn now_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX) + self.ahead_ms.load(Ordering::Relaxed)
    }

    /// Sets it forward, for tests of what takes long.
    pub fn advance(&self, ms: i64) {
        self.ahead_ms.fetch_add(ms.max(0), Ordering::Relaxed);
    }
}

//! Is this process alive, and should it be given work? A store that is away changes neither: its requests are answered
//! 503, and moving them to another gateway would not help.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bus::BusStatus;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long the bus may be away before the gateway is given no more work.
const BUS_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of it.
#[derive(Debug, Default)]
pub struct Health {
    started: AtomicBool,
    deaf: AtomicBool,
    bus_closed: AtomicBool,
    bus_down_since: Mutex<Option<Instant>>,
}

impl Health {
    /// Everything runs.
    pub fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// The accept loop ended although nobody asked it to: only a restart helps.
    pub fn accept_loop_died(&self) {
        self.deaf.store(true, Ordering::Relaxed);
    }

    /// The bus changed.
    pub fn bus(&self, status: BusStatus) {
        let mut down_since = self.bus_down_since.lock();
        match status {
            BusStatus::Up => *down_since = None,
            BusStatus::Down => *down_since = down_since.or_else(|| Some(Instant::now())),
            BusStatus::Closed => self.bus_closed.store(true, Ordering::Relaxed),
        }
    }

    /// Why the process must be restarted, if it must.
    #[must_use]
    pub fn dead(&self) -> Option<&'static str> {
        if self.bus_closed.load(Ordering::Relaxed) {
            Some("the bus client is closed")
        } else if self.deaf.load(Ordering::Relaxed) {
            Some("connections are no longer accepted")
        } else {
            None
        }
    }

    /// Why it should be given no work, if so.
    #[must_use]
    pub fn not_ready(&self, draining: bool) -> Option<&'static str> {
        let away = || self.bus_down_since.lock().is_some_and(|since| since.elapsed() > BUS_PATIENCE);
        if draining {
            Some("draining")
        } else if !self.started.load(Ordering::Relaxed) {
            Some("starting")
        } else if self.dead().is_some() {
            self.dead()
        } else if away() {
            Some("the bus is away")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bus_that_is_away_counts_after_a_while() {
        let health = Health::default();
        assert_eq!(health.not_ready(false), Some("starting"));
        health.started();
        assert_eq!(health.not_ready(false), None);
        assert_eq!(health.not_ready(true), Some("draining"));
        health.bus(BusStatus::Down);
        tokio::time::advance(Duration::from_secs(6)).await;
        health.bus(BusStatus::Down);
        assert_eq!(health.not_ready(false), None);
        tokio::time::advance(Duration::from_secs(6)).await;
        assert_eq!(health.not_ready(false), Some("the bus is away"));
        health.bus(BusStatus::Up);
        assert_eq!(health.not_ready(false), None);
        assert_eq!(health.dead(), None);
    }

    #[test]
    fn what_cannot_come_back_is_dead() {
        let health = Health::default();
        health.started();
        health.bus(BusStatus::Closed);
        assert!(health.dead().is_some() && health.not_ready(false).is_some());
        let health = Health::default();
        health.accept_loop_died();
        assert!(health.dead().is_some());
    }
}

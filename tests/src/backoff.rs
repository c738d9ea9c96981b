//! How long an agent waits before it dials again (protocol 6-1).

use std::time::Duration;

use crate::generation::Generation;

/// The last step of the table: 1, 2, 4, 8, 16, 32, 32, …
const LAST_STEP: u32 = 5;

/// The reconnect table of one agent process.
#[derive(Debug, Clone)]
pub struct Backoff {
    generation: Generation,
    unit: Duration,
    step: u32,
}

impl Backoff {
    /// `unit` is the table's second; tests make it shorter.
    pub fn new(generation: Generation, unit: Duration) -> Self {
        Self { generation, unit, step: 0 }
    }

    /// The wait after an upgrade that was refused or never answered.
    pub fn after_failed_dial(&mut self) -> Duration {
        self.climb()
    }

    /// The wait after a session that was once connected. Generation 1.4 climbs on and never starts over, so that after
    /// five losses it waits the full 32 s each time; 2.1 starts over and is back after one.
    pub fn after_session(&mut self) -> Duration {
        match self.generation {
            Generation::V1 => self.climb(),
            Generation::V2 => {
                self.step = 0;
                self.unit
            }
        }
    }

    fn climb(&mut self) -> Duration {
        let wait = self.unit * 2_u32.pow(self.step);
        self.step = (self.step + 1).min(LAST_STEP);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(waits: impl IntoIterator<Item = Duration>) -> Vec<u64> {
        waits.into_iter().map(|wait| wait.as_secs()).collect()
    }

    #[test]
    fn refused_upgrades_climb_to_32_s_in_both_generations() {
        for generation in [Generation::V1, Generation::V2] {
            let mut backoff = Backoff::new(generation, Duration::from_secs(1));
            let waits = seconds((0..8).map(|_| backoff.after_failed_dial()));
            assert_eq!(waits, [1, 2, 4, 8, 16, 32, 32, 32]);
        }
    }

    #[test]
    fn generation_1_4_never_starts_over() {
        // backoff-503-then-ok: three refusals, a session of 5 s, then 8 s of waiting.
        let mut backoff = Backoff::new(Generation::V1, Duration::from_secs(1));
        assert_eq!(seconds((0..3).map(|_| backoff.after_failed_dial())), [1, 2, 4]);
        assert_eq!(seconds((0..4).map(|_| backoff.after_session())), [8, 16, 32, 32]);
    }

    #[test]
    fn generation_2_1_starts_over_after_a_session() {
        let mut backoff = Backoff::new(Generation::V2, Duration::from_secs(1));
        assert_eq!(seconds((0..3).map(|_| backoff.after_failed_dial())), [1, 2, 4]);
        assert_eq!(seconds((0..2).map(|_| backoff.after_session())), [1, 1]);
        // slow-upgrade: the first failed dial after a session waits 1 s as well.
        assert_eq!(seconds((0..2).map(|_| backoff.after_failed_dial())), [1, 2]);
    }
}

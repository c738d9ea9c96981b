//! When the next periodic report is due (protocol 3).

use std::time::Duration;

use tokio::time::Instant;

/// A ticker of `update_interval` minutes whose ticks count only after the host's own offset: it delays the first tick and
/// places none.
#[derive(Debug)]
pub(super) struct Ticks {
    every: Duration,
    next: Instant,
    count_from: Instant,
}

impl Ticks {
    /// From now on. `minute` is how long a minute is in this simulation.
    pub(super) fn start(api_id: &str, interval_minutes: i64, minute: Duration) -> Self {
        let minutes = u32::try_from(interval_minutes.max(1)).unwrap_or(u32::MAX);
        let every = minute.saturating_mul(minutes);
        let now = Instant::now();
        Self {
            every,
            next: now + every,
            count_from: now + minute.mul_f64(offset_secs(api_id, u64::from(minutes)) as f64 / 60.0),
        }
    }

    /// Sleeps until the next tick that counts. Cancel-safe.
    pub(super) async fn next(&mut self) {
        loop {
            tokio::time::sleep_until(self.next).await;
            let tick = self.next;
            self.next = tick + self.every;
            if tick >= self.count_from {
                return;
            }
        }
    }
}

/// FNV-1a of the api_id, modulo an hour in whole minutes, or modulo a shorter interval in seconds.
fn offset_secs(api_id: &str, interval_minutes: u64) -> u64 {
    let hash = api_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    if interval_minutes >= 60 { hash % 60 * 60 } else { hash % (interval_minutes * 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_is_the_one_the_agents_wrote_into_config_yml() {
        // startup: report_offset 120 and 1320.
        assert_eq!(offset_secs("patchmon_1414141414141414", 60), 120);
        assert_eq!(offset_secs("patchmon_2121212121212121", 60), 1320);
    }

    #[tokio::test]
    async fn ticks_before_the_offset_do_not_count() {
        let began = Instant::now();
        let minute = Duration::from_millis(20);
        let mut ticks = Ticks { every: minute, next: began + minute, count_from: began + minute * 5 / 2 };
        ticks.next().await;
        assert!(began.elapsed() >= minute * 3);
        assert_eq!(ticks.next, began + minute * 4);
    }
}

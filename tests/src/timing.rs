//! Every duration an agent lives by, so that a test can shorten them.

use std::time::Duration;

use crate::generation::Generation;

/// One agent's durations. [`Timing::real`] is what was seen on the wire; [`Timing::scaled`] shortens all but the heartbeat
/// and the time-outs, which a server's own clocks answer to.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    /// The back-off table's second (protocol 6-1).
    pub backoff_unit: Duration,
    /// Between two tries of an HTTP call that got no answer (protocol 6-10).
    pub http_retry: Duration,
    /// From the wish for a report to its POST: collecting packages (protocol 1.5).
    pub collect: Duration,
    /// From a report's answer to the version check (protocol 3).
    pub after_report: Duration,
    /// From the first upgrade of a process to its integration-status calls (protocol 3).
    pub first_status: Duration,
    /// From `refresh_integration_status` to its POST (protocol 1.5).
    pub status_check: Duration,
    /// From progress `started` to `evaluating` (protocol 1.5).
    pub scan_setup: Duration,
    /// How long the scanner runs.
    pub scan: Duration,
    /// How long a second scan of a 2.1 agent waits for the first (protocol 1.3).
    pub scan_queue: Duration,
    /// From the start to the first scheduled scan of a 2.1 agent (protocol 3).
    pub first_scheduled_scan: Duration,
    /// How long a 2.1 agent's reader waits for a place in the full inbox before it drops the message (protocol 6-3).
    pub inbox_wait: Duration,
    /// A minute of `update_interval`.
    pub minute: Duration,
    /// From the end of the process to its next start: the unit's RestartSec (protocol 0).
    pub restart: Duration,
    /// Between the agent's own pings (protocol 1.2).
    pub ping_interval: Duration,
    /// Without what re-arms it, the agent hangs up after this (protocol 1.2).
    pub read_deadline: Duration,
    /// For one write on the socket (protocol 1.2).
    pub write_deadline: Duration,
    /// For the answer to an upgrade (protocol 1.1).
    pub handshake: Duration,
    /// For one try of an HTTP call (protocol 6-10).
    pub http_timeout: Duration,
}

impl Timing {
    /// As recorded.
    pub fn real(generation: Generation) -> Self {
        let seconds = Duration::from_secs;
        let millis = Duration::from_millis;
        Self {
            backoff_unit: seconds(1),
            http_retry: seconds(2),
            collect: match generation {
                Generation::V1 => millis(1_800),
                Generation::V2 => seconds(12),
            },
            after_report: seconds(5),
            first_status: seconds(2),
            status_check: millis(200),
            scan_setup: millis(30),
            scan: seconds(10),
            scan_queue: seconds(5),
            first_scheduled_scan: seconds(30),
            inbox_wait: seconds(5),
            minute: seconds(60),
            restart: seconds(10),
            ping_interval: seconds(30),
            read_deadline: seconds(90),
            write_deadline: seconds(5),
            handshake: seconds(45),
            http_timeout: seconds(30),
        }
    }

    /// All but the heartbeat and the time-outs, times `factor`.
    pub fn scaled(mut self, factor: f64) -> Self {
        for duration in [
            &mut self.backoff_unit,
            &mut self.http_retry,
            &mut self.collect,
            &mut self.after_report,
            &mut self.first_status,
            &mut self.status_check,
            &mut self.scan_setup,
            &mut self.scan,
            &mut self.scan_queue,
            &mut self.first_scheduled_scan,
            &mut self.inbox_wait,
            &mut self.minute,
            &mut self.restart,
        ] {
            *duration = duration.mul_f64(factor);
        }
        self
    }

    /// For tests that do not look at the times: a hundredth, but reports still once an hour.
    pub fn fast(generation: Generation) -> Self {
        Self { minute: Duration::from_secs(60), ..Self::real(generation).scaled(0.01) }
    }
}

//! The counts of a fleet: the live line, and the summary at the end.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::log::{ScanOutcome, What};

/// How many of everything, over all agents since the start.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Agents whose process runs.
    pub running: u64,
    /// Agents whose upgrade is under way.
    pub connecting: u64,
    /// Agents with a socket.
    pub connected: u64,
    /// The most that were connected at one time.
    pub connected_max: u64,
    /// Upgrades answered with 101.
    pub connects: u64,
    /// Upgrades that were not, by status; "none" when there was no answer.
    pub refused: BTreeMap<String, u64>,
    /// Connections that ended.
    pub disconnects: u64,
    /// Messages that came.
    pub frames: u64,
    /// The same by `type`.
    pub frames_by_type: BTreeMap<String, u64>,
    /// Messages that came and were lost on the host.
    pub frames_lost: u64,
    /// Messages sent.
    pub sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Server pings that came.
    pub pings: u64,
    /// HTTP calls, retries included.
    pub http_calls: u64,
    /// Those that were not answered with 200.
    pub http_errors: u64,
    /// Answers by status; "none" when there was none.
    pub http_by_status: BTreeMap<String, u64>,
    /// Reports that were accepted.
    pub reports: u64,
    /// Scans that run now.
    pub scans_running: u64,
    /// Scans that began.
    pub scans_started: u64,
    /// Scans that ended with an accepted good result.
    pub scans_succeeded: u64,
    /// Scans that ended with an accepted failed result.
    pub scans_failed: u64,
    /// Scans that ended with an accepted failed result after a cancel.
    pub scans_cancelled: u64,
    /// Scans that ended otherwise: nothing posted, not accepted, or the process died.
    pub scans_lost: u64,
    /// What the chosen misbehaviour did.
    pub misbehaved: u64,
    /// How long upgrades took.
    pub upgrades: Latencies,
}

impl Counts {
    pub(crate) fn take(&mut self, what: &What) {
        let status_name = |status: &Option<u16>| status.map_or_else(|| "none".to_owned(), |status| status.to_string());
        match what {
            What::ProcessStarted => self.running += 1,
            What::ProcessEnded => self.running = self.running.saturating_sub(1),
            What::Connected { micros } => {
                self.connects += 1;
                self.connected += 1;
                self.connected_max = self.connected_max.max(self.connected);
                self.upgrades.add(*micros);
            }
            What::Refused { status, .. } => {
                *self.refused.entry(status_name(status)).or_default() += 1;
            }
            What::Disconnected { .. } => {
                self.disconnects += 1;
                self.connected = self.connected.saturating_sub(1);
            }
            What::Frame { kind, .. } => {
                self.frames += 1;
                *self.frames_by_type.entry(kind.clone()).or_default() += 1;
            }
            What::Lost { .. } => self.frames_lost += 1,
            What::Sent { bytes, .. } => {
                self.sent += 1;
                self.bytes_sent += *bytes as u64;
            }
            What::Http { status, .. } => {
                self.http_calls += 1;
                self.http_errors += u64::from(*status != Some(200));
                *self.http_by_status.entry(status_name(status)).or_default() += 1;
            }
            What::Reported => self.reports += 1,
            What::ScanStarted { .. } => {
                self.scans_started += 1;
                self.scans_running += 1;
            }
            What::ScanEnded { outcome, .. } => {
                self.scans_running = self.scans_running.saturating_sub(1);
                match outcome {
                    ScanOutcome::Succeeded => self.scans_succeeded += 1,
                    ScanOutcome::Failed => self.scans_failed += 1,
                    ScanOutcome::Cancelled => self.scans_cancelled += 1,
                    ScanOutcome::NoResult | ScanOutcome::NotAccepted | ScanOutcome::Killed => {
                        self.scans_lost += 1;
                    }
                }
            }
            What::Misbehaved { .. } => self.misbehaved += 1,
        }
    }

    /// Upgrades that were not answered with 101.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

impl fmt::Display for Counts {
    /// The live line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "connected {} (connecting {}, refused {}, lost {})  frames {}  reports {}  scans {} running, {} done, \
             {} failed, {} cancelled, {} lost  http {} ({} errors)",
            self.connected,
            self.connecting,
            self.refused_total(),
            self.disconnects,
            self.frames,
            self.reports,
            self.scans_running,
            self.scans_succeeded,
            self.scans_failed,
            self.scans_cancelled,
            self.scans_lost,
            self.http_calls,
            self.http_errors,
        )
    }
}

/// Durations in buckets that each are a tenth wider than the one before: quantiles to within 10 %, in 2 KB.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latencies {
    buckets: BTreeMap<u32, u64>,
    max_micros: u64,
}

impl Latencies {
    fn add(&mut self, micros: u64) {
        let bucket = (micros.max(1) as f64).log(1.1) as u32;
        *self.buckets.entry(bucket).or_default() += 1;
        self.max_micros = self.max_micros.max(micros);
    }

    /// Milliseconds below which this share of the durations lies.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let total: u64 = self.buckets.values().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in &self.buckets {
            seen += count;
            if seen >= wanted {
                let upper = 1.1_f64.powf(f64::from(*bucket) + 1.0);
                return upper.min(self.max_micros as f64) / 1000.0;
            }
        }
        0.0
    }
}

impl Serialize for Latencies {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = |value: f64| (value * 1000.0).round() / 1000.0;
        let map = BTreeMap::from([
            ("p50_ms", millis(self.quantile_ms(0.5))),
            ("p99_ms", millis(self.quantile_ms(0.99))),
            ("max_ms", millis(self.max_micros as f64 / 1000.0)),
        ]);
        map.serialize(serializer)
    }
}

/// What the simulator prints at its end.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The URL the agents went to.
    pub server: String,
    /// How many agents.
    pub agents: usize,
    /// How long they ran.
    pub seconds: f64,
    /// From the start until all were connected for the first time; null if they never were.
    pub all_connected_after_secs: Option<f64>,
    /// The rest.
    #[serde(flatten)]
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_within_a_tenth() {
        let mut latencies = Latencies::default();
        for micros in 1..=10_000 {
            latencies.add(micros);
        }
        let near = |value: f64, wanted: f64| (value - wanted).abs() <= wanted * 0.1;
        assert!(near(latencies.quantile_ms(0.5), 5.0));
        assert!(near(latencies.quantile_ms(0.99), 9.9));
        assert!(latencies.quantile_ms(1.0) <= 10.0);
        assert!(Latencies::default().quantile_ms(0.5).abs() < f64::EPSILON);
    }
}

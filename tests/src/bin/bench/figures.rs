//! What is measured, as it goes into the JSON.

use serde::Serialize;

/// Quantiles in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Millis {
    pub p50: f64,
    pub p99: f64,
}

impl Millis {
    /// Of durations in microseconds; there has to be one.
    pub fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |share: f64| {
            let place = (micros.len() as f64 * share) as usize;
            rounded(micros.get(place.min(micros.len().saturating_sub(1))).copied().unwrap_or(0) as f64 / 1000.0)
        };
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// All agents connect at once.
#[derive(Debug, Clone, Serialize)]
pub struct Storm {
    pub agents: usize,
    pub secs: f64,
    pub handshakes_per_sec: f64,
    pub refused: u64,
}

/// What one more agent adds to the resident memory of those who hold it.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    pub agents: usize,
    /// Processes that hold them.
    pub processes: usize,
    pub idle_kib: f64,
    pub after_60_kb_kib: f64,
    /// What the bus's own process grew by, an agent.
    pub bus_kib: Option<f64>,
}

/// `POST /commands` for one online agent, one at a time.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub commands: usize,
    /// Until the frame is at the agent.
    pub frame_ms: Millis,
    /// Until the request is answered, which is when the command is durable.
    pub answer_ms: Millis,
}

/// One `settings_update` for all.
#[derive(Debug, Clone, Serialize)]
pub struct Crowd {
    pub agents: usize,
    pub answer_secs: f64,
    /// Until every agent has its frame.
    pub frames_secs: f64,
    /// Until every row says delivered.
    pub delivered_secs: f64,
}

/// One command for agents that are on their way back.
#[derive(Debug, Clone, Serialize)]
pub struct MidStorm {
    pub agents: usize,
    pub back_when_asked: u64,
    pub answer_ms: f64,
    pub delivered: usize,
    /// Agents without a frame, or rows that do not say delivered.
    pub lost: usize,
    /// From the request to the last delivery.
    pub last_secs: f64,
}

/// Terminals of one combination.
#[derive(Debug, Clone, Serialize)]
pub struct Terminals {
    /// Keystroke to echo, at an sshd behind the gateway.
    pub direct: Millis,
    /// The same at the same sshd with OpenSSH's client.
    pub bare: Millis,
    /// Through an agent whose shell echoes at once: all of it is ours.
    pub proxied: Millis,
    pub output_mb_per_sec: f64,
    /// What the agent wrote beyond that, as fast as its socket took it.
    pub left_out_mb_per_sec: f64,
    pub ctrl_c_ms: f64,
}

/// One combination.
#[derive(Debug, Clone, Serialize)]
pub struct Patchbay {
    pub storm: Storm,
    pub memory: Memory,
    pub crowd: Crowd,
    pub latency: Latency,
    pub mid_storm: MidStorm,
    /// Share of the cores that others used before each row, in percent.
    pub busy_percent_before: Vec<u64>,
}

/// Another server with sockets.
#[derive(Debug, Clone, Serialize)]
pub struct Sockets {
    pub storm: Storm,
    pub memory: Option<Memory>,
}

/// A queue: from the enqueue to its handler.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    pub concurrency: u64,
    pub handler_ms: Millis,
    pub jobs_per_sec: f64,
}

/// To three digits behind the point.
pub fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

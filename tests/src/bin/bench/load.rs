//! Simulated agents, shared out over the gateways of an installation.

use std::time::Duration;

use anyhow::Context;
use tests::{
    agent::Start,
    credentials::Credentials,
    fleet::{Fleet, Generations, Recipe},
    log::FrameLog,
    server::Server,
    summary::Counts,
};

/// What an agent sends once, before its memory is looked at again.
const BIG_MESSAGE_BYTES: usize = 60 * 1024;
/// Agents whose server costs bcrypt in JavaScript wait long.
const HANDSHAKE: Duration = Duration::from_secs(280);

/// Agents that only keep their sockets.
pub struct Agents {
    fleets: Vec<Fleet>,
    log: FrameLog,
    count: u64,
}

impl Agents {
    /// Starts them in turn on the servers, at once or `rate` of them a second.
    pub fn start(servers: &[Server], hosts: &[Credentials], rate: Option<f64>, log: FrameLog) -> Self {
        let recipe = Recipe { start: Start::Quiet, ..Recipe::new(Generations::Mixed) };
        let mut configs = recipe.agents(hosts);
        for config in &mut configs {
            let timing = std::sync::Arc::make_mut(&mut config.timing);
            timing.handshake = HANDSHAKE;
            timing.http_timeout = HANDSHAKE;
        }
        let mut shares: Vec<Vec<_>> = servers.iter().map(|_| Vec::new()).collect();
        for (index, config) in configs.into_iter().enumerate() {
            shares[index % servers.len()].push(config);
        }
        let rate = rate.map(|rate| rate / servers.len() as f64);
        let fleets = servers.iter().zip(shares);
        let fleets = fleets.map(|(server, share)| Fleet::start(server.clone(), share, rate, log.clone())).collect();
        Self { fleets, log, count: hosts.len() as u64 }
    }

    pub fn log(&self) -> &FrameLog {
        &self.log
    }

    /// Waits until all have their sockets.
    pub async fn connected(&self, patience: Duration) -> anyhow::Result<Counts> {
        self.wait(patience, |counts| counts.connected == self.count).await
    }

    /// Waits until the counts fit.
    pub async fn wait(&self, patience: Duration, fits: impl Fn(&Counts) -> bool) -> anyhow::Result<Counts> {
        let counts = self.log.wait_counts(patience, fits).await;
        counts.with_context(|| format!("not within {patience:?}: {}", self.log.counts()))
    }

    /// Each sends one big message that no server has a use for. Returns when all are written.
    pub async fn send_big(&self, patience: Duration) -> anyhow::Result<()> {
        let head = r#"{"type":"bench_padding","padding":""#;
        let text = format!("{head}{}\"}}", "x".repeat(BIG_MESSAGE_BYTES - head.len() - 2));
        let before = self.log.counts().sent;
        for agent in self.fleets.iter().flat_map(Fleet::agents) {
            agent.send_text(&text).await;
        }
        self.wait(patience, |counts| counts.sent == before + self.count).await?;
        Ok(())
    }

    pub async fn stop(self) {
        for fleet in self.fleets {
            fleet.stop().await;
        }
    }
}

/// Frames of a kind that came.
pub fn frames(counts: &Counts, kind: &str) -> u64 {
    counts.frames_by_type.get(kind).copied().unwrap_or(0)
}

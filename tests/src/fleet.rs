//! Many agents at once.

use std::{collections::HashMap, fmt, net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use serde_json::value::RawValue;

use crate::{
    agent::{Agent, AgentConfig, ComplianceMode, Start},
    credentials::Credentials,
    generation::Generation,
    log::FrameLog,
    loopback,
    misbehaviour::Mix,
    recording,
    server::Server,
    summary::Counts,
    timing::Timing,
};

/// Which generations a fleet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generations {
    /// One only.
    All(Generation),
    /// 1.4 and 2.1 in turn.
    Mixed,
}

impl Generations {
    /// Of agent number `index`.
    pub fn of(self, index: usize) -> Generation {
        match self {
            Self::All(generation) => generation,
            Self::Mixed if index.is_multiple_of(2) => Generation::V1,
            Self::Mixed => Generation::V2,
        }
    }
}

impl FromStr for Generations {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "mixed" => Ok(Self::Mixed),
            text => {
                text.parse().map(Self::All).map_err(|_| format!("unknown generation {text:?}: it is 1.4, 2.1 or mixed"))
            }
        }
    }
}

impl fmt::Display for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All(generation) => generation.name(),
            Self::Mixed => "mixed",
        })
    }
}

/// What the agents of a fleet are like. [`Recipe::agents`] makes their configurations.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Of which generation.
    pub generations: Generations,
    /// On all durations but the heartbeat ([`Timing::scaled`]).
    pub time_scale: f64,
    /// How long a scan takes, whatever the scale.
    pub scan: Option<Duration>,
    /// How long collecting a report takes, whatever the scale.
    pub report: Option<Duration>,
    /// Who does what wrong.
    pub misbehave: Mix,
    /// What they do at their start.
    pub start: Start,
    /// Over how many source addresses they are spread; 0 is one each.
    pub sources: usize,
    /// Packages in a report; None is as recorded (20).
    pub packages: Option<usize>,
    /// `compliance` of config.yml.
    pub compliance: ComplianceMode,
    /// Whether Docker Bench can run.
    pub docker_bench: bool,
    /// Whether they open terminals.
    pub ssh_proxy: bool,
}

impl Recipe {
    /// Well-behaved agents with recorded times and a full start.
    pub fn new(generations: Generations) -> Self {
        Self {
            generations,
            time_scale: 1.0,
            scan: None,
            report: None,
            misbehave: Mix::default(),
            start: Start::Full,
            sources: 0,
            packages: None,
            compliance: ComplianceMode::OnDemand,
            docker_bench: false,
            ssh_proxy: false,
        }
    }

    /// The same a hundred times faster, with scans of 50 ms: for tests.
    pub fn fast(generations: Generations) -> Self {
        Self {
            time_scale: 0.01,
            scan: Some(Duration::from_millis(50)),
            report: Some(Duration::from_millis(20)),
            ..Self::new(generations)
        }
    }

    /// One configuration for each host.
    pub fn agents(&self, hosts: &[Credentials]) -> Vec<AgentConfig> {
        let timing = |generation| {
            let mut timing = Timing::real(generation).scaled(self.time_scale);
            // An interval of minutes stays one: a fleet that reports every 36 s is not what a short back-off is for.
            timing.minute = Duration::from_secs(60);
            timing.scan = self.scan.unwrap_or(timing.scan);
            timing.collect = self.report.unwrap_or(timing.collect);
            Arc::new(timing)
        };
        let packages =
            |generation| -> Option<Arc<RawValue>> { Some(recording::packages(generation, self.packages?)?.into()) };
        let shared =
            [Generation::V1, Generation::V2].map(|generation| (generation, (timing(generation), packages(generation))));
        let shared = HashMap::from(shared);
        hosts
            .iter()
            .enumerate()
            .map(|(index, host)| {
                let generation = self.generations.of(index);
                let (timing, packages) = &shared[&generation];
                AgentConfig {
                    timing: timing.clone(),
                    packages: packages.clone(),
                    misbehaviour: self.misbehave.of(index),
                    start: self.start,
                    source: Some(loopback::source(index, self.sources)),
                    compliance: self.compliance,
                    docker_bench: self.docker_bench,
                    ssh_proxy: self.ssh_proxy,
                    ..AgentConfig::new(host.clone(), generation)
                }
            })
            .collect()
    }
}

/// The counts did not come to what was waited for.
#[derive(Debug, thiserror::Error)]
#[error("not reached within {timeout:?}: {counts}")]
pub struct NotReached {
    /// How long it was waited for.
    pub timeout: Duration,
    /// What was there instead.
    pub counts: Box<Counts>,
}

/// Running agents. Dropping it stops them.
#[derive(Debug)]
pub struct Fleet {
    agents: Vec<Agent>,
    by_api_id: HashMap<String, usize>,
    log: FrameLog,
}

impl Fleet {
    /// Starts all agents, `connect_rate` of them a second (None: at once).
    pub fn start(server: Server, configs: Vec<AgentConfig>, connect_rate: Option<f64>, log: FrameLog) -> Self {
        let server = Arc::new(server);
        let agents: Vec<_> = configs
            .into_iter()
            .enumerate()
            .map(|(index, mut config)| {
                if matches!(server.address.ip(), IpAddr::V6(_)) {
                    config.source = None;
                }
                let delay = connect_rate.map_or(Duration::ZERO, |rate| {
                    Duration::try_from_secs_f64(index as f64 / rate).unwrap_or(Duration::MAX)
                });
                Agent::start_after(delay, config, &server, &log)
            })
            .collect();
        let by_api_id = agents.iter().enumerate().map(|(index, agent)| (agent.api_id().to_owned(), index)).collect();
        Self { agents, by_api_id, log }
    }

    /// All agents, in the order of their configurations.
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    /// One agent.
    pub fn agent(&self, api_id: &str) -> Option<&Agent> {
        self.by_api_id.get(api_id).map(|index| &self.agents[*index])
    }

    /// What really happened.
    pub fn log(&self) -> &FrameLog {
        &self.log
    }

    /// The counts as they are now.
    pub fn counts(&self) -> Counts {
        self.log.counts()
    }

    /// Waits until the counts fit; looks only when one has changed.
    pub async fn wait_until(&self, timeout: Duration, fits: impl Fn(&Counts) -> bool) -> Result<Counts, NotReached> {
        self.log.wait_counts(timeout, fits).await.ok_or_else(|| NotReached { timeout, counts: Box::new(self.counts()) })
    }

    /// Waits until every agent has its socket.
    pub async fn all_connected(&self, timeout: Duration) -> Result<Counts, NotReached> {
        let agents = self.agents.len() as u64;
        self.wait_until(timeout, |counts| counts.connected == agents).await
    }

    /// Ends all agents, without close frames, and waits until they are gone.
    pub async fn stop(self) {
        for agent in &self.agents {
            agent.cancel();
        }
        for agent in self.agents {
            agent.stop().await;
        }
        self.log.flush();
    }
}

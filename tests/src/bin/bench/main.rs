//! `make bench`: the figures of docs/performance.md, measured on this machine, ours and those of others side by side.
//!
//! Figures, not tests: nothing here fails because it is slow. Everything listens on loopback addresses of its own, in temp
//! dirs, and ends with this program.

mod beside;
mod figures;
mod installation;
mod load;
mod machine;
mod measure;
mod process;
mod table;
mod terminal;

use std::{path::PathBuf, process::ExitCode, sync::OnceLock, time::Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use figures::{Patchbay, Queue, Sockets, Terminals};

/// Measures Patchbay on both combinations, and others beside it, and prints one table.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// How many agents; each needs an open file here and in the server (`ulimit -n`)
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    agents: usize,

    /// Only these parts. Default: all
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,

    /// Where the figures go as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// One process, SQLite
    Embedded,
    /// Two gateways and a worker on NATS and PostgreSQL
    Spread,
    /// Terminals on both combinations; needs root, for an sshd of its own
    Terminals,
    /// Node's ws, with and without bcryptjs
    Node,
    /// BullMQ on Redis
    Bullmq,
    /// Bare fastwebsockets
    Floor,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    pub at: String,
    pub cores: usize,
    pub busy_percent_at_start: u64,
    pub agents: usize,
    pub embedded: Option<Patchbay>,
    pub spread: Option<Patchbay>,
    pub terminals_embedded: Option<Terminals>,
    pub terminals_spread: Option<Terminals>,
    pub node_open: Option<Sockets>,
    pub node_bcrypt: Option<Sockets>,
    pub floor: Option<Sockets>,
    pub bullmq: Vec<Queue>,
    pub secs: f64,
}

/// Says on stderr what comes now.
pub fn note(text: &str) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    eprintln!("{:>5} s  {text}", BEGAN.get_or_init(Instant::now).elapsed().as_secs());
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = tokio::select! {
        done = run(arguments) => done,
        // Returning ends the processes.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    raise_open_files()?;
    // target/release/bench: the other programs are beside it, what is fetched is above.
    let binaries = std::env::current_exe()?.parent().context("no folder")?.to_owned();
    let target = binaries.parent().context("no folder")?.to_owned();
    let agents = arguments.agents;
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let began = Instant::now();
    let mut results = Results {
        at: OffsetDateTime::now_utc().format(&Rfc3339)?,
        cores: std::thread::available_parallelism()?.get(),
        busy_percent_at_start: machine::busy_percent().await?,
        agents,
        embedded: None,
        spread: None,
        terminals_embedded: None,
        terminals_spread: None,
        node_open: None,
        node_bcrypt: None,
        floor: None,
        bullmq: Vec::new(),
        secs: 0.0,
    };
    note(&format!("{} % of {} cores are in use by others", results.busy_percent_at_start, results.cores));
    // One that cannot be measured leaves its cells empty; the rest is worth having.
    let mut failed = Vec::new();
    if wanted(Part::Embedded) {
        results.embedded = kept(measure::patchbay(installation::EMBEDDED, &binaries, agents).await, &mut failed);
    }
    if wanted(Part::Spread) {
        results.spread = kept(measure::patchbay(installation::SPREAD, &binaries, agents).await, &mut failed);
    }
    if wanted(Part::Terminals) {
        let measured = terminal::terminals(installation::EMBEDDED, &binaries).await;
        results.terminals_embedded = kept(measured, &mut failed);
        results.terminals_spread = kept(terminal::terminals(installation::SPREAD, &binaries).await, &mut failed);
    }
    if wanted(Part::Floor) {
        results.floor = kept(beside::floor(&binaries, agents).await, &mut failed);
    }
    if wanted(Part::Node) {
        results.node_open = kept(beside::node_open(&target).await, &mut failed);
        results.node_bcrypt = kept(beside::node_bcrypt(&target).await, &mut failed);
    }
    if wanted(Part::Bullmq) {
        for concurrency in [1, 50] {
            results.bullmq.extend(kept(beside::bullmq(&target, concurrency).await, &mut failed));
        }
    }
    results.secs = figures::rounded(began.elapsed().as_secs_f64());
    println!("{}", table::table(&results));
    let json = arguments.json.unwrap_or_else(|| target.join("bench/figures.json"));
    std::fs::create_dir_all(json.parent().context("no folder")?)?;
    std::fs::write(&json, serde_json::to_string_pretty(&results)? + "\n")
        .with_context(|| json.display().to_string())?;
    note(&format!("done; the figures are in {}", json.display()));
    anyhow::ensure!(failed.is_empty(), "not all was measured: {}", failed.join("; "));
    Ok(())
}

fn kept<T>(measured: anyhow::Result<T>, failed: &mut Vec<String>) -> Option<T> {
    measured
        .inspect_err(|error| note(&format!("failed: {error:#}")))
        .map_err(|error| failed.push(format!("{error:#}")))
        .ok()
}

/// Each agent holds a socket.
fn raise_open_files() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

//! The fleet simulator on the command line.

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use tests::{
    admin::Admin,
    agent::Start,
    credentials::{self, Credentials},
    fleet::{Fleet, Generations, Recipe},
    log::{FrameLog, Keep},
    misbehaviour::Mix,
    server::Server,
    summary::{Counts, Summary},
};
use tokio::signal::unix::{SignalKind, signal};

/// Plays a fleet of Linux hosts with PatchMon agents against a Patchbay on this machine.
///
/// Each agent starts as a real one does, keeps its WebSocket, answers pings, posts reports, runs scans with progress and
/// results, and comes back by the real back-off table when its socket is lost. Some can be told to misbehave.
///
/// The first run logs in, makes the hosts over the API and keeps their keys in the --hosts file; later runs use that file.
/// A line of counts is shown while it runs (on a terminal: one line that moves), and a JSON summary at the end, after
/// --seconds or Ctrl-C.
#[derive(Debug, Parser)]
#[command(
    name = "fleet",
    after_long_help = "Examples:
  PATCHBAY_ADMIN_PASSWORD=… fleet --agents 500
      500 agents of both generations, one source address each

  fleet --agents 10000 --quiet-start --connect-rate 2000 --seconds 60 --json storm.json
      a reconnect storm: sockets only, 2,000 new ones a second

  fleet --agents 100 --misbehave silent=5,slow-reader:20=2,drop-after:3=2 --log frames.jsonl
      nine of a hundred misbehave; every frame, call and loss goes into a file

Misbehaviours (NAME=COUNT, or NAME:NUMBER=COUNT; the number is seconds unless said otherwise, 30 by default):
  silent            reads and answers pings, but acts on no command
  deaf              reads, and neither answers pings nor acts
  late-pongs:N      answers every ping only after N seconds
  slow-reader:N     stops reading its socket for N seconds after every command
  drop-after:N      hangs up after N commands on one connection (default 3)
  reset-after:N     the same with a TCP reset
  flap:N            hangs up N seconds after every connect
  scan-fails        every scan ends in a failed result
  drop-mid-scan     loses its socket in the middle of its first scan; the result is still posted
  restart-mid-scan  restarts in the middle of its first scan, whose result never comes
  concurrent-write  dies when two terminals have output at once, as 1.4 agents do (needs --ssh-proxy)"
)]
struct Arguments {
    /// Where the agents go: http:// and a loopback address, nothing else is accepted
    #[arg(long, default_value = "http://127.0.0.1:3001", value_name = "URL")]
    server: String,

    /// How many agents
    #[arg(long, default_value_t = 100, value_name = "N")]
    agents: usize,

    /// Which agents: 1.4, 2.1, or mixed
    #[arg(long, default_value_t = Generations::Mixed, value_name = "GENERATION")]
    generation: Generations,

    /// File of hosts, one JSON object a line with id, name, api_id and api_key, as `patchbay host add NAME --json` prints
    /// it. Hosts that are missing for --agents are made over the API and added to it (mode 0600)
    #[arg(long, default_value = "fleet-hosts.jsonl", value_name = "FILE")]
    hosts: PathBuf,

    /// Who logs in to make hosts. The password comes from --password-file or PATCHBAY_ADMIN_PASSWORD
    #[arg(long, default_value = "admin", value_name = "NAME")]
    admin_user: String,

    /// File with the password, for example the one that the server's first start wrote
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Names of the hosts that are made: PREFIX-00001, …
    #[arg(long, default_value = "fleet", value_name = "PREFIX")]
    name_prefix: String,

    /// How long a compliance scan takes
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    scan_secs: f64,

    /// How long collecting a report takes. Default: as recorded, 1.8 s in 1.4 and 12 s in 2.1
    #[arg(long, value_name = "SECONDS")]
    report_secs: Option<f64>,

    /// Packages in each report. Default: the 20 of the recordings; a real host has about 740
    #[arg(long, value_name = "N")]
    packages: Option<usize>,

    /// Who misbehaves and how; see below
    #[arg(long, default_value = "", value_name = "NAME=COUNT,…")]
    misbehave: String,

    /// Agents started a second. Default: all at once
    #[arg(long, value_name = "N")]
    connect_rate: Option<f64>,

    /// Only sockets: no start-up calls, no report at the start
    #[arg(long)]
    quiet_start: bool,

    /// Agents open terminals: real SSH connections to whatever host and port the server names
    #[arg(long)]
    ssh_proxy: bool,

    /// Source addresses in 127.0.0.0/8 that the agents share; 0 gives each its own
    #[arg(long, default_value_t = 0, value_name = "N")]
    sources: usize,

    /// Factor on waits: back-off, retries, pauses. The heartbeat stays real, so do report intervals
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    time_scale: f64,

    /// Ends after this long. Default: runs until Ctrl-C
    #[arg(long, value_name = "N")]
    seconds: Option<f64>,

    /// Where the summary goes; - is standard output
    #[arg(long, default_value = "-", value_name = "FILE")]
    json: PathBuf,

    /// Appends every frame (with its SHA-256), call, connect and loss to this file as JSON lines
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

/// Above it even a test of patience needs no agent.
const MAX_TIME_SCALE: f64 = 1000.0;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let server = Server::parse(&arguments.server)?;
    let recipe = recipe(&arguments)?;
    let limit = arguments.seconds.map(|limit| seconds("seconds", limit)).transpose()?;
    let hosts = hosts(&arguments).await?;
    raise_open_files(hosts.len())?;
    let log = match &arguments.log {
        None => FrameLog::counting(),
        Some(path) => FrameLog::to_file(path, Keep::Counts)?,
    };
    let began = Instant::now();
    let fleet = Fleet::start(server, recipe.agents(&hosts), arguments.connect_rate, log);
    let all_connected = watch(&fleet, limit, began).await?;
    let counts = fleet.counts();
    let seconds = began.elapsed().as_secs_f64();
    fleet.stop().await;
    hint(&counts, &arguments.hosts);
    let summary = Summary {
        server: arguments.server,
        agents: hosts.len(),
        seconds: rounded(seconds),
        all_connected_after_secs: all_connected.map(rounded),
        counts,
    };
    let json = serde_json::to_string_pretty(&summary)? + "\n";
    if arguments.json.as_os_str() == "-" {
        std::io::stdout().write_all(json.as_bytes())?;
    } else {
        std::fs::write(&arguments.json, json).with_context(|| format!("{}", arguments.json.display()))?;
    }
    Ok(())
}

fn seconds(name: &str, value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("--{name} {value}"))
}

fn recipe(arguments: &Arguments) -> anyhow::Result<Recipe> {
    if !(arguments.time_scale > 0.0 && arguments.time_scale <= MAX_TIME_SCALE) {
        bail!("--time-scale {}: it must be above 0 and at most {MAX_TIME_SCALE}", arguments.time_scale);
    }
    if arguments.connect_rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        bail!("--connect-rate must be above 0");
    }
    let misbehave: Mix = match arguments.misbehave.as_str() {
        "" => Mix::default(),
        mix => mix.parse().map_err(|reason| anyhow::anyhow!("--misbehave: {reason}"))?,
    };
    Ok(Recipe {
        time_scale: arguments.time_scale,
        scan: Some(seconds("scan-secs", arguments.scan_secs)?),
        report: arguments.report_secs.map(|value| seconds("report-secs", value)).transpose()?,
        misbehave,
        start: if arguments.quiet_start { Start::Quiet } else { Start::Full },
        sources: arguments.sources,
        packages: arguments.packages,
        ssh_proxy: arguments.ssh_proxy,
        ..Recipe::new(arguments.generation)
    })
}

/// The hosts of the file, and new ones where it has too few.
async fn hosts(arguments: &Arguments) -> anyhow::Result<Vec<Credentials>> {
    let mut hosts = match arguments.hosts.exists() {
        true => credentials::load(&arguments.hosts)?,
        false => Vec::new(),
    };
    let missing = arguments.agents.saturating_sub(hosts.len());
    if missing > 0 {
        let password = password(arguments)?;
        let admin = Admin::login(&arguments.server, &arguments.admin_user, &password).await?;
        let names: Vec<_> = (hosts.len() + 1..=arguments.agents)
            .map(|number| format!("{}-{number:05}", arguments.name_prefix))
            .collect();
        hosts.extend(admin.add_hosts(&names).await.context("making hosts")?);
        credentials::save(&arguments.hosts, &hosts)?;
        eprintln!("made {missing} hosts; their keys are in {}", arguments.hosts.display());
    }
    hosts.truncate(arguments.agents);
    Ok(hosts)
}

fn password(arguments: &Arguments) -> anyhow::Result<String> {
    if let Some(path) = &arguments.password_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
    }
    std::env::var("PATCHBAY_ADMIN_PASSWORD").with_context(|| {
        format!(
            "{} has too few hosts, and making some needs a password: set PATCHBAY_ADMIN_PASSWORD or --password-file",
            arguments.hosts.display()
        )
    })
}

/// Each agent holds a socket, and now and then an HTTP connection.
fn raise_open_files(agents: usize) -> anyhow::Result<()> {
    let wanted = agents as u64 * 6 / 5 + 100;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("raising the limit of open files")?;
    }
    if let Some(current) = getrlimit(Resource::Nofile).current
        && current < wanted
    {
        bail!("{agents} agents need {wanted} open files, and this shell allows {current}: ulimit -n {wanted}");
    }
    Ok(())
}

/// Shows the counts until the end. Seconds from the start until all were connected, if they were.
async fn watch(fleet: &Fleet, limit: Option<Duration>, began: Instant) -> anyhow::Result<Option<f64>> {
    let terminal = std::io::stderr().is_terminal();
    let mut show = tokio::time::interval(Duration::from_millis(if terminal { 250 } else { 5_000 }));
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let end = tokio::time::sleep(limit.unwrap_or(Duration::MAX));
    tokio::pin!(end);
    let mut all_connected = None;
    let connected = async {
        let _ = fleet.all_connected(Duration::MAX).await;
        began.elapsed().as_secs_f64()
    };
    tokio::pin!(connected);
    loop {
        tokio::select! {
            after = &mut connected, if all_connected.is_none() => all_connected = Some(after),
            _ = show.tick() => show_counts(&fleet.counts(), began, terminal)?,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
        }
        fleet.log().flush();
    }
    show_counts(&fleet.counts(), began, terminal)?;
    if terminal {
        eprintln!();
    }
    Ok(all_connected)
}

fn show_counts(counts: &Counts, began: Instant, terminal: bool) -> std::io::Result<()> {
    let seconds = began.elapsed().as_secs();
    let mut stderr = std::io::stderr().lock();
    if terminal {
        write!(stderr, "\r\x1b[K{seconds:>5} s  {counts}")?;
        stderr.flush()
    } else {
        writeln!(stderr, "{seconds:>5} s  {counts}")
    }
}

/// The one mistake that is easy to make.
fn hint(counts: &Counts, hosts: &Path) {
    if counts.connects == 0 && counts.refused.contains_key("401") {
        eprintln!(
            "Every upgrade was refused with 401: the hosts in {} are not this server's. Move that file away to make new ones.",
            hosts.display()
        );
    }
}

fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

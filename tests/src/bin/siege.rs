//! Agents and a stream of commands against an installation while something is done to it; then the rows are held against
//! what the hosts saw. Prints JSON lines: `{"ready": …}` once all agents are there and commands flow, and, after its
//! standard input has ended, what it found.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Value, json};
use tests::{
    admin::Admin,
    claims,
    credentials::{self, Credentials},
    fleet::{Fleet, Generations, Recipe},
    log::{Event, FrameLog, What},
    server::Server,
    stream::Stream,
};
use tokio::time::{Instant, sleep};

/// Until all agents are there.
const CONNECTED: Duration = Duration::from_secs(180);
/// Until all rows are final, but those whose host has given up to tell.
const SETTLED: Duration = Duration::from_secs(180);
/// Commands that are accepted before it says that it is ready, and after its input has ended.
const SOME: usize = 20;

#[derive(Debug, Parser)]
struct Arguments {
    /// Where agents and API are: loopback, or an address in a network without a way out
    #[arg(long, value_name = "URL")]
    server: String,
    /// How many agents
    #[arg(long, default_value_t = 1000, value_name = "N")]
    agents: usize,
    /// File of hosts; those that are missing are made and added
    #[arg(long, value_name = "FILE")]
    hosts: PathBuf,
    /// Commands a second
    #[arg(long, default_value_t = 20, value_name = "N")]
    rate: u32,
    /// Of the stream
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Agents started a second
    #[arg(long, default_value_t = 200.0, value_name = "N")]
    connect_rate: f64,
    /// No commands, only agents
    #[arg(long)]
    idle: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let server = Server::parse(&arguments.server)?;
    let password = std::env::var("PATCHBAY_ADMIN_PASSWORD").context("PATCHBAY_ADMIN_PASSWORD is not set")?;
    let admin = Admin::login(&arguments.server, "admin", &password).await?;
    let hosts = hosts(&arguments, &admin).await?;
    let earlier: HashSet<_> = ids(&admin.commands("").await?).collect();

    let fleet = Fleet::start(
        server,
        Recipe { ssh_proxy: true, ..Recipe::fast(Generations::Mixed) }.agents(&hosts),
        Some(arguments.connect_rate),
        FrameLog::in_memory(),
    );
    fleet.all_connected(CONNECTED).await.context("not all agents connected")?;
    let wanted: Vec<_> = hosts.iter().map(|host| host.id.clone()).collect();
    let stream = (!arguments.idle).then(|| Stream::start(vec![admin.clone()], wanted, arguments.rate, arguments.seed));
    if let Some(stream) = &stream {
        stream.accepted(SOME).await;
    }
    let began = fleet.log().select(|_| true).last().map_or(0, |event| event.seq);
    println!("{}", json!({"ready": true, "agents": hosts.len()}));

    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await??;

    let back = Instant::now();
    fleet.all_connected(CONNECTED).await.context("not all agents came back")?;
    let back = back.elapsed().as_secs_f64();
    let mut found = moves(&fleet.log().select(|event| event.seq > began));
    found["back_after_secs"] = json!(back);
    if let Some(stream) = stream {
        stream.accepted(stream.count() + SOME).await;
        let asked = stream.stop().await;
        let (rows, open) = settled(&admin, &fleet, &hosts, &earlier).await?;
        let (twice, wrong) = claims::duplicates_and_others(&fleet.log().events(), &hosts, &rows);
        found["asked"] = json!(asked.ids.len());
        found["sent_again"] = json!(asked.retries);
        found["refused"] = json!(asked.wrong);
        found["lost"] = json!(claims::lost(&asked.ids, &rows));
        found["twice"] = json!(twice);
        found["contradictions"] = json!(wrong);
        found["open"] = json!(open);
        found["ended_as"] = json!(claims::states(rows.iter()));
    }
    println!("{found}");
    fleet.stop().await;
    Ok(())
}

async fn hosts(arguments: &Arguments, admin: &Admin) -> anyhow::Result<Vec<Credentials>> {
    let mut hosts = if arguments.hosts.exists() { credentials::load(&arguments.hosts)? } else { Vec::new() };
    let names: Vec<_> = (hosts.len() + 1..=arguments.agents).map(|number| format!("siege-{number:05}")).collect();
    if !names.is_empty() {
        hosts.extend(admin.add_hosts(&names).await.context("making hosts")?);
        credentials::save(&arguments.hosts, &hosts)?;
    }
    hosts.truncate(arguments.agents);
    Ok(hosts)
}

fn ids(rows: &[Value]) -> impl Iterator<Item = String> {
    rows.iter().filter_map(|row| row["id"].as_str().map(str::to_owned))
}

/// How sockets ended, over how long, and how fast they came back.
fn moves(events: &[Event]) -> Value {
    let (mut ends, mut refused) = (BTreeMap::<&str, u64>::new(), BTreeMap::<String, u64>::new());
    let (mut ended_at, mut connected_at) = (Vec::new(), Vec::new());
    for event in events {
        match &event.what {
            What::Disconnected { reason } => {
                *ends.entry(reason).or_default() += 1;
                ended_at.push(event.time_ms);
            }
            What::Connected { .. } => connected_at.push(event.time_ms),
            What::Refused { status, .. } => {
                *refused.entry(status.map_or_else(|| "none".to_owned(), |status| status.to_string())).or_default() += 1;
            }
            _ => {}
        }
    }
    let span =
        |times: &[u64]| times.last().zip(times.first()).map_or(0.0, |(last, first)| (last - first) as f64 / 1000.0);
    json!({
        "ends": ends,
        "ends_over_secs": span(&ended_at),
        "upgrades": connected_at.len(),
        "most_upgrades_a_second": most_within(&connected_at, 1_000),
        "most_gone_at_once": most_gone(&ended_at, &connected_at),
        "refused_upgrades": refused,
    })
}

/// The most that happened within any such time, of times in order.
fn most_within(times: &[u64], millis: u64) -> usize {
    let mut first = 0;
    let windows = times.iter().enumerate().map(|(last, time)| {
        while times[first] + millis <= *time {
            first += 1;
        }
        last - first + 1
    });
    windows.max().unwrap_or(0)
}

/// The most agents that were without a socket at one time.
fn most_gone(ended: &[u64], connected: &[u64]) -> i64 {
    let moves = ended.iter().map(|time| (*time, 1)).chain(connected.iter().map(|time| (*time, -1)));
    let mut moves: Vec<(u64, i64)> = moves.collect();
    moves.sort_unstable();
    let gone = moves.iter().scan(0, |gone, (_, step)| {
        *gone += step;
        Some(*gone)
    });
    gone.max().unwrap_or(0)
}

/// Waits until all rows of this run are final, but those whose host has given up to tell its deed. The rows, and how many
/// others are still open.
async fn settled(
    admin: &Admin,
    fleet: &Fleet,
    hosts: &[Credentials],
    earlier: &HashSet<String>,
) -> anyhow::Result<(Vec<Value>, usize)> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let mut rows = admin.commands("").await?;
        rows.retain(|row| !earlier.contains(row["id"].as_str().unwrap_or_default()));
        let open = claims::stuck(&rows, hosts, fleet.log()).len();
        if open == 0 || Instant::now() >= deadline {
            return Ok((rows, open));
        }
        sleep(Duration::from_millis(500)).await;
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn what_happened_at_once_is_counted() {
        assert_eq!(most_within(&[], 1_000), 0);
        assert_eq!(most_within(&[0, 10, 999, 1_000, 3_000], 1_000), 3);
        assert_eq!(most_gone(&[0, 10, 20], &[15, 30, 40]), 2);
    }
}

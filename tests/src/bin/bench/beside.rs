//! What others do on the same machine: a minimal Node server that checks keys with bcryptjs, a queue on Redis, and sockets
//! without anything behind them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context;
use serde_json::Value;
use tests::{credentials::Credentials, server::Server};

use crate::{
    figures::{Memory, Millis, Queue, Sockets, rounded},
    machine, measure, note,
    process::Process,
};

const STARTS: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(120);
/// Each costs a third of a second there.
const BCRYPT_AGENTS: usize = 200;
/// Enough for an honest mean of their memory.
const OPEN_AGENTS: usize = 5_000;
/// Where `scripts/setup bench` puts the scripts and what they need.
const SCRIPTS: &str = "bench-peers";

/// Sockets alone: fastwebsockets behind hyper, nothing looked up and nothing kept.
pub async fn floor(binaries: &Path, agents: usize) -> anyhow::Result<Sockets> {
    note(&format!("bare fastwebsockets: {agents} sockets"));
    let mut echo = Process::start("echo", &mut Command::new(binaries.join("echo")))?;
    sockets(&mut echo, agents).await
}

/// Node's ws without a look at any key.
pub async fn node_open(target: &Path) -> anyhow::Result<Sockets> {
    note(&format!("Node ws: {OPEN_AGENTS} sockets, no keys checked"));
    sockets(&mut node(target, "ws.mjs", &["open"])?, OPEN_AGENTS).await
}

/// Node's ws and a bcryptjs compare for each.
pub async fn node_bcrypt(target: &Path) -> anyhow::Result<Sockets> {
    note(&format!("Node ws with bcryptjs at cost 12: {BCRYPT_AGENTS} sockets"));
    let mut server = node(target, "ws.mjs", &["bcrypt"])?;
    let (agents, storm) = measure::storm(&[listening(&mut server).await?], &hosts(BCRYPT_AGENTS)).await?;
    agents.stop().await;
    Ok(Sockets { storm, memory: None })
}

/// BullMQ on a Redis of its own, at this concurrency.
pub async fn bullmq(target: &Path, concurrency: u64) -> anyhow::Result<Queue> {
    note(&format!("BullMQ on Redis, concurrency {concurrency}"));
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("redis.sock");
    let mut redis = Command::new("redis-server");
    // As durable as Redis usually is made: a second may be lost.
    redis.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--dir"]);
    redis.arg(folder.path()).arg("--unixsocket").arg(&socket);
    let mut redis = Process::start("redis-server", &mut redis).context("`scripts/setup bench` brings it")?;
    while !redis.line(STARTS).await?.contains("ready to accept connections") {}
    let mut client = node(target, "bullmq.mjs", &[&socket.display().to_string(), &concurrency.to_string()])?;
    let said: Value = serde_json::from_str(&client.line(PATIENCE).await?).context("bullmq.mjs")?;
    let number = |name: &str| said[name].as_f64().with_context(|| format!("no {name}: {said}"));
    Ok(Queue {
        concurrency,
        handler_ms: Millis { p50: rounded(number("p50_ms")?), p99: rounded(number("p99_ms")?) },
        jobs_per_sec: number("jobs_per_sec")?.round(),
    })
}

fn node(target: &Path, script: &str, arguments: &[&str]) -> anyhow::Result<Process> {
    let script: PathBuf = target.join(SCRIPTS).join(script);
    Process::start(&script.display().to_string(), Command::new("node").arg(&script).args(arguments))
        .context("`scripts/setup bench` brings it")
}

/// The server's first line says where it listens.
async fn listening(server: &mut Process) -> anyhow::Result<Server> {
    Server::parse(&format!("http://{}", server.line(STARTS).await?))
}

async fn sockets(server: &mut Process, count: usize) -> anyhow::Result<Sockets> {
    let address = listening(server).await?;
    let pid = [server.pid()];
    let empty = machine::settled_kib(&pid).await?;
    let (agents, storm) = measure::storm(&[address], &hosts(count)).await?;
    let idle = machine::settled_kib(&pid).await?;
    agents.send_big(PATIENCE).await?;
    let after = machine::settled_kib(&pid).await?;
    agents.stop().await;
    let each = |full: u64| rounded((full as f64 - empty as f64) / count as f64);
    let memory =
        Memory { agents: count, processes: 1, idle_kib: each(idle), after_60_kb_kib: each(after), bus_kib: None };
    Ok(Sockets { storm, memory: Some(memory) })
}

/// Nobody of them looks an id up; the key is the one that `ws.mjs` has the hash of.
fn hosts(count: usize) -> Vec<Credentials> {
    let host = |number: usize| Credentials {
        id: format!("{number}"),
        name: format!("peer-{number:05}"),
        api_id: format!("patchmon_{number:016x}"),
        api_key: "0123456789abcdef".repeat(4),
    };
    (0..count).map(host).collect()
}

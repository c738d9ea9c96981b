//! The rows, one function each.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tests::{admin::Admin, credentials::Credentials, internal, log::FrameLog, server::Server};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::sleep;

use crate::{
    figures::{Crowd, Latency, Memory, MidStorm, Millis, Patchbay, Storm, rounded},
    installation::{Combination, Installation},
    load::{Agents, frames},
    machine, note,
};

const PATIENCE: Duration = Duration::from_secs(120);
/// Agents a second when nothing is measured.
const GENTLY: f64 = 2_000.0;
const KIND: &str = "settings_update";
/// Commands one at a time, and how many before them are not counted.
const COMMANDS: usize = 500;
const WARM_UP: usize = 50;
/// Agents that they go to in turn.
const ONLINE: usize = 100;
/// Who is on the way back in the middle of a storm, how fast they come, and when the command is asked for.
const ON_THEIR_WAY: usize = 2_000;
const BACK_PER_SEC: f64 = 100.0;
const ASKED_AFTER: Duration = Duration::from_secs(10);
const PAGE: usize = 1_000;

/// All rows of one combination.
pub async fn patchbay(combination: Combination, binaries: &Path, agents: usize) -> anyhow::Result<Patchbay> {
    let mut installation = Installation::start(combination, binaries).await?;
    let mut busy = Vec::new();
    let name = combination.name;

    note(&format!("{name}: making {agents} hosts, each connects once"));
    let hosts = installation.hosts(agents).await?;
    let first = Agents::start(&installation.gateways()?, &hosts, Some(GENTLY), FrameLog::counting());
    first.connected(PATIENCE).await?;
    installation.kill();
    first.stop().await;

    note(&format!("{name}: {agents} agents at once after a restart"));
    installation.start_processes().await?;
    busy.push(machine::busy_percent().await?);
    let pids = installation.gateway_pids();
    let bus: Vec<u32> = installation.bus_pid().into_iter().collect();
    let (empty, bus_empty) = (machine::settled_kib(&pids).await?, machine::settled_kib(&bus).await?);
    let (storming, storm) = storm(&installation.gateways()?, &hosts).await?;

    note(&format!("{name}: memory of idle agents, before and after 60 KB from each"));
    let idle = machine::settled_kib(&pids).await?;
    let bus_idle = machine::settled_kib(&bus).await?;
    storming.send_big(PATIENCE).await?;
    all_read(&installation, agents).await?;
    let after = machine::settled_kib(&pids).await?;
    let each = |full: u64, empty: u64| rounded((full as f64 - empty as f64) / agents as f64);
    let memory = Memory {
        agents,
        processes: pids.len(),
        idle_kib: each(idle, empty),
        after_60_kb_kib: each(after, empty),
        bus_kib: (!bus.is_empty()).then(|| each(bus_idle, bus_empty)),
    };

    note(&format!("{name}: one {KIND} to all of them"));
    busy.push(machine::busy_percent().await?);
    let crowd = crowd(&installation.admin().await?, &storming, agents).await?;
    storming.stop().await;

    note(&format!("{name}: {COMMANDS} commands, one at a time"));
    again(&mut installation).await?;
    busy.push(machine::busy_percent().await?);
    let latency = latency(&installation, &hosts[..ONLINE.min(agents)]).await?;

    note(&format!("{name}: a command in the middle of a storm"));
    again(&mut installation).await?;
    busy.push(machine::busy_percent().await?);
    let mid_storm = mid_storm(&installation, &hosts[..ON_THEIR_WAY.min(agents)]).await?;
    Ok(Patchbay { storm, memory, crowd, latency, mid_storm, busy_percent_before: busy })
}

/// Fresh processes, so that one row's leftovers do not weigh on the next.
async fn again(installation: &mut Installation) -> anyhow::Result<()> {
    installation.kill();
    installation.start_processes().await
}

/// All at once, until the last one has its socket.
pub async fn storm(servers: &[Server], hosts: &[Credentials]) -> anyhow::Result<(Agents, Storm)> {
    let began = Instant::now();
    let agents = Agents::start(servers, hosts, None, FrameLog::counting());
    let counts = agents.connected(PATIENCE * 2).await?;
    let secs = began.elapsed().as_secs_f64();
    let storm = Storm {
        agents: hosts.len(),
        secs: rounded(secs),
        handshakes_per_sec: rounded(hosts.len() as f64 / secs),
        refused: counts.refused_total(),
    };
    Ok((agents, storm))
}

/// Waits until the gateways have read what the agents sent.
async fn all_read(installation: &Installation, agents: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let mut read = 0.0;
        for url in installation.gateway_metrics() {
            read += internal::value(&url, r#"patchbay_frames_ignored_total{reason="unknown_type"}"#).await?;
        }
        if read >= agents as f64 {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            bail!("{read} of {agents} big messages were read after {PATIENCE:?}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn latency(installation: &Installation, hosts: &[Credentials]) -> anyhow::Result<Latency> {
    let agents = Agents::start(&installation.gateways()?, hosts, None, FrameLog::in_memory());
    agents.connected(PATIENCE).await?;
    let admin = installation.admin().await?;
    // Whatever the server says to newcomers of its own accord.
    sleep(Duration::from_secs(1)).await;
    let (mut to_frame, mut to_answer) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + COMMANDS {
        let host = &hosts[number % hosts.len()];
        let before = frames(&agents.log().counts(), KIND);
        // A new one each time, so that none is folded into another.
        let interval = 5 + 5 * (number / hosts.len() % 10);
        let (asked, asked_us) = (Instant::now(), now_us());
        admin.command(KIND, &[&host.id], Some(json!({"update_interval": interval}))).await?.ok()?;
        to_answer.push(u64::try_from(asked.elapsed().as_micros())?);
        agents.wait(PATIENCE, |counts| frames(counts, KIND) > before).await?;
        let came = agents.log().frames(&host.api_id, KIND);
        let came = came.last().with_context(|| format!("the frame went to another agent than {}", host.api_id))?;
        to_frame.push(came.time_us.saturating_sub(asked_us));
    }
    agents.stop().await;
    let counted = |micros: Vec<u64>| Millis::of(micros.into_iter().skip(WARM_UP).collect());
    Ok(Latency { commands: COMMANDS, frame_ms: counted(to_frame), answer_ms: counted(to_answer) })
}

async fn crowd(admin: &Admin, agents: &Agents, count: usize) -> anyhow::Result<Crowd> {
    let before = frames(&agents.log().counts(), KIND);
    let (asked, asked_us) = (Instant::now(), now_us());
    let body = json!({"kind": KIND, "all": true, "payload": {"update_interval": 35}});
    let answer = admin.post("/commands", &body).await?.ok()?;
    let answered = asked.elapsed();
    agents.wait(PATIENCE, |counts| frames(counts, KIND) >= before + count as u64).await?;
    let framed = asked.elapsed();
    let batch = Batch::until_final(admin, &answer, count).await?;
    if batch.delivered < count {
        bail!("only {} of {count} rows were delivered", batch.delivered);
    }
    Ok(Crowd {
        agents: count,
        answer_secs: rounded(answered.as_secs_f64()),
        frames_secs: rounded(framed.as_secs_f64()),
        delivered_secs: batch.last_after(asked_us),
    })
}

async fn mid_storm(installation: &Installation, hosts: &[Credentials]) -> anyhow::Result<MidStorm> {
    let admin = installation.admin().await?;
    let agents = Agents::start(&installation.gateways()?, hosts, Some(BACK_PER_SEC), FrameLog::in_memory());
    sleep(ASKED_AFTER).await;
    let back_when_asked = agents.log().counts().connected;
    let ids: Vec<_> = hosts.iter().map(|host| host.id.as_str()).collect();
    let (asked, asked_us) = (Instant::now(), now_us());
    let answer = admin.command(KIND, &ids, Some(json!({"update_interval": 40}))).await?.ok()?;
    let answered = asked.elapsed();
    agents.connected(PATIENCE).await?;
    let batch = Batch::until_final(&admin, &answer, hosts.len()).await?;
    // The wanted interval also comes to an agent that missed it otherwise; here only the command's own frames count.
    let came = agents.log().select(|event| event.is_frame(KIND) && event.time_us >= asked_us);
    let reached: HashSet<_> = came.iter().map(|event| event.agent.clone()).collect();
    agents.stop().await;
    Ok(MidStorm {
        agents: hosts.len(),
        back_when_asked,
        answer_ms: rounded(answered.as_secs_f64() * 1000.0),
        delivered: batch.delivered,
        lost: hosts.len() - batch.delivered.min(reached.len()),
        last_secs: batch.last_after(asked_us),
    })
}

/// The rows that one request made.
struct Batch {
    delivered: usize,
    last_us: u64,
}

impl Batch {
    /// Reads them until all are final, or for as long as anybody would wait.
    async fn until_final(admin: &Admin, answer: &Value, count: usize) -> anyhow::Result<Self> {
        let id = answer["batch_id"].as_str().context("no batch_id")?;
        let began = Instant::now();
        loop {
            let rows = rows(admin, id).await?;
            let all_final = rows.len() == count && rows.iter().all(|row| row["final"] == true);
            if all_final || began.elapsed() > PATIENCE {
                let delivered: Vec<_> = rows.iter().filter(|row| row["state"] == "delivered").collect();
                let times =
                    delivered.iter().map(|row| micros(&row["delivered_at"])).collect::<anyhow::Result<Vec<_>>>()?;
                return Ok(Self { delivered: delivered.len(), last_us: times.into_iter().max().unwrap_or(0) });
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Seconds from the request to the last delivery, by the clock that server and simulator share.
    fn last_after(&self, asked_us: u64) -> f64 {
        rounded(self.last_us.saturating_sub(asked_us) as f64 / 1e6)
    }
}

async fn rows(admin: &Admin, batch: &str) -> anyhow::Result<Vec<Value>> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = admin.get(&format!("/commands?batch_id={batch}&limit={PAGE}{cursor}")).await?.ok()?;
        rows.extend(page["items"].as_array().context("no items")?.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(rows),
        }
    }
}

fn micros(time: &Value) -> anyhow::Result<u64> {
    let text = time.as_str().context("a row without its time")?;
    Ok(u64::try_from(OffsetDateTime::parse(text, &Rfc3339)?.unix_timestamp_nanos() / 1000)?)
}

fn now_us() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000).unwrap_or(0)
}

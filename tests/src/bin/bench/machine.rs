//! What else this machine does, and what a process of it takes.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::time::sleep;

/// How long the cores are watched for what others do.
const LOOK: Duration = Duration::from_millis(500);
/// Resident memory has to stand still for so long before it is read: an allocator gives pages back bit by bit.
const STILL: Duration = Duration::from_secs(2);
const STILL_AT_MOST: Duration = Duration::from_secs(12);
/// Two readings that differ by less are the same.
const SAME_KIB: u64 = 64;

/// Resident memory of a process.
pub fn resident_kib(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS: the process is gone")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// The same of several together, once it stands still.
pub async fn settled_kib(pids: &[u32]) -> anyhow::Result<u64> {
    let sum = || pids.iter().map(|pid| resident_kib(*pid)).sum::<anyhow::Result<u64>>();
    let began = Instant::now();
    let (mut last, mut since) = (sum()?, Instant::now());
    while since.elapsed() < STILL && began.elapsed() < STILL_AT_MOST {
        sleep(Duration::from_millis(200)).await;
        let now = sum()?;
        if now.abs_diff(last) > SAME_KIB {
            (last, since) = (now, Instant::now());
        }
    }
    sum()
}

/// The share of all cores that is in use while this program does nothing, in percent.
pub async fn busy_percent() -> anyhow::Result<u64> {
    let (used, all) = ticks()?;
    sleep(LOOK).await;
    let (used_then, all_then) = ticks()?;
    Ok((used_then - used) * 100 / (all_then - all).max(1))
}

/// Used and all ticks of all cores since the start.
fn ticks() -> anyhow::Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let all = fields.iter().sum();
    // idle, iowait
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

//! Two gateways and two workers as real processes, over a real NATS and a real PostgreSQL, while parts of them die, freeze
//! or cannot reach each other. Prints a table of what was done and seen; docs/faults.md holds one.
//!
//! `PATCHBAY_FAULTS_LONG=1` makes outages as long as production may have them. `PATCHBAY_CHAOS_SECS` and
//! `PATCHBAY_CHAOS_SEED` are the length and the seed of the random one.

mod balancer;
mod fault;
mod part;
mod town;
mod trial;
mod truth;

use std::time::Duration;

use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use tokio::{sync::Mutex, time::Instant};

use fault::Fault;
use trial::Trial;

const AGENTS: usize = 100;

/// One town at a time: each is eight processes and a fleet.
static ONE: Mutex<()> = Mutex::const_new(());

/// How long outages last.
fn outage() -> Duration {
    let long = std::env::var_os("PATCHBAY_FAULTS_LONG").is_some();
    Duration::from_secs(if long { 30 } else { 5 })
}

async fn each(seed: u64, faults: &[Fault]) {
    let _one = ONE.lock().await;
    let mut trial = Trial::start(AGENTS, seed).await;
    for fault in faults {
        trial.run(&[*fault]).await;
    }
    trial.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_a_gateway_or_a_worker_is_killed() {
    each(1_000, &[Fault::GatewayDies(0), Fault::GatewayDies(1), Fault::WorkerDies(0), Fault::WorkerDies(1)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_bus_or_the_store_is_away() {
    let at_once = Duration::ZERO;
    let faults = [
        Fault::BusAway(at_once),
        Fault::StoreAway(at_once),
        Fault::BusAway(outage()),
        Fault::StoreAway(outage()),
        Fault::ListenCut,
    ];
    each(2_000, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_disturbed_by_what_freezes_flaps_or_swallows_packets() {
    let faults = [
        Fault::GatewayFreezes(0),
        Fault::Flapping(Duration::from_secs(8)),
        Fault::SilentNet(outage().max(Duration::from_secs(12))),
    ];
    each(3_000, &faults).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_things_happen_two_at_a_time() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
    };
    let (length, seed) = (number("PATCHBAY_CHAOS_SECS", 20), number("PATCHBAY_CHAOS_SEED", 7));
    println!("PATCHBAY_CHAOS_SECS={length} PATCHBAY_CHAOS_SEED={seed}");
    let _one = ONE.lock().await;
    let mut dice = StdRng::seed_from_u64(seed);
    let mut trial = Trial::start(AGENTS, seed.wrapping_mul(10_000)).await;
    let end = Instant::now() + Duration::from_secs(length);
    loop {
        let pair = pair(&mut dice);
        trial.run(&pair).await;
        if Instant::now() >= end {
            break;
        }
    }
    trial.end().await;
}

fn pair(dice: &mut StdRng) -> [Fault; 2] {
    let first = any(dice);
    loop {
        let second = any(dice);
        if second.part() != first.part() && !leaves_no_gateway(first, second) {
            return [first, second];
        }
    }
}

/// Agents of a frozen gateway can only roam to one that takes them.
fn leaves_no_gateway(a: Fault, b: Fault) -> bool {
    let takes =
        |fault| matches!(fault, Fault::GatewayDies(_) | Fault::BusAway(_) | Fault::StoreAway(_) | Fault::SilentNet(_));
    let frozen = |fault| matches!(fault, Fault::GatewayFreezes(_));
    (frozen(a) && (frozen(b) || takes(b))) || (frozen(b) && takes(a))
}

fn any(dice: &mut StdRng) -> Fault {
    let long = Duration::from_millis(dice.random_range(0..6_000));
    match dice.random_range(0..8) {
        0 => Fault::GatewayDies(dice.random_range(0..2)),
        1 => Fault::WorkerDies(dice.random_range(0..2)),
        2 => Fault::BusAway(long),
        3 => Fault::StoreAway(long),
        4 => Fault::GatewayFreezes(dice.random_range(0..2)),
        5 => Fault::ListenCut,
        6 => Fault::Flapping(long),
        _ => Fault::SilentNet(long * 2),
    }
}

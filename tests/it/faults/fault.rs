//! What is done to a town. Each fault begins, holds and ends, so that two can be there at once.

use std::{fmt, time::Duration};

use tests::{misbehaviour::Misbehaviour, services::proxy::Network};
use tokio::time::{Instant, sleep};

use super::town::Town;

/// Agents that flap: 2.1, which are back at once after each session.
const FLAPPING: [usize; 4] = [1, 3, 5, 7];
/// After this a frozen gateway's agents must all be elsewhere: their read deadline, and a few dials into nothing.
const ROAMED: Duration = Duration::from_secs(60);

/// One fault; durations are how long it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and started again.
    GatewayDies(usize),
    WorkerDies(usize),
    BusAway(Duration),
    StoreAway(Duration),
    /// SIGSTOP until its agents have roamed, then SIGCONT.
    GatewayFreezes(usize),
    /// The connections by which PostgreSQL wakes the workers.
    ListenCut,
    Flapping(Duration),
    /// Between gateway 2 and NATS nothing passes, and nobody is told.
    SilentNet(Duration),
}

impl Fault {
    /// What it takes away; two faults at once must not be about the same.
    pub fn part(self) -> String {
        match self {
            Self::GatewayDies(number) | Self::GatewayFreezes(number) => format!("gateway {number}"),
            Self::WorkerDies(number) => format!("worker {number}"),
            Self::BusAway(_) => "bus".to_owned(),
            Self::StoreAway(_) | Self::ListenCut => "store".to_owned(),
            Self::Flapping(_) => "agents".to_owned(),
            Self::SilentNet(_) => "network".to_owned(),
        }
    }

    /// Services are back before the processes that need them.
    fn is_of_a_service(self) -> bool {
        matches!(self, Self::BusAway(_) | Self::StoreAway(_) | Self::SilentNet(_))
    }

    async fn begin(self, town: &mut Town) {
        match self {
            Self::GatewayDies(number) => town.gateways[number].kill(),
            Self::WorkerDies(number) => town.workers[number].kill(),
            Self::BusAway(_) => town.nats.kill(),
            Self::StoreAway(_) => town.postgres.kill(),
            Self::GatewayFreezes(number) => town.gateways[number].set_frozen(true),
            Self::ListenCut => {
                let cut = town.postgres.terminate_backends("query LIKE 'LISTEN%'").await;
                assert!(cut > 0, "nobody listened");
            }
            Self::Flapping(_) => {
                for number in FLAPPING {
                    let agent = &town.fleet.agents()[number];
                    agent.misbehave(Some(Misbehaviour::Flap(Duration::from_millis(200))));
                    // The habit begins with a connection.
                    agent.hang_up(tests::misbehaviour::Hangup::Fin).await;
                }
            }
            Self::SilentNet(_) => town.net.set(Network::Silent),
        }
    }

    async fn hold(self, town: &Town) {
        match self {
            Self::BusAway(long) | Self::StoreAway(long) | Self::Flapping(long) | Self::SilentNet(long) => {
                sleep(long).await;
            }
            Self::GatewayFreezes(number) => roamed(town, number).await,
            Self::GatewayDies(_) | Self::WorkerDies(_) | Self::ListenCut => {}
        }
    }

    async fn end(self, town: &mut Town) {
        match self {
            Self::GatewayDies(number) => town.gateways[number].spawn(),
            Self::WorkerDies(number) => town.workers[number].spawn(),
            Self::BusAway(_) => town.nats.start_again(),
            Self::StoreAway(_) => town.postgres.restart().await,
            Self::GatewayFreezes(number) => {
                town.gateways[number].set_frozen(false);
                town.balancer.set_out(number, false);
            }
            Self::ListenCut => {}
            Self::Flapping(_) => {
                for number in FLAPPING {
                    town.fleet.agents()[number].misbehave(None);
                }
            }
            Self::SilentNet(_) => town.net.set(Network::Sound),
        }
    }

    async fn ready(self, town: &mut Town) {
        match self {
            Self::GatewayDies(number) => town.gateways[number].ready().await,
            Self::WorkerDies(number) => town.workers[number].ready().await,
            Self::StoreAway(_) => town.answers().await,
            _ => {}
        }
    }
}

/// All of them at once, until what died runs again. Gives the number of the last thing that the hosts saw before the end.
pub async fn happen(town: &mut Town, faults: &[Fault]) -> u64 {
    for fault in faults {
        fault.begin(town).await;
    }
    for fault in faults {
        fault.hold(town).await;
    }
    let last = town.fleet.log().last();
    let (services, processes): (Vec<Fault>, Vec<Fault>) =
        faults.iter().copied().partition(|fault| fault.is_of_a_service());
    for fault in services.iter().chain(&processes) {
        fault.end(town).await;
    }
    for fault in faults {
        fault.ready(town).await;
    }
    last
}

/// Waits until nobody is at a frozen gateway any more. First its agents dial into it in vain: its kernel still takes
/// connections. Then the balancer has found out.
async fn roamed(town: &Town, number: usize) {
    let (deadline, given) = (Instant::now() + ROAMED, town.balancer.dialled(number));
    while town.balancer.dialled(number) < given + 5 {
        assert!(Instant::now() < deadline, "nobody dials gateway {}", number + 1);
        sleep(Duration::from_millis(50)).await;
    }
    town.balancer.set_out(number, true);
    while town.balancer.open(number) > 0 {
        let open = town.balancer.open(number);
        assert!(Instant::now() < deadline, "gateway {} still has {open} connections", number + 1);
        sleep(Duration::from_millis(50)).await;
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GatewayDies(number) => write!(f, "gateway {}: kill -9, started again", number + 1),
            Self::WorkerDies(number) => write!(f, "worker {}: kill -9, started again", number + 1),
            Self::BusAway(long) => write!(f, "NATS: kill -9, {}", back_after(*long)),
            Self::StoreAway(long) => write!(f, "PostgreSQL: kill -9, {}", back_after(*long)),
            Self::GatewayFreezes(number) => {
                write!(f, "gateway {}: SIGSTOP until its agents have roamed, SIGCONT", number + 1)
            }
            Self::ListenCut => write!(f, "LISTEN connections cut"),
            Self::Flapping(long) => {
                write!(f, "{} agents flap between the gateways for {} s", FLAPPING.len(), long.as_secs())
            }
            Self::SilentNet(long) => {
                write!(f, "network between gateway 2 and NATS silent for {} s", long.as_secs())
            }
        }
    }
}

fn back_after(long: Duration) -> String {
    if long.is_zero() { "started again".to_owned() } else { format!("away for {} s", long.as_secs()) }
}

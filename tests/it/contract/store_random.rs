//! Random histories of a few hosts: whatever happens in whatever order, what must hold holds after every step.

use std::collections::HashMap;

use jobs::{Deed, Event, Kind, Outcome, State};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use schemas::{
    agent::ScanPhase,
    message::{CommandReply, Mode},
};
use serde_json::json;
use store::NewBatch;
use uuid::Uuid;

use super::{
    store_moves::results,
    store_world::{HOUR, MINUTE, SECOND, World, batch, connect, keep, scan},
};

/// One step. Numbers pick a host or a command, modulo how many there are.
#[derive(Debug, Clone)]
enum Act {
    Create { kind: usize, hosts: usize, variant: u8 },
    Take(Vec<usize>),
    Outcome { command: usize, stale: bool, outcome: Outcome },
    Proved { command: usize, stale: bool },
    Lost { command: usize },
    Cancel { command: usize },
    Connect(Vec<usize>),
    Disconnect { host: usize, late: bool },
    Observe { host: usize, deed: Deed },
    Advance(i64),
    Sweep,
    Recover,
    ClearHints,
    Remove { host: usize },
    Retire,
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let mode = prop::sample::select(vec![Mode::Deliver, Mode::Again, Mode::Probe]);
    let reply = prop::sample::select(vec![
        CommandReply::Delivered { epoch: 1 },
        CommandReply::Sent { epoch: 1 },
        CommandReply::Busy,
        CommandReply::Superseded,
        CommandReply::Unknown,
    ]);
    prop_oneof![
        4 => (reply, mode.clone()).prop_map(|(reply, mode)| Outcome::Reply(reply, mode)),
        2 => mode.prop_map(Outcome::NoResponder),
        1 => Just(Outcome::Unknown),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    let phase = prop::sample::select(vec![
        ScanPhase::Started,
        ScanPhase::Started,
        ScanPhase::Evaluating,
        ScanPhase::Completed,
        ScanPhase::Failed,
    ]);
    prop_oneof![
        Just(Deed::Report),
        Just(Deed::IntegrationStatus { integration: "docker".to_owned(), status: "ready".to_owned() }),
        phase.prop_map(|phase| Deed::ScanPhase { phase, host_ms: None, profile: String::new(), text: String::new() }),
        Just(results("completed")),
        Just(results("failed")),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let one = 0_usize..1_000;
    let some = prop::collection::vec(0_usize..1_000, 1..4);
    let span = prop::sample::select(vec![SECOND, 5 * SECOND, 16 * SECOND, MINUTE, 11 * MINUTE, HOUR, 25 * HOUR]);
    prop_oneof![
        4 => (one.clone(), 1_usize..8, any::<u8>()).prop_map(|(kind, hosts, variant)| Act::Create { kind, hosts, variant }),
        8 => some.clone().prop_map(Act::Take),
        8 => (one.clone(), prop::bool::weighted(0.1), outcome())
            .prop_map(|(command, stale, outcome)| Act::Outcome { command, stale, outcome }),
        2 => (one.clone(), prop::bool::weighted(0.2)).prop_map(|(command, stale)| Act::Proved { command, stale }),
        2 => one.clone().prop_map(|command| Act::Lost { command }),
        2 => one.clone().prop_map(|command| Act::Cancel { command }),
        3 => some.prop_map(Act::Connect),
        2 => (one.clone(), any::<bool>()).prop_map(|(host, late)| Act::Disconnect { host, late }),
        5 => (one.clone(), deed()).prop_map(|(host, deed)| Act::Observe { host, deed }),
        3 => span.prop_map(Act::Advance),
        4 => Just(Act::Sweep),
        1 => Just(Act::Recover),
        1 => Just(Act::ClearHints),
        1 => one.prop_map(|host| Act::Remove { host }),
        1 => Just(Act::Retire),
    ]
}

/// What is known of a history so far.
struct History {
    world: World,
    hosts: Vec<Uuid>,
    commands: Vec<Uuid>,
    epochs: HashMap<Uuid, i64>,
    ends: HashMap<Uuid, State>,
}

impl History {
    async fn begin(world: World) -> Self {
        let hosts = world.many_hosts(3).await;
        Self { world, hosts, commands: Vec::new(), epochs: HashMap::new(), ends: HashMap::new() }
    }

    async fn attempt(&self, id: Uuid, stale: bool) -> i32 {
        let row = self.world.store.command(id).await.unwrap();
        row.map_or(0, |c| c.attempt) - i32::from(stale)
    }

    async fn event(&self, command: usize, stale: bool, event: impl FnOnce(i32) -> Event<'static>) {
        let Some(id) = pick(&self.commands, command) else { return };
        let event = event(self.attempt(id, stale).await);
        self.world.store.apply(&[(id, event)]).await.unwrap();
    }

    async fn act(&mut self, act: Act) {
        let store = self.world.store.clone();
        match act {
            Act::Create { kind, hosts, variant } => {
                let kind = Kind::ALL[kind % Kind::ALL.len()];
                let asked: Vec<Uuid> =
                    self.hosts.iter().enumerate().filter(|(i, _)| hosts >> i & 1 == 1).map(|(_, h)| *h).collect();
                let payload = match kind {
                    Kind::ComplianceScan => scan(&json!({
                        "profile_id": format!("p{}", variant % 3), "enable_remediation": variant & 4 == 4,
                    })),
                    Kind::SettingsUpdate => json!({"update_interval": if variant & 1 == 0 { 30 } else { 60 }}),
                    _ => super::store_world::payload(kind),
                };
                let expires_in_ms = if variant & 8 == 8 { MINUTE } else { 24 * HOUR };
                let batch = NewBatch { payload, expires_in_ms, ..batch(kind, &asked) };
                if let Ok(created) = store.create(&batch).await.unwrap() {
                    self.commands.extend(created.commands.iter().map(|c| c.id));
                }
            }
            Act::Take(commands) => {
                let ids = commands.iter().filter_map(|n| pick(&self.commands, *n));
                let events: Vec<_> = ids.map(|id| (id, super::store_world::TAKE)).collect();
                store.apply(&events).await.unwrap();
            }
            Act::Outcome { command, stale, outcome } => {
                self.event(command, stale, |attempt| Event::Outcome { attempt, outcome }).await;
            }
            Act::Proved { command, stale } => {
                self.event(command, stale, |attempt| Event::Proved { attempt, epoch: 1 }).await;
            }
            Act::Lost { command } => self.event(command, false, |attempt| Event::Lost { attempt }).await,
            Act::Cancel { command } => self.event(command, false, |_| Event::Cancel).await,
            Act::Connect(hosts) => {
                let mut once: Vec<Uuid> = hosts.iter().filter_map(|n| pick(&self.hosts, *n)).collect();
                once.sort_unstable();
                once.dedup();
                store.connect_hosts(&once.into_iter().map(connect).collect::<Vec<_>>()).await.unwrap();
            }
            Act::Disconnect { host, late } => {
                if let Some(host) = pick(&self.hosts, host) {
                    let epoch = self.epochs.get(&host).copied().unwrap_or(0) - i64::from(late);
                    store.disconnect_hosts(&[(host, epoch)]).await.unwrap();
                }
            }
            Act::Observe { host, deed } => {
                if let Some(host) = pick(&self.hosts, host) {
                    store.observe(host, &[deed]).await.unwrap();
                }
            }
            Act::Advance(ms) => self.world.advance(ms),
            Act::Sweep => {
                let found = self.world.sweep().await;
                let now = self.world.now();
                let due: HashMap<Uuid, Option<i64>> =
                    found.iter().map(|a| (a.command.id, a.command.next_check_at)).collect();
                for again in store.claim_due(1_000).await.unwrap() {
                    let claimed = due.get(&again.applied.command.id);
                    assert!(
                        claimed.is_none_or(|at| at.is_some_and(|at| at <= now + SECOND)),
                        "a row was claimed twice"
                    );
                }
            }
            Act::Recover => drop(store.recover().await.unwrap()),
            Act::ClearHints => drop(store.clear_hints().await.unwrap()),
            Act::Remove { host } => {
                // One stays, or there is no history left to tell.
                if self.hosts.len() > 1 {
                    let host = self.hosts.remove(host % self.hosts.len());
                    store.remove_host(host).await.unwrap().unwrap();
                    let open = format!("SELECT COUNT(*) FROM commands WHERE final = 0 AND host_id = '{host}'");
                    assert_eq!(self.world.number(&open).await, 0, "its commands end with it");
                }
            }
            Act::Retire => drop(store.retire(&keep(24 * HOUR)).await.unwrap()),
        }
    }

    /// What must hold now, given what held before.
    async fn check(&mut self) {
        self.world.assert_sound().await;
        for host in &self.hosts {
            let epoch = self.world.store.host(*host).await.unwrap().unwrap().facts.epoch;
            let before = self.epochs.insert(*host, epoch).unwrap_or(0);
            assert!(epoch >= before, "an epoch went back");
        }
        for id in &self.commands {
            // Retention may have taken it.
            let Some(row) = self.world.store.command(*id).await.unwrap() else { continue };
            if row.is_final() {
                let end = *self.ends.entry(*id).or_insert(row.state);
                assert_eq!(row.state, end, "an end was left");
                assert!(row.times.at(row.state).is_some());
            } else {
                assert!(!self.ends.contains_key(id), "an end was left for {:?}", row.state);
                assert!(row.expires_at >= row.times.at(State::Queued).unwrap(), "it expires before it was asked");
            }
        }
    }
}

fn pick(from: &[Uuid], n: usize) -> Option<Uuid> {
    (!from.is_empty()).then(|| from[n % from.len()])
}

/// Runs histories on stores made by `world`.
fn histories<F: Future<Output = World>>(world: impl Fn() -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Config { cases: 24, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let acts = prop::collection::vec(act(), 1..50);
    let run = TestRunner::new(config).run(&acts, |acts| {
        runtime.block_on(async {
            let mut history = History::begin(world().await).await;
            for act in acts {
                history.act(act).await;
                history.check().await;
            }
        });
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
}

mod sqlite {
    #[test]
    fn random_histories_stay_sound() {
        super::histories(crate::contract::store_world::World::sqlite);
    }
}

//! Facts from sockets on their way to the store: bounded, in order, in batches, kept while the store is away.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::{Bus, publish_json, trace};
use jobs::{Deed, Event};
use schemas::{
    agent::ScanProgress,
    event::{self, EventKind},
    subject,
};
use serde_json::{json, value::to_raw_value};
use store::{Applied, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::App;

/// Facts that wait at most. What is dropped beyond it is found again: a lost proof by the sweep's question.
const CAPACITY: usize = 16_384;
/// Facts in one transaction.
const BATCH: usize = 256;
/// How long a flush may take: a result must not wait for ever for progress before it.
const FLUSH_WAIT: Duration = Duration::from_secs(2);

/// Something a socket saw.
#[derive(Debug)]
pub enum Fact {
    /// A pong proved the frame of an attempt, after its answer had gone out.
    Proved {
        /// The command.
        id: Uuid,
        /// Its attempt.
        attempt: i32,
        /// Epoch of the connection.
        epoch: i64,
    },
    /// The connection ended before a pong proved the frame.
    Lost {
        /// The command.
        id: Uuid,
        /// Its attempt.
        attempt: i32,
    },
    /// A scan told how far it is.
    Progress {
        /// The host.
        host_id: Uuid,
        /// As the agent said it.
        progress: Box<ScanProgress>,
        /// What it means.
        deed: Box<Deed>,
    },
    /// The agent holds these shells no longer.
    ShellsLeft(Vec<Uuid>),
    /// Everything before is stored when this is answered.
    Flush(oneshot::Sender<()>),
}

/// The way to the store.
pub struct Facts {
    sender: mpsc::Sender<Fact>,
    /// Facts that are not stored yet, those in the writer's hand included.
    pending: Arc<AtomicUsize>,
}

impl Facts {
    /// Starts the task; it ends when `closing`, and what came is stored.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, bus: Arc<dyn Bus>, tasks: &TaskTracker, closing: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let pending = Arc::default();
        let writer = Writer { store, bus, closing, pending: Arc::clone(&pending) };
        tasks.spawn(writer.run(receiver));
        Self { sender, pending }
    }

    /// Hands a fact over, without waiting. False: it found no place.
    pub fn record(&self, fact: Fact) -> bool {
        self.pending.fetch_add(1, Ordering::AcqRel);
        let taken = self.sender.try_send(fact).is_ok();
        if !taken {
            self.pending.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }

    /// Facts that are not stored yet.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Waits, bounded, until the facts that came before are stored.
    pub async fn flush(&self) {
        if self.depth() == 0 {
            return;
        }
        let (done, wait) = oneshot::channel();
        self.record(Fact::Flush(done));
        let _ = tokio::time::timeout(FLUSH_WAIT, wait).await;
    }
}

/// Events for commands, each command at most once a turn.
#[derive(Default)]
struct Moves {
    turns: Vec<Vec<(Uuid, Event<'static>)>>,
    in_turn: HashSet<Uuid>,
}

impl Moves {
    fn add(&mut self, id: Uuid, event: Event<'static>) {
        match self.turns.last_mut() {
            Some(turn) if self.in_turn.insert(id) => turn.push((id, event)),
            _ => {
                self.in_turn = HashSet::from([id]);
                self.turns.push(vec![(id, event)]);
            }
        }
    }
}

struct Writer {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    closing: CancellationToken,
    pending: Arc<AtomicUsize>,
}

impl Writer {
    async fn run(self, mut receiver: mpsc::Receiver<Fact>) {
        let mut facts = Vec::with_capacity(BATCH);
        loop {
            let n = tokio::select! {
                biased;
                n = receiver.recv_many(&mut facts, BATCH) => n,
                () = self.closing.cancelled() => 0,
            };
            if n == 0 {
                break;
            }
            let span = tracing::info_span!(target: trace::TARGET, parent: None, "store facts", patchbay.facts = i64::try_from(n).unwrap_or(i64::MAX));
            self.write(&mut facts).instrument(span).await;
            self.pending.fetch_sub(n, Ordering::AcqRel);
        }
    }

    /// Proofs first, losses last: a scan that told of itself before its connection ended is not lost.
    async fn write(&self, facts: &mut Vec<Fact>) {
        self.tell_progress(facts).await;
        let (mut proved, mut lost) = (Moves::default(), Moves::default());
        let (mut flushes, mut shells) = (Vec::new(), Vec::new());
        let mut deeds: Vec<(Uuid, Vec<Deed>)> = Vec::new();
        for fact in facts.drain(..) {
            match fact {
                Fact::Proved { id, attempt, epoch } => proved.add(id, Event::Proved { attempt, epoch }),
                Fact::Lost { id, attempt } => lost.add(id, Event::Lost { attempt }),
                Fact::Progress { host_id, deed, .. } => match deeds.iter_mut().find(|(id, _)| *id == host_id) {
                    Some((_, of_host)) => of_host.push(*deed),
                    None => deeds.push((host_id, vec![*deed])),
                },
                Fact::ShellsLeft(ids) => shells.extend(ids),
                Fact::Flush(done) => flushes.push(done),
            }
        }
        self.apply(proved).await;
        for (host_id, of_host) in deeds {
            let stored = self.persist(|| self.store.observe(host_id, &of_host)).await;
            announce_on(self.bus.as_ref(), &stored).await;
        }
        self.apply(lost).await;
        if !shells.is_empty() {
            let left = async || self.store.terminals_left_agent(&shells).await.map(|()| Vec::new());
            self.persist(left).await;
        }
        for done in flushes {
            let _ = done.send(());
        }
    }

    async fn apply(&self, moves: Moves) {
        for turn in moves.turns {
            let stored = self.persist(|| self.store.apply(&turn)).await;
            announce_on(self.bus.as_ref(), &stored).await;
        }
    }

    /// Tries until the store takes it, or the process ends.
    async fn persist<F, Fut>(&self, mut write: F) -> Vec<Applied>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Vec<Applied>, StoreError>>,
    {
        let mut wait = Duration::from_millis(50);
        loop {
            match write().await {
                Ok(applied) => return applied,
                Err(StoreError::Unavailable(_)) if !self.closing.is_cancelled() => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(Duration::from_secs(1));
                }
                Err(error) => {
                    tracing::error!(%error, "facts of agents are lost: the sweep will find out what became of them");
                    return Vec::new();
                }
            }
        }
    }

    /// Progress is told at once, whatever the store does.
    async fn tell_progress(&self, facts: &[Fact]) {
        for fact in facts {
            let Fact::Progress { host_id, progress, .. } = fact else { continue };
            let body = json!({
                "host_id": host_id,
                "phase": progress.phase,
                "profile_name": progress.profile_name,
                "message": progress.message,
                "progress": progress.progress,
                "error": progress.error,
                "timestamp": progress.timestamp,
            });
            let Ok(data) = to_raw_value(&body) else { continue };
            let event = event::Event { host_id: *host_id, kind: EventKind::ScanProgress, data, order: None };
            let _ = publish_json(self.bus.as_ref(), &subject::host_changed(*host_id), &event).await;
        }
    }
}

/// Tells everybody which commands moved.
pub async fn announce(app: &App, applied: &[Applied]) {
    announce_on(app.bus.as_ref(), applied).await;
}

/// The same, for what has no gateway at hand. What is done now has to do with the requests that the commands are of.
pub async fn announce_on(bus: &dyn Bus, applied: &[Applied]) {
    let here = Span::current();
    for moved in applied.iter().filter(|a| a.step.moved) {
        trace::link_stored(&here, moved.command.traceparent.as_deref());
        if let Some(event) = jobs::view::event(&moved.command) {
            // Nobody may be listening: an event is news, the row is the truth.
            let _ = publish_json(bus, &subject::host_changed(event.host_id), &event).await;
        }
    }
}

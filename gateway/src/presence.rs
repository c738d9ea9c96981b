//! Who is connected here, and the group commit of connects and disconnects.

mod again;
mod alive;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bus::{Bus, BusError, publish_json};
use parking_lot::Mutex;
use schemas::{ApiId, event::Event, subject};
use store::{Connect, Connected, Store};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::facts::announce_on;

/// Most hosts in one transaction.
const GROUP: usize = 256;
/// Most connects and disconnects that wait.
const WAITING: usize = 65_536;
/// How long a connect waits for a store that is away.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

type Ask = (Connect, oneshot::Sender<Connected>);

/// A connection that this gateway holds.
#[derive(Debug, Clone)]
pub struct Held {
    /// What the agent calls itself.
    pub api_id: ApiId,
    /// Number among the host's connections.
    pub epoch: i64,
    /// Which connection it is.
    pub connection: Uuid,
    /// Version of the key that was checked.
    pub key_version: i64,
    /// Came over TLS.
    pub secure: bool,
}

/// By host.
type Holdings = Arc<Mutex<HashMap<Uuid, Held>>>;

/// Presence of one gateway.
pub struct Presence {
    admitted: Arc<AtomicUsize>,
    held: Holdings,
    connects: mpsc::Sender<Ask>,
    ends: mpsc::Sender<(Uuid, i64)>,
}

/// A place among the connections this gateway may hold; freed when dropped.
pub struct Admission(Arc<AtomicUsize>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An agent that this gateway holds; forgotten when dropped, unless a newer connection took its place.
pub struct Holding {
    held: Holdings,
    host_id: Uuid,
    epoch: i64,
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if held.get(&self.host_id).is_some_and(|h| h.epoch == self.epoch) {
            held.remove(&self.host_id);
        }
    }
}

/// What the tasks of presence need.
#[derive(Clone)]
struct Parts {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    gateway_id: Uuid,
    closing: CancellationToken,
}

impl Presence {
    /// Starts the tasks; they end when `closing`.
    #[must_use]
    pub fn start(
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        gateway_id: Uuid,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Self {
        let (connects, asks) = mpsc::channel(WAITING);
        let (ends, ended) = mpsc::channel(WAITING);
        let held = Holdings::default();
        let parts = Parts { store, bus, gateway_id, closing };
        tasks.spawn(commit_connects(parts.clone(), asks));
        tasks.spawn(commit_ends(parts.clone(), ended));
        tasks.spawn(again::run(parts, Arc::clone(&held)));
        Self { admitted: Arc::default(), held, connects, ends }
    }

    /// A place for one more connection, if there is one.
    #[must_use]
    pub fn admit(&self, max: usize) -> Option<Admission> {
        let place = self.admitted.fetch_add(1, Ordering::AcqRel);
        let admission = Admission(Arc::clone(&self.admitted));
        (place < max).then_some(admission)
    }

    /// Agents held here now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.lock().len()
    }

    /// Notes that this gateway holds the agent.
    #[must_use]
    pub fn hold(&self, host_id: Uuid, mine: Held) -> Holding {
        let epoch = mine.epoch;
        let mut held = self.held.lock();
        if held.get(&host_id).is_none_or(|h| h.epoch < epoch) {
            held.insert(host_id, mine);
        }
        Holding { held: Arc::clone(&self.held), host_id, epoch }
    }

    /// Answers whoever asks whether this gateway lives, until `closing`.
    ///
    /// # Errors
    /// When the bus is away.
    pub async fn answer_for(
        &self,
        bus: &Arc<dyn Bus>,
        gateway_id: Uuid,
        tasks: &TaskTracker,
        closing: CancellationToken,
    ) -> Result<(), BusError> {
        alive::start(bus, gateway_id, Arc::clone(&self.held), tasks, closing).await
    }

    /// What this gateway holds: api_ids.
    #[must_use]
    pub fn api_ids(&self) -> Vec<ApiId> {
        self.held.lock().values().map(|h| h.api_id.clone()).collect()
    }

    /// Makes the connection its host's newest. `None`: the store was away for too long.
    pub async fn connect(&self, connect: Connect) -> Option<Connected> {
        let (answer, answered) = oneshot::channel();
        self.connects.try_send((connect, answer)).ok()?;
        tokio::time::timeout(CONNECT_WAIT, answered).await.ok()?.ok()
    }

    /// The connection ended.
    pub async fn left(&self, host_id: Uuid, epoch: i64) {
        // The queue is emptied even while the store is away, so this does not wait for it.
        let _ = self.ends.send((host_id, epoch)).await;
    }
}

/// Commits connects in groups: whatever has come while the last group was written. A host is at most once in a group.
async fn commit_connects(parts: Parts, mut asks: mpsc::Receiver<Ask>) {
    let mut waiting: VecDeque<Ask> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let next = tokio::select! {
                biased;
                next = asks.recv() => next,
                () = parts.closing.cancelled() => None,
            };
            let Some(ask) = next else { break };
            waiting.push_back(ask);
        }
        while waiting.len() < GROUP
            && let Ok(ask) = asks.try_recv()
        {
            waiting.push_back(ask);
        }
        let (group, rest) = once_each(waiting);
        waiting = rest;
        commit_group(&parts, group).await;
    }
}

fn once_each(waiting: VecDeque<Ask>) -> (Vec<Ask>, VecDeque<Ask>) {
    let mut hosts = HashSet::new();
    let mut rest = VecDeque::new();
    let mut group = Vec::with_capacity(waiting.len());
    for ask in waiting {
        if hosts.insert(ask.0.host_id) {
            group.push(ask);
        } else {
            rest.push_back(ask);
        }
    }
    // Rows are locked in the order of their ids.
    group.sort_by_key(|ask| ask.0.host_id);
    (group, rest)
}

async fn commit_group(parts: &Parts, mut group: Vec<Ask>) {
    let started = tokio::time::Instant::now();
    loop {
        // Who gave up waiting must not become the host's newest.
        group.retain(|(_, answer)| !answer.is_closed());
        if group.is_empty() {
            return;
        }
        let connects: Vec<Connect> = group.iter().map(|(connect, _)| connect.clone()).collect();
        match parts.store.connect_hosts(&connects).await {
            Ok((outcomes, woken)) => {
                answer_group(parts, group, outcomes).await;
                announce_on(parts.bus.as_ref(), &woken).await;
                return;
            }
            Err(error) if started.elapsed() < CONNECT_WAIT => {
                tracing::warn!(%error, hosts = connects.len(), "connects wait for the store");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) => {
                tracing::error!(%error, hosts = connects.len(), "connects given up");
                return;
            }
        }
    }
}

async fn answer_group(parts: &Parts, group: Vec<Ask>, outcomes: Vec<Connected>) {
    let mut orphans = Vec::new();
    for ((connect, answer), outcome) in group.into_iter().zip(outcomes) {
        let epoch = match outcome {
            Connected::Epoch { epoch, .. } => Some(epoch),
            Connected::Refused => None,
        };
        match (answer.send(outcome), epoch) {
            (Ok(()), Some(_)) => tell(parts, connect.host_id, true, connect.secure).await,
            // Its client gave up while the group was written: nobody holds this host now.
            (Err(_), Some(epoch)) => orphans.push((connect.host_id, epoch)),
            (_, None) => {}
        }
    }
    if !orphans.is_empty()
        && let Err(error) = parts.store.disconnect_hosts(&orphans).await
    {
        tracing::warn!(%error, hosts = orphans.len(), "hints of clients that gave up are not cleared");
    }
}

async fn commit_ends(parts: Parts, mut ended: mpsc::Receiver<(Uuid, i64)>) {
    let mut group = Vec::new();
    loop {
        if group.is_empty() {
            let next = tokio::select! {
                biased;
                next = ended.recv() => next,
                () = parts.closing.cancelled() => None,
            };
            let Some(end) = next else { break };
            group.push(end);
        }
        while group.len() < GROUP
            && let Ok(end) = ended.try_recv()
        {
            group.push(end);
        }
        match parts.store.disconnect_hosts(&group).await {
            Ok(newest) => {
                for ((host_id, _), _) in group.iter().zip(newest).filter(|(_, newest)| *newest) {
                    tell(&parts, *host_id, false, false).await;
                }
                group.clear();
            }
            Err(error) if parts.closing.is_cancelled() => {
                tracing::error!(%error, hosts = group.len(), "disconnects are not stored: the hints will be cleared at the next start");
                break;
            }
            Err(error) => {
                tracing::warn!(%error, hosts = group.len(), "disconnects wait for the store");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

async fn tell(parts: &Parts, host_id: Uuid, connected: bool, secure: bool) {
    if let Ok(event) = Event::presence(host_id, connected, secure, parts.store.clock().now_ms()) {
        let _ = publish_json(parts.bus.as_ref(), &subject::host_changed(host_id), &event).await;
    }
}

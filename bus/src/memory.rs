//! The bus of one process. It behaves as NATS does, losses included, so that nothing comes to depend on more.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use schemas::TraceContext;
use tokio::sync::{
    mpsc::{self, error::TrySendError},
    watch,
};

use crate::{BODY_MAX, Bus, BusError, BusStatus, Message, Replies, Subscribe, Subscription, pattern::Shape};

/// Most answers that wait unread for one request.
const REPLIES_MAX: usize = 8;

/// An in-process bus.
pub struct MemoryBus {
    inner: Arc<Inner>,
    status: watch::Sender<BusStatus>,
}

struct Inner {
    table: RwLock<Table>,
    next_id: AtomicU64,
    /// How often a group's member was chosen.
    turns: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Table {
    by_pattern: HashMap<Box<str>, Vec<Subscriber>>,
    /// Live shapes and how many patterns have each.
    shapes: HashMap<Shape, usize>,
    /// Inboxes of requests under way.
    inboxes: HashMap<u64, mpsc::Sender<Box<Message>>>,
}

struct Subscriber {
    id: u64,
    group: Option<Box<str>>,
    sender: mpsc::Sender<Box<Message>>,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

const INBOX: &str = "_INBOX.";

impl MemoryBus {
    /// An empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                table: RwLock::default(),
                next_id: AtomicU64::new(1),
                turns: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
            }),
            status: watch::Sender::new(BusStatus::Up),
        }
    }

    /// Makes the bus behave as a broker that cannot be reached, or can again: for tests of outages.
    pub fn set_away(&self, away: bool) {
        let now = if away { BusStatus::Down } else { BusStatus::Up };
        self.status.send_if_modified(|status| std::mem::replace(status, now) != now);
    }

    fn check(&self, body: &Bytes) -> Result<(), BusError> {
        if body.len() > BODY_MAX {
            return Err(BusError::TooLarge);
        }
        match *self.status.borrow() {
            BusStatus::Up => Ok(()),
            BusStatus::Down | BusStatus::Closed => Err(BusError::Disconnected),
        }
    }
}

impl Inner {
    /// Hands the message to all who listen; says how many that were, full queues included.
    fn deliver(&self, message: &Message) -> usize {
        let table = self.table.read();
        if let Some(inbox) = message.subject.strip_prefix(INBOX) {
            let inbox = inbox.parse().ok().and_then(|id: u64| table.inboxes.get(&id));
            return usize::from(inbox.is_some_and(|sender| self.push(sender, message) == Pushed::Taken));
        }
        let mut reached = 0;
        for shape in table.shapes.keys() {
            let Some(subscribers) =
                shape.apply(&message.subject).and_then(|pattern| table.by_pattern.get(pattern.as_str()))
            else {
                continue;
            };
            let mut groups: HashMap<&str, Vec<&Subscriber>> = HashMap::new();
            for subscriber in subscribers {
                if let Some(group) = &subscriber.group {
                    groups.entry(group).or_default().push(subscriber);
                } else {
                    reached += usize::from(self.push(&subscriber.sender, message) != Pushed::Gone);
                }
            }
            for members in groups.values() {
                // A member that is leaving hands its turn on.
                let first = self.turn(members.len());
                let mut turns = (0..members.len()).map(|n| members[(first + n) % members.len()]);
                reached += usize::from(turns.any(|m| self.push(&m.sender, message) != Pushed::Gone));
            }
        }
        reached
    }

    /// Which member of a group is next. As if by chance: in turn, two groups, or a group that is asked by one asker who
    /// takes numbers too, would each see every other number only.
    fn turn(&self, members: usize) -> usize {
        let mut n = self.turns.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n ^= n >> 31;
        usize::try_from(n % members as u64).unwrap_or(0)
    }

    fn push(&self, sender: &mpsc::Sender<Box<Message>>, message: &Message) -> Pushed {
        match sender.try_send(Box::new(message.clone())) {
            Ok(()) => Pushed::Taken,
            Err(TrySendError::Full(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                Pushed::Dropped
            }
            Err(TrySendError::Closed(_)) => Pushed::Gone,
        }
    }
}

/// What became of a message at one subscriber.
#[derive(PartialEq, Eq)]
enum Pushed {
    Taken,
    /// Its queue is full. It listens all the same.
    Dropped,
    /// It is unsubscribing.
    Gone,
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<(), BusError> {
        self.check(&body)?;
        self.inner.deliver(&Message { subject: subject.into(), body, reply: None, trace });
        Ok(())
    }

    async fn subscribe(&self, pattern: &str, how: Subscribe<'_>) -> Result<Subscription, BusError> {
        self.check(&Bytes::new())?;
        let (sender, receiver) = mpsc::channel(how.capacity.max(1));
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let mut table = self.inner.table.write();
        let subscribers = table.by_pattern.entry(pattern.into()).or_default();
        let first = subscribers.is_empty();
        subscribers.reserve_exact(1);
        subscribers.push(Subscriber { id, group: how.group.map(Into::into), sender });
        if first {
            *table.shapes.entry(Shape::of(pattern)).or_default() += 1;
        }
        let guard = Unsubscribe { bus: Arc::downgrade(&self.inner), pattern: pattern.into(), id };
        Ok(Subscription::new(receiver, Box::new(guard)))
    }

    async fn ask(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<Replies, BusError> {
        self.check(&body)?;
        let (sender, receiver) = mpsc::channel(REPLIES_MAX);
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        self.inner.table.write().inboxes.insert(id, sender);
        let guard = CloseInbox { bus: Arc::downgrade(&self.inner), id };
        let reached = self.inner.deliver(&Message {
            subject: subject.into(),
            body,
            reply: Some(format!("{INBOX}{id}").into()),
            trace,
        });
        if reached == 0 {
            return Err(BusError::NoResponder);
        }
        Ok(Replies::new(receiver, Box::new(guard)))
    }

    fn status(&self) -> watch::Receiver<BusStatus> {
        self.status.subscribe()
    }

    fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }
}

struct Unsubscribe {
    bus: Weak<Inner>,
    pattern: Box<str>,
    id: u64,
}

impl Drop for Unsubscribe {
    fn drop(&mut self) {
        let Some(bus) = self.bus.upgrade() else {
            return;
        };
        let mut table = bus.table.write();
        let Some(subscribers) = table.by_pattern.get_mut(&self.pattern) else {
            return;
        };
        subscribers.retain(|s| s.id != self.id);
        if subscribers.is_empty() {
            table.by_pattern.remove(&self.pattern);
            let shape = Shape::of(&self.pattern);
            if let Some(count) = table.shapes.get_mut(&shape) {
                *count -= 1;
                if *count == 0 {
                    table.shapes.remove(&shape);
                }
            }
        }
    }
}

struct CloseInbox {
    bus: Weak<Inner>,
    id: u64,
}

impl Drop for CloseInbox {
    fn drop(&mut self) {
        if let Some(bus) = self.bus.upgrade() {
            bus.table.write().inboxes.remove(&self.id);
        }
    }
}

//! Publish, subscribe, request: in this process (`memory:`), or over NATS (`nats://…`).
//!
//! The contract, the same for every adapter: delivery at most once; messages of one publisher to one subject arrive in
//! order; every subscriber has a bounded queue, and what does not fit is dropped and counted; a late subscriber gets
//! nothing from before; a request that nobody listens to fails at once with [`BusError::NoResponder`].

mod memory;
mod nats;
mod pattern;
pub mod trace;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
pub use memory::MemoryBus;
pub use nats::{LoginFile, NatsBus, NatsError, NatsOptions, NatsUrl, SubjectPrefix};
use schemas::TraceContext;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, watch};

/// The largest body a message may have, in bytes. NATS' default is 1 MiB.
pub const BODY_MAX: usize = 1 << 20;

/// Capacity of the subscriptions that there are many of: one an agent. Asked for with exactly this, and in no group, they
/// cost least and are spread over the connections that an adapter has for them.
pub const MAILBOX: usize = 128;

/// One message.
#[derive(Clone)]
pub struct Message {
    /// The subject it was published to.
    pub subject: Arc<str>,
    /// The body: JSON.
    pub body: Bytes,
    /// Where an answer goes, if one is wanted.
    pub reply: Option<Arc<str>>,
    /// The trace this belongs to.
    pub trace: Option<TraceContext>,
}

impl Message {
    /// Reads the body.
    ///
    /// # Errors
    /// What serde_json says of a body of another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Bodies may carry sealed credentials: their size is all a log gets.
        f.debug_struct("Message")
            .field("subject", &self.subject)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why a message did not get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Nobody listens to that subject: for an agent's subject this means offline.
    #[error("nobody answers to that subject")]
    NoResponder,
    /// Somebody may have got it; no answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// The bus cannot be reached now.
    #[error("the bus is away")]
    Disconnected,
    /// The body is over [`BODY_MAX`], or over what the broker takes.
    #[error("the message is too large")]
    TooLarge,
}

/// Is the bus there?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusStatus {
    /// Yes.
    Up,
    /// Not now; it is being tried again.
    Down,
    /// Never again: the process must be restarted.
    Closed,
}

/// How to subscribe.
#[derive(Debug, Clone, Copy)]
pub struct Subscribe<'a> {
    /// Most messages that wait unread; more are dropped and counted.
    pub capacity: usize,
    /// Members of one group share the messages: each goes to one of them.
    pub group: Option<&'a str>,
}

impl Subscribe<'_> {
    /// Every message, at most `capacity` of them waiting.
    #[must_use]
    pub fn all(capacity: usize) -> Self {
        Self { capacity, group: None }
    }
}

/// Messages that come in. Dropping it unsubscribes.
pub struct Subscription(Source);

enum Source {
    /// A queue of ours, and what ends the subscription.
    Queue(mpsc::Receiver<Box<Message>>, #[expect(dead_code, reason = "held to be dropped")] Box<dyn Send + Sync>),
    /// The client library's own queue: a second one would cost each agent as much again.
    Nats(nats::Mailbox),
}

impl Subscription {
    pub(crate) fn new(receiver: mpsc::Receiver<Box<Message>>, guard: Box<dyn Send + Sync>) -> Self {
        Self(Source::Queue(receiver, guard))
    }

    pub(crate) fn nats(mailbox: nats::Mailbox) -> Self {
        Self(Source::Nats(mailbox))
    }

    /// A message that has come already, without waiting.
    pub fn try_next(&mut self) -> Option<Message> {
        match &mut self.0 {
            Source::Queue(receiver, _) => receiver.try_recv().ok().map(|m| *m),
            Source::Nats(mailbox) => mailbox.try_next(),
        }
    }

    /// The next message; `None` when the bus is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Message> {
        match &mut self.0 {
            Source::Queue(receiver, _) => receiver.recv().await.map(|m| *m),
            Source::Nats(mailbox) => mailbox.next().await,
        }
    }

    /// The same for who waits for other things too, and has no room for a future of each.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        match &mut self.0 {
            Source::Queue(receiver, _) => receiver.poll_recv(cx).map(|message| message.map(|m| *m)),
            Source::Nats(mailbox) => mailbox.poll_next(cx),
        }
    }
}

/// The answers to one request, as they come.
pub struct Replies {
    receiver: mpsc::Receiver<Box<Message>>,
    _guard: Box<dyn Send + Sync>,
}

impl Replies {
    pub(crate) fn new(receiver: mpsc::Receiver<Box<Message>>, guard: Box<dyn Send + Sync>) -> Self {
        Self { receiver, _guard: guard }
    }

    /// The next answer.
    ///
    /// # Errors
    /// [`BusError::Timeout`] when none came within `wait`.
    pub async fn next(&mut self, wait: Duration) -> Result<Message, BusError> {
        match tokio::time::timeout(wait, self.receiver.recv()).await {
            Ok(Some(message)) => Ok(*message),
            Ok(None) => Err(BusError::Disconnected),
            Err(_) => Err(BusError::Timeout),
        }
    }
}

/// The port. Adapters behave alike; one contract suite runs on each.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends to whoever listens now.
    ///
    /// # Errors
    /// `Disconnected` or `TooLarge`. That nobody listens is no error.
    async fn publish(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<(), BusError>;

    /// Listens to a pattern: tokens between dots, `*` for any one token, a last `>` for the rest. When this returns,
    /// messages published from now on arrive.
    ///
    /// # Errors
    /// `Disconnected`.
    async fn subscribe(&self, pattern: &str, how: Subscribe<'_>) -> Result<Subscription, BusError>;

    /// Sends a request; the answers of all who listen come by the returned [`Replies`].
    ///
    /// # Errors
    /// `NoResponder` at once when nobody listens, `Disconnected`, `TooLarge`.
    async fn ask(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<Replies, BusError>;

    /// Is it there? Changes are seen by the receiver. After an outage it is `Up` only when every subscription from before
    /// is in force again.
    fn status(&self) -> watch::Receiver<BusStatus>;

    /// Messages dropped so far because a subscriber's queue was full.
    fn dropped(&self) -> u64;

    /// Waits, bounded, until what was published is out of this process: before it ends.
    async fn flush(&self) {}
}

/// Publishes a value as JSON.
///
/// # Errors
/// Those of [`Bus::publish`].
pub async fn publish_json<T: Serialize + Sync>(bus: &dyn Bus, subject: &str, value: &T) -> Result<(), BusError> {
    let body = serde_json::to_vec(value).map_err(|_| BusError::TooLarge)?;
    bus.publish(subject, body.into(), None).await
}

/// Asks, and takes the first answer.
///
/// # Errors
/// Those of [`Bus::ask`], and `Timeout` past `wait`.
pub async fn request_json<T: Serialize + Sync>(
    bus: &dyn Bus,
    subject: &str,
    value: &T,
    trace: Option<TraceContext>,
    wait: Duration,
) -> Result<Message, BusError> {
    let body = serde_json::to_vec(value).map_err(|_| BusError::TooLarge)?;
    let mut replies = bus.ask(subject, body.into(), trace).await?;
    replies.next(wait).await
}

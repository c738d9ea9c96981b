//! The bus over NATS (core NATS, server 2.9 or newer, no JetStream). The only module that names async-nats.
//!
//! One connection carries what is published, asked and heard in general; further ones carry the agents' subscriptions,
//! spread by subject. What goes wrong between us and the server is this module's business: every call ends within two
//! seconds, and while the server is away nothing is kept to go out late.

mod client;
mod link;
mod message;
mod options;

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_nats::Subscriber;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use schemas::TraceContext;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    task::AbortHandle,
    time::Instant,
};

pub use self::{
    client::NatsError,
    options::{LoginFile, NatsOptions, NatsUrl, SubjectPrefix},
};
pub(crate) use message::Mailbox;

use self::{
    client::Signals,
    link::{Board, Link},
    message::{headers, incoming},
};
use crate::{BODY_MAX, Bus, BusError, BusStatus, MAILBOX, Replies, Subscribe, Subscription};

/// Messages that wait for one subscription of the general connection, before its own queue; answers to all requests
/// are one of these subscriptions.
const GENERAL_CAPACITY: usize = 8_192;

/// A bus over NATS.
pub struct NatsBus {
    general: Link,
    /// At least one.
    agents: Vec<Link>,
    prefix: SubjectPrefix,
    board: Arc<Board>,
    /// Messages that found a queue of ours full.
    dropped: Arc<AtomicU64>,
}

impl NatsBus {
    /// Connects, and sees that messages pass.
    ///
    /// # Errors
    /// [`NatsError`] says what is wrong in one line: at once for what no further attempt would change, after
    /// `start_within` for a server that is not there.
    pub async fn connect(options: &NatsOptions) -> Result<Self, NatsError> {
        let until = Instant::now() + options.start_within;
        let many = options.agent_connections.max(1);
        let board = Arc::new(Board::new(1 + many));
        let general = open(options, GENERAL_CAPACITY, &board, 0, until).await?;
        let mut agents = Vec::with_capacity(many);
        for index in 1..=many {
            agents.push(open(options, MAILBOX, &board, index, until).await?);
        }
        tracing::info!(servers = %options.url, prefix = %options.prefix, connections = 1 + many, "connected to NATS");
        Ok(Self { general, agents, prefix: options.prefix.clone(), board, dropped: Arc::default() })
    }

    /// Requests that are remembered because somebody waits for an answer.
    #[doc(hidden)]
    #[must_use]
    pub fn requests_under_way(&self) -> usize {
        self.general.requests_under_way()
    }

    fn check(&self, body: &Bytes) -> Result<(), BusError> {
        if body.len() > BODY_MAX {
            return Err(BusError::TooLarge);
        }
        match self.board.status() {
            BusStatus::Up => Ok(()),
            BusStatus::Down | BusStatus::Closed => Err(BusError::Disconnected),
        }
    }

    /// The same for the same pattern, whoever asks.
    fn agents_link(&self, pattern: &str) -> &Link {
        let mut hasher = DefaultHasher::new();
        pattern.hash(&mut hasher);
        let at = hasher.finish() % self.agents.len() as u64;
        &self.agents[usize::try_from(at).unwrap_or(0)]
    }

    /// A queue of the wanted capacity behind the library's, whose capacity is one for all.
    fn queue(&self, mut subscriber: Subscriber, capacity: usize) -> Subscription {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let (prefix, dropped) = (self.prefix.clone(), Arc::clone(&self.dropped));
        let task = tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                let Some(message) = incoming(&prefix, message) else { continue };
                match sender.try_send(Box::new(message)) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => {
                        dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(TrySendError::Closed(_)) => break,
                }
            }
        });
        Subscription::new(receiver, Box::new(Forward(task.abort_handle())))
    }
}

async fn open(
    options: &NatsOptions,
    capacity: usize,
    board: &Arc<Board>,
    index: usize,
    until: Instant,
) -> Result<Link, NatsError> {
    let signals = Arc::new(Signals::default());
    let client = client::connect(options, capacity, &signals, until).await?;
    let forbidden = |error: BusError| NatsError::Forbidden {
        servers: options.url.to_string(),
        prefix: options.prefix.to_string(),
        reason: signals.complaint().unwrap_or_else(|| error.to_string()),
    };
    let link = Link::start(client, options, Arc::clone(&signals), board, index).await.map_err(forbidden)?;
    loop {
        match link.confirm().await {
            Ok(()) => return Ok(link),
            // Slow is not forbidden.
            Err(_) if signals.complaint().is_none() && Instant::now() + client::PAUSE < until => {
                tokio::time::sleep(client::PAUSE).await;
            }
            Err(error) => return Err(forbidden(error)),
        }
    }
}

/// Ends the subscription with its task.
struct Forward(AbortHandle);

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<(), BusError> {
        self.check(&body)?;
        self.general.send(self.prefix.before(subject), None, body, headers(trace.as_ref())).await
    }

    async fn subscribe(&self, pattern: &str, how: Subscribe<'_>) -> Result<Subscription, BusError> {
        self.check(&Bytes::new())?;
        let subject = self.prefix.before(pattern);
        if how.capacity == MAILBOX && how.group.is_none() {
            let subscriber = self.agents_link(pattern).subscribe(subject, None).await?;
            return Ok(Subscription::nats(Mailbox::new(subscriber, self.prefix.clone())));
        }
        let subscriber = self.general.subscribe(subject, how.group).await?;
        Ok(self.queue(subscriber, how.capacity))
    }

    async fn ask(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<Replies, BusError> {
        self.check(&body)?;
        self.general.ask(self.prefix.before(subject), body, headers(trace.as_ref())).await
    }

    fn status(&self) -> watch::Receiver<BusStatus> {
        self.board.subscribe()
    }

    fn dropped(&self) -> u64 {
        let links = std::iter::once(&self.general).chain(&self.agents);
        self.dropped.load(Ordering::Relaxed) + links.map(Link::dropped).sum::<u64>()
    }

    async fn flush(&self) {
        let links = std::iter::once(&self.general).chain(&self.agents);
        join_all(links.map(Link::confirm)).await;
    }
}

//! One connection to NATS and the task that keeps it: it alone reads the connection's inbox, asks the server whether it
//! is still there, and knows when every subscription is in force.
//!
//! *Confirming*: a server handles what one connection sends in order, so an answer to a question that we send to ourselves
//! proves that all before it was handled: subscriptions, and requests, whose "nobody listens" comes before it. Whoever wants
//! a confirmation joins the next question; while one is out, the others gather, so ten thousand subscriptions cost a few.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, StatusCode, Subscriber, client::traits::Publisher, connection::State, message};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, sleep_until, timeout},
};

use super::{
    client::Signals,
    message::incoming,
    options::{NatsOptions, SubjectPrefix},
};
use crate::{BusError, BusStatus, Message, Replies};

/// How long anything may take that the caller waits for.
pub(super) const WAIT: Duration = Duration::from_secs(2);
/// Without other reasons the server is asked this often.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// No answer for so long: the bus counts as away, whatever the socket says.
const MUTE: Duration = Duration::from_secs(5);
/// Between the ends of two parts of a bus that is dropped.
const DROPPED_WITHIN: Duration = Duration::from_millis(500);
/// How often a connection that is not there is looked at: the library's events may get lost.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Confirmations that are asked for and not taken up yet.
const WAITERS: usize = 4_096;
/// Most answers that wait unread for one request.
const REPLIES_MAX: usize = 8;

/// Tells the state of all connections as one.
pub(super) struct Board {
    links: Mutex<Vec<BusStatus>>,
    status: watch::Sender<BusStatus>,
}

impl Board {
    pub fn new(links: usize) -> Self {
        Self { links: Mutex::new(vec![BusStatus::Down; links]), status: watch::Sender::new(BusStatus::Down) }
    }

    pub fn subscribe(&self) -> watch::Receiver<BusStatus> {
        self.status.subscribe()
    }

    /// Is it there? One connection that is away is the bus that is away; closed is for ever.
    pub fn status(&self) -> BusStatus {
        *self.status.borrow()
    }

    fn set(&self, link: usize, is: BusStatus) {
        let mut links = self.links.lock();
        links[link] = is;
        let all = if links.contains(&BusStatus::Closed) {
            BusStatus::Closed
        } else if links.iter().all(|link| *link == BusStatus::Up) {
            BusStatus::Up
        } else {
            BusStatus::Down
        };
        let changed = self.status.send_if_modified(|was| std::mem::replace(was, all) != all);
        match all {
            _ if !changed => {}
            BusStatus::Up => tracing::info!("the bus is there"),
            BusStatus::Down => tracing::warn!("the bus is away"),
            BusStatus::Closed => tracing::error!("NATS refuses the login for good: this process must be restarted"),
        }
    }
}

/// A request that is under way.
struct Request {
    replies: mpsc::Sender<Box<Message>>,
    /// Told when nobody listens; dropped when somebody answered.
    nobody: Option<oneshot::Sender<()>>,
}

/// The requests under way of one connection.
#[derive(Default)]
struct Requests {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Request>>,
}

/// Forgets a request when whoever asked is gone: nothing stays of those that were never answered.
struct Forget(Arc<Requests>, u64);

impl Drop for Forget {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}

/// One connection.
pub(super) struct Link {
    client: Client,
    /// `<prefix>._INBOX.<id>.`: where answers come in.
    inbox: Arc<str>,
    state: watch::Receiver<BusStatus>,
    waiters: mpsc::Sender<oneshot::Sender<()>>,
    requests: Arc<Requests>,
    signals: Arc<Signals>,
}

impl Link {
    /// Starts to keep a connection. It is not up before its first question was answered.
    pub async fn start(
        client: Client,
        options: &NatsOptions,
        signals: Arc<Signals>,
        board: &Arc<Board>,
        index: usize,
    ) -> Result<Self, BusError> {
        let inbox: Arc<str> = options.prefix.before(&format!("_INBOX.{}.", uuid::Uuid::new_v4().simple())).into();
        let subscribed = timeout(WAIT, client.subscribe(format!("{inbox}*"))).await;
        let Ok(Ok(answers)) = subscribed else { return Err(BusError::Disconnected) };
        let (waiters, asked) = mpsc::channel(WAITERS);
        let (state, seen) = watch::channel(BusStatus::Down);
        let requests = Arc::<Requests>::default();
        let keeper = Keeper {
            client: client.clone(),
            answers,
            asked,
            inbox: Arc::clone(&inbox),
            prefix: options.prefix.clone(),
            refused_for: options.refused_for,
            requests: Arc::clone(&requests),
            signals: Arc::clone(&signals),
            state,
            board: Arc::clone(board),
            index,
            connects: 1,
            question: 0,
            out: None,
            waiting: Vec::new(),
            heard: Instant::now(),
        };
        tokio::spawn(keeper.run());
        Ok(Self { client, inbox, state: seen, waiters, requests, signals })
    }

    /// Messages that found their subscription full.
    pub fn dropped(&self) -> u64 {
        self.signals.dropped.load(Ordering::Relaxed)
    }

    pub fn requests_under_way(&self) -> usize {
        self.requests.open.lock().len()
    }

    /// Is everything before this handled by the server?
    pub async fn confirm(&self) -> Result<(), BusError> {
        let answered = timeout(WAIT, async {
            let (waiter, answered) = oneshot::channel();
            self.waiters.send(waiter).await.map_err(|_| BusError::Disconnected)?;
            answered.await.map_err(|_| BusError::Disconnected)
        });
        answered.await.unwrap_or(Err(BusError::Timeout))
    }

    fn check(&self) -> Result<(), BusError> {
        // Nothing is handed to a client that would keep it for later.
        if *self.state.borrow() == BusStatus::Up { Ok(()) } else { Err(BusError::Disconnected) }
    }

    /// Hands a message to the connection.
    pub async fn send(
        &self,
        subject: String,
        reply: Option<String>,
        payload: Bytes,
        headers: Option<HeaderMap>,
    ) -> Result<(), BusError> {
        self.check()?;
        let outbound =
            message::OutboundMessage { subject: subject.into(), reply: reply.map(Into::into), payload, headers };
        match timeout(WAIT, self.client.publish_message(outbound)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error.kind() {
                async_nats::PublishErrorKind::MaxPayloadExceeded => BusError::TooLarge,
                async_nats::PublishErrorKind::InvalidSubject | async_nats::PublishErrorKind::Send => {
                    tracing::error!(%error, "a message could not be handed to NATS");
                    BusError::Disconnected
                }
            }),
            Err(_) => Err(BusError::Disconnected),
        }
    }

    /// Subscribes; returns when the server has it.
    pub async fn subscribe(&self, subject: String, group: Option<&str>) -> Result<Subscriber, BusError> {
        self.check()?;
        let subscribed = timeout(WAIT, async {
            let subscribed = match group {
                Some(group) => self.client.queue_subscribe(subject, group.to_owned()).await,
                None => self.client.subscribe(subject).await,
            };
            let subscriber = subscribed.map_err(|error| {
                tracing::error!(%error, "a subscription could not be handed to NATS");
                BusError::Disconnected
            })?;
            self.confirm().await.map(|()| subscriber)
        });
        subscribed.await.unwrap_or(Err(BusError::Disconnected)).map_err(|_| BusError::Disconnected)
    }

    /// Sends a request; returns when somebody has answered, or is known to listen.
    pub async fn ask(&self, subject: String, payload: Bytes, headers: Option<HeaderMap>) -> Result<Replies, BusError> {
        let (replies, receiver) = mpsc::channel(REPLIES_MAX);
        let (nobody, mut found_nobody) = oneshot::channel();
        let id = self.requests.next.fetch_add(1, Ordering::Relaxed);
        self.requests.open.lock().insert(id, Request { replies, nobody: Some(nobody) });
        let forget = Forget(Arc::clone(&self.requests), id);
        self.send(subject, Some(format!("{}{id}", self.inbox)), payload, headers).await?;
        tokio::select! {
            biased;
            nobody = &mut found_nobody => if nobody.is_ok() {
                return Err(BusError::NoResponder);
            },
            confirmed = self.confirm() => match confirmed {
                Ok(()) if found_nobody.try_recv().is_ok() => return Err(BusError::NoResponder),
                Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Replies::new(receiver, Box::new(forget)))
    }
}

/// A question that is out.
struct Out {
    number: u64,
    since: Instant,
    waiters: Vec<oneshot::Sender<()>>,
}

/// The task of one connection.
struct Keeper {
    client: Client,
    answers: Subscriber,
    asked: mpsc::Receiver<oneshot::Sender<()>>,
    inbox: Arc<str>,
    prefix: SubjectPrefix,
    refused_for: Duration,
    requests: Arc<Requests>,
    signals: Arc<Signals>,
    state: watch::Sender<BusStatus>,
    board: Arc<Board>,
    index: usize,
    /// Connections made so far: a change means that the last one was lost, however short the pause was.
    connects: u64,
    question: u64,
    out: Option<Out>,
    waiting: Vec<oneshot::Sender<()>>,
    /// The last answer.
    heard: Instant,
}

impl Keeper {
    async fn run(mut self) {
        let signals = Arc::clone(&self.signals);
        loop {
            let look_at = self.look_at();
            tokio::select! {
                biased;
                answer = self.answers.next() => match answer {
                    Some(answer) => self.hear(answer),
                    None if self.was_dropped().await => return,
                    None => break,
                },
                waiter = self.asked.recv() => match waiter {
                    Some(waiter) => self.waiting.push(waiter),
                    // The bus was dropped.
                    None => return,
                },
                () = signals.woken.notified() => {}
                () = sleep_until(look_at) => {}
            }
            while let Ok(waiter) = self.asked.try_recv() {
                self.waiting.push(waiter);
            }
            if !self.look().await {
                break;
            }
        }
        // Whoever still waits finds its sender dropped.
        self.is(BusStatus::Closed);
    }

    /// Did the subscription end because the bus was dropped? Its parts go one after the other.
    async fn was_dropped(&mut self) -> bool {
        let all_gone = async { while self.asked.recv().await.is_some() {} };
        timeout(DROPPED_WITHIN, all_gone).await.is_ok()
    }

    fn is(&self, state: BusStatus) {
        if *self.state.borrow() != state {
            self.state.send_replace(state);
            self.board.set(self.index, state);
        }
    }

    fn look_at(&self) -> Instant {
        match &self.out {
            _ if self.client.connection_state() != State::Connected => Instant::now() + LOOK_EVERY,
            Some(out) => out.since + MUTE,
            None => self.heard + ASK_EVERY,
        }
    }

    /// Sees what became of the connection, and asks if there is a reason to. False: it will never work again.
    async fn look(&mut self) -> bool {
        let connected = self.client.connection_state() == State::Connected;
        let connects = self.client.statistics().connects.load(Ordering::Relaxed);
        if !connected || connects != self.connects {
            // Questions and answers went down with their connection.
            self.connects = connects;
            self.away();
        }
        if !connected {
            let refused = self.signals.refused_since().is_some_and(|since| since.elapsed() >= self.refused_for);
            return !refused;
        }
        if self.out.as_ref().is_some_and(|out| out.since.elapsed() >= MUTE) {
            tracing::warn!(for_secs = MUTE.as_secs(), "NATS does not answer");
            self.away();
        }
        let wanted =
            !self.waiting.is_empty() || *self.state.borrow() != BusStatus::Up || self.heard.elapsed() >= ASK_EVERY;
        if self.out.is_none() && wanted { self.ask().await } else { true }
    }

    fn away(&mut self) {
        self.out = None;
        self.waiting.clear();
        self.is(BusStatus::Down);
    }

    async fn ask(&mut self) -> bool {
        self.question += 1;
        let subject = format!("{}q{}", self.inbox, self.question);
        match timeout(WAIT, self.client.publish(subject, Bytes::new())).await {
            Ok(Ok(())) => {
                let waiters = std::mem::take(&mut self.waiting);
                self.out = Some(Out { number: self.question, since: Instant::now(), waiters });
                true
            }
            // The library's task has ended.
            Ok(Err(_)) => false,
            Err(_) => {
                self.away();
                true
            }
        }
    }

    fn hear(&mut self, answer: async_nats::Message) {
        let Some(token) = answer.subject.as_str().strip_prefix(&*self.inbox) else { return };
        if let Some(number) = token.strip_prefix('q') {
            let number: Option<u64> = number.parse().ok();
            // One that was given up is late, but the one behind it is on its way.
            if let Some(out) = self.out.take_if(|out| number.is_some_and(|number| number == out.number)) {
                self.heard = Instant::now();
                // Whoever goes on by this answer finds the bus there.
                self.is(BusStatus::Up);
                for waiter in out.waiters {
                    let _ = waiter.send(());
                }
            }
            return;
        }
        let Ok(id) = token.parse::<u64>() else { return };
        let mut open = self.requests.open.lock();
        // Whoever asked has left: a late answer hurts nobody.
        let Some(request) = open.get_mut(&id) else { return };
        // An answer drops it, and so tells that somebody is there.
        let nobody = request.nobody.take();
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            if let Some(nobody) = nobody {
                let _ = nobody.send(());
            }
            return;
        }
        let Some(message) = incoming(&self.prefix, answer) else { return };
        if let Err(TrySendError::Full(_)) = request.replies.try_send(Box::new(message)) {
            self.signals.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

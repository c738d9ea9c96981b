//! Tells where the queues stand. Every worker says every few seconds that it lives, and answers whoever asks: the workers
//! are one group on the bus, so one of them gets the question. The longest running one also publishes, when something has
//! changed and every few seconds.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bus::{Bus, BusError, Message, Subscribe, Subscription};
use bytes::Bytes;
use jobs::Queue;
use schemas::{
    status::{MINUTES, QueueStatus, RUNNING_MAX},
    subject,
};
use store::{Beat, Bell, Store};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{figures::Figures, snapshot::snapshot};

/// How often a worker says that it lives. Well below [`store::REPORTS_MS`], past which another one reports.
const BEAT_EVERY: Duration = Duration::from_secs(3);
/// Publishes at least so often: whoever listens knows by it that somebody still looks.
const PUBLISH_EVERY: Duration = Duration::from_secs(5);
/// And never sooner after the one before than this. An answer is not older either.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);
/// What a snapshot shows at most.
const SHOWN_MINUTES: u32 = MINUTES as u32;
const SHOWN_ROWS: u32 = RUNNING_MAX as u32;
/// How long the store and the bus may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Pause before the bus is asked again for what it could not give.
const SUBSCRIBE_PAUSE: Duration = Duration::from_secs(1);
/// Questions that wait. Whoever asked and got no answer asks again.
const QUESTIONS: usize = 256;
/// News that wait: what they say does not matter, that there are some does. Room for what comes during one look.
const NEWS: usize = 8_192;

/// Runs until `stopping`; then another worker takes over at once.
pub async fn run(store: Arc<dyn Store>, bus: Arc<dyn Bus>, figures: Figures, stopping: CancellationToken) {
    let me = Beat { id: Uuid::now_v7(), host: host_name(), started_at: store.clock().now_ms() };
    let now = Instant::now();
    let mut reporter = Reporter {
        store,
        bus,
        figures,
        me,
        reports: false,
        last: None,
        published: None,
        dirty: true,
        looked: now,
        spoke: now,
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = reporter.report() => {}
    }
    let left = timeout(DEADLINE, reporter.store.leave(reporter.me.id)).await;
    if !matches!(left, Ok(Ok(()))) {
        tracing::debug!("the worker's row stays until it is seen to be old");
    }
}

/// The machine's name, as it calls itself.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().chars().take(255).collect()
}

/// A snapshot in its two forms, and when it was made.
struct Taken {
    status: QueueStatus,
    body: Bytes,
    at: Instant,
}

struct Reporter {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    figures: Figures,
    me: Beat,
    /// This worker is the one that publishes.
    reports: bool,
    /// The newest snapshot.
    last: Option<Taken>,
    /// What was published last.
    published: Option<QueueStatus>,
    /// Something may have changed since the last look.
    dirty: bool,
    /// When this worker looked last.
    looked: Instant,
    /// When it published last, or could not.
    spoke: Instant,
}

impl Reporter {
    async fn report(&mut self) {
        let bus = Arc::clone(&self.bus);
        let in_group = Subscribe { capacity: QUESTIONS, group: Some(subject::WORKERS) };
        let mut questions = subscribe(bus.as_ref(), subject::QUEUES_STATUS_ASK, in_group).await;
        let mut news = None;
        let mut beats = interval_at(Instant::now(), BEAT_EVERY);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let bell = Arc::clone(self.store.bell());
        let mut rings = Queue::ALL.map(|queue| bell.rings_for(queue));
        loop {
            let due = sleep_until(self.next_look());
            tokio::select! {
                _ = beats.tick() => {
                    self.beat().await;
                    // Only who reports listens to what the fleet does.
                    if !self.reports {
                        news = None;
                    } else if news.is_none() {
                        news = bus.subscribe(subject::ALL_HOSTS_CHANGED, Subscribe::all(NEWS)).await.ok();
                        self.dirty = true;
                    }
                }
                question = questions.next() => match question {
                    Some(question) => self.answer(&question).await,
                    // The bus is closed for good.
                    None => return,
                },
                () = something(news.as_mut()) => self.dirty = true,
                () = poll_fn(|cx| rung(&bell, &mut rings, cx)) => self.dirty = true,
                () = due, if self.reports => self.publish().await,
            }
        }
    }

    /// When it looks next: soon after something has changed, else at its pace.
    fn next_look(&self) -> Instant {
        let soonest = self.looked + PUBLISH_PAUSE;
        if self.dirty { soonest } else { soonest.max(self.spoke + PUBLISH_EVERY) }
    }

    async fn beat(&mut self) {
        let beaten = timeout(DEADLINE, self.store.beat(&self.me)).await;
        let reports = match beaten {
            Ok(Ok(reports)) => reports,
            // Whoever reaches the store reports: it will not find us in it.
            Ok(Err(error)) => {
                tracing::warn!(%error, "this worker could not say that it lives");
                false
            }
            Err(_) => false,
        };
        if reports != self.reports {
            tracing::info!(worker = %self.me.id, reports, "this worker reports where the queues stand, or no longer does");
            self.reports = reports;
            if !reports {
                self.figures.show(None);
            }
            self.published = None;
            self.dirty = true;
        }
    }

    async fn publish(&mut self) {
        // What comes from now on is looked at the next time.
        self.dirty = false;
        self.looked = Instant::now();
        self.look(Duration::ZERO).await;
        let Some((status, body)) = self.last.as_ref().map(|taken| (taken.status.clone(), taken.body.clone())) else {
            // The store is away: at the usual pace again.
            self.spoke = Instant::now();
            return;
        };
        self.figures.show(Some(status.clone()));
        let shown = self.published.as_ref().is_some_and(|before| same(before, &status));
        if shown && self.spoke.elapsed() < PUBLISH_EVERY {
            return;
        }
        self.say(subject::QUEUES_STATUS, body).await;
        self.spoke = Instant::now();
        self.published = Some(status);
    }

    async fn answer(&mut self, question: &Message) {
        let Some(to) = &question.reply else { return };
        self.look(PUBLISH_PAUSE).await;
        if let Some(body) = self.last.as_ref().map(|taken| taken.body.clone()) {
            self.say(to, body).await;
        }
    }

    async fn say(&self, subject: &str, body: Bytes) {
        let sent = timeout(DEADLINE, self.bus.publish(subject, body, None)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::debug!(subject, "where the queues stand was not told");
        }
    }

    /// Sees to a snapshot that is not older than this: many who ask at once cost the store one look. None is left when the
    /// store is away.
    async fn look(&mut self, age: Duration) {
        if self.last.as_ref().is_some_and(|taken| taken.at.elapsed() < age) {
            return;
        }
        let at = Instant::now();
        self.last = match timeout(DEADLINE, self.store.standing(SHOWN_MINUTES, SHOWN_ROWS)).await {
            Ok(Ok(standing)) => {
                let status = snapshot(self.me.id, standing);
                serde_json::to_vec(&status).ok().map(|body| Taken { status, body: body.into(), at })
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "where the queues stand cannot be told");
                None
            }
            Err(_) => None,
        };
    }
}

/// Do both show the same, whenever they were taken?
fn same(one: &QueueStatus, other: &QueueStatus) -> bool {
    // Alone a schedule that is due says "now", which is no news.
    one.queues == other.queues
        && one.running_count == other.running_count
        && one.running == other.running
        && one.workers == other.workers
        && one.schedules.iter().map(|s| s.last_at).eq(other.schedules.iter().map(|s| s.last_at))
}

/// Has the bell rung for any queue? Else this task is woken by the next ring.
fn rung(bell: &Bell, seen: &mut [u64; Queue::ALL.len()], cx: &Context<'_>) -> Poll<()> {
    let mut any = false;
    for (queue, seen) in Queue::ALL.into_iter().zip(seen) {
        any |= bell.poll(queue, seen, cx);
    }
    if any { Poll::Ready(()) } else { Poll::Pending }
}

/// Waits for news, and takes all there are.
async fn something(news: Option<&mut Subscription>) {
    match news {
        Some(news) => {
            if news.next().await.is_none() {
                // The bus is closed; the slow pace goes on.
                std::future::pending::<()>().await;
            }
            while news.try_next().is_some() {}
        }
        None => std::future::pending().await,
    }
}

/// Subscribes, however long the bus takes.
async fn subscribe(bus: &dyn Bus, pattern: &str, how: Subscribe<'_>) -> Subscription {
    loop {
        match timeout(DEADLINE, bus.subscribe(pattern, how)).await {
            Ok(Ok(subscription)) => return subscription,
            Ok(Err(BusError::TooLarge | BusError::NoResponder | BusError::Timeout | BusError::Disconnected))
            | Err(_) => {
                tokio::time::sleep(SUBSCRIBE_PAUSE).await;
            }
        }
    }
}

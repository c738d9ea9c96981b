//! What the dashboards of this gateway show: the newest snapshot that a worker published. One subscription feeds them all;
//! each takes the newest when it is ready for it. When nothing is heard the workers are asked, and when nobody answers
//! for a while the snapshot says that it is stale.

use std::{collections::HashMap, future::pending, pin::Pin, sync::Arc, time::Duration};

use bus::{Bus, BusError, Message, Subscribe, request_json};
use parking_lot::Mutex;
use schemas::{status::QueueStatus, subject};
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use uuid::Uuid;

use crate::App;

/// Most dashboards of a gateway at once.
const DASHBOARDS_MAX: usize = 200;
/// Most of one login: nobody keeps the others out.
const OF_A_LOGIN_MAX: usize = 16;
/// Snapshots that wait: only the newest one matters.
const CAPACITY: usize = 16;
/// A worker publishes every 5 s at least. Nothing heard for longer: ask, as long as somebody looks.
const ASK_AFTER: Duration = Duration::from_secs(6);
/// How long an answer may take, and so how long until the next question.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Nobody has said anything for so long: what is shown is stale.
const STALE_AFTER: Duration = Duration::from_secs(15);
/// How often all that is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a dashboard is sent.
#[derive(Serialize)]
struct Shown<'a> {
    r#type: &'static str,
    /// No worker has said anything for 15 s: this is how it was, at `status.at`.
    stale: bool,
    /// The gateway that shows it.
    gateway: Uuid,
    /// Null as long as no worker has ever said anything.
    status: Option<&'a QueueStatus>,
}

/// The newest that was heard.
#[derive(Default)]
struct Newest {
    status: Option<QueueStatus>,
    heard: Option<Instant>,
    stale: bool,
}

/// The dashboards of one gateway.
pub struct Dashboards {
    gateway_id: Uuid,
    newest: Mutex<Newest>,
    shown: watch::Sender<Arc<str>>,
    came: Notify,
    places: Arc<Semaphore>,
    of_logins: Arc<Mutex<HashMap<Uuid, usize>>>,
}

/// A dashboard's place among the others, free again when it is dropped.
pub struct Place {
    _one_of_all: OwnedSemaphorePermit,
    session_id: Uuid,
    of_logins: Arc<Mutex<HashMap<Uuid, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_logins = self.of_logins.lock();
        if let Some(count) = of_logins.get_mut(&self.session_id) {
            *count -= 1;
            if *count == 0 {
                of_logins.remove(&self.session_id);
            }
        }
    }
}

impl Dashboards {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(gateway_id: Uuid) -> Self {
        let newest = Newest { stale: true, ..Newest::default() };
        let shown = watch::Sender::new(text(gateway_id, &newest));
        let places = Arc::new(Semaphore::new(DASHBOARDS_MAX));
        Self { gateway_id, newest: Mutex::new(newest), shown, came: Notify::new(), places, of_logins: Arc::default() }
    }

    /// A place for one more of a login; `None` when all are taken, or all that one login may have.
    pub fn place(&self, session_id: Uuid) -> Option<Place> {
        let one_of_all = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let mut of_logins = self.of_logins.lock();
        let count = of_logins.entry(session_id).or_default();
        if *count >= OF_A_LOGIN_MAX {
            return None;
        }
        *count += 1;
        drop(of_logins);
        Some(Place { _one_of_all: one_of_all, session_id, of_logins: Arc::clone(&self.of_logins) })
    }

    /// What is shown, from now on: the first is there at once.
    pub fn join(&self) -> watch::Receiver<Arc<str>> {
        let mut shown = self.shown.subscribe();
        shown.mark_changed();
        self.came.notify_one();
        shown
    }

    fn anybody(&self) -> bool {
        self.places.available_permits() < DASHBOARDS_MAX
    }

    /// Takes a snapshot in.
    fn hear(&self, message: &Message) {
        match message.parse::<QueueStatus>() {
            Ok(status) => self.keep(status, Instant::now()),
            Err(error) => tracing::warn!(%error, "a snapshot of the queues that cannot be read was left out"),
        }
    }

    fn keep(&self, status: QueueStatus, now: Instant) {
        let mut newest = self.newest.lock();
        // An answer and a publication may overtake each other. One that is much older is another clock's.
        let overtaken = newest.status.as_ref().is_some_and(|known| (1..1_000).contains(&(known.at - status.at)));
        newest.heard = Some(now);
        if !overtaken {
            newest.status = Some(status);
        }
        newest.stale = false;
        self.shown.send_replace(text(self.gateway_id, &newest));
    }

    /// Nothing was heard for so long.
    fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.newest.lock().heard.map(|heard| now.saturating_duration_since(heard))
    }

    /// Says that it is stale, once it is.
    fn age(&self, now: Instant) {
        if self.silent_for(now).is_some_and(|silent| silent >= STALE_AFTER) {
            let mut newest = self.newest.lock();
            if !std::mem::replace(&mut newest.stale, true) {
                self.shown.send_replace(text(self.gateway_id, &newest));
            }
        }
    }
}

fn text(gateway: Uuid, newest: &Newest) -> Arc<str> {
    let shown = Shown { r#type: "status", stale: newest.stale, gateway, status: newest.status.as_ref() };
    serde_json::to_string(&shown).unwrap_or_default().into()
}

/// Listens to what the workers publish, until the process ends.
///
/// # Errors
/// When the bus is away.
pub async fn start(app: &App) -> Result<(), BusError> {
    let mut published = app.bus.subscribe(subject::QUEUES_STATUS, Subscribe::all(CAPACITY)).await?;
    let app = Arc::clone(app);
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        let dashboards = &app.dashboards;
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut question: Option<Question> = None;
        loop {
            tokio::select! {
                () = app.stopping.cancelled() => return,
                message = published.next() => match message {
                    Some(message) => dashboards.hear(&message),
                    None => return,
                },
                answer = answered(question.as_mut()) => {
                    question = None;
                    if let Ok(message) = answer {
                        dashboards.hear(&message);
                    }
                }
                () = dashboards.came.notified() => {}
                _ = looks.tick() => {}
            }
            let now = Instant::now();
            dashboards.age(now);
            let silent = dashboards.silent_for(now).is_none_or(|silent| silent >= ASK_AFTER);
            if question.is_none() && silent && dashboards.anybody() {
                question = Some(ask(Arc::clone(&app.bus)));
            }
        }
    });
    Ok(())
}

type Question = Pin<Box<dyn Future<Output = Result<Message, BusError>> + Send>>;

fn ask(bus: Arc<dyn Bus>) -> Question {
    Box::pin(async move {
        let (asked, nothing) = (Instant::now(), json!({}));
        let answer = request_json(bus.as_ref(), subject::QUEUES_STATUS_ASK, &nothing, None, ANSWER_WAIT);
        let answer = timeout(ANSWER_WAIT, answer).await.unwrap_or(Err(BusError::Timeout));
        if answer.is_err() {
            // Nobody there is known at once, and need not be asked again at once.
            sleep_until(asked + ANSWER_WAIT).await;
        }
        answer
    })
}

async fn answered(question: Option<&mut Question>) -> Result<Message, BusError> {
    match question {
        Some(question) => question.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn status(at: i64) -> QueueStatus {
        QueueStatus {
            at,
            worker: Uuid::nil(),
            queues: Vec::new(),
            running_count: 0,
            running: Vec::new(),
            workers: Vec::new(),
            schedules: Vec::new(),
        }
    }

    fn seen(dashboards: &Dashboards) -> (bool, Value) {
        let value: Value = serde_json::from_str(&dashboards.shown.borrow()).unwrap();
        (value["stale"].as_bool().unwrap(), value["status"]["at"].clone())
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_renews_is_shown_as_stale() {
        let dashboards = Dashboards::new(Uuid::nil());
        assert_eq!(seen(&dashboards), (true, Value::Null));
        let now = Instant::now();
        dashboards.keep(status(5_000), now);
        let fresh = (false, Value::from("1970-01-01T00:00:05.000Z"));
        assert_eq!(seen(&dashboards), fresh);
        dashboards.age(now + STALE_AFTER - Duration::from_millis(1));
        assert_eq!(seen(&dashboards), fresh);
        dashboards.age(now + STALE_AFTER);
        assert_eq!(seen(&dashboards), (true, fresh.1.clone()));
        dashboards.keep(status(5_000), now + STALE_AFTER);
        assert_eq!(seen(&dashboards), fresh);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_was_overtaken_is_no_step_back() {
        let dashboards = Dashboards::new(Uuid::nil());
        let now = Instant::now();
        dashboards.keep(status(5_000), now);
        dashboards.keep(status(4_900), now);
        assert_eq!(seen(&dashboards).1, "1970-01-01T00:00:05.000Z");
        // A worker with another clock took over.
        dashboards.keep(status(1_000), now);
        assert_eq!(seen(&dashboards).1, "1970-01-01T00:00:01.000Z");
    }

    #[tokio::test]
    async fn a_newcomer_sees_the_newest_at_once() {
        let dashboards = Dashboards::new(Uuid::nil());
        dashboards.keep(status(5_000), Instant::now());
        let mut shown = dashboards.join();
        assert!(shown.has_changed().unwrap());
        shown.borrow_and_update();
        assert!(!shown.has_changed().unwrap());
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_no_more() {
        let dashboards = Dashboards::new(Uuid::nil());
        assert!(!dashboards.anybody());
        let mut places: Vec<_> = (0..DASHBOARDS_MAX).map(|_| dashboards.place(Uuid::new_v4()).unwrap()).collect();
        assert!(dashboards.anybody() && dashboards.place(Uuid::nil()).is_none());
        places.pop();
        assert!(dashboards.place(Uuid::nil()).is_some());
        drop(places);
        assert!(dashboards.of_logins.lock().is_empty(), "nothing stays of who has gone");
    }

    #[tokio::test]
    async fn one_login_does_not_take_the_places_of_all() {
        let dashboards = Dashboards::new(Uuid::nil());
        let one = Uuid::new_v4();
        let mut places: Vec<_> = (0..OF_A_LOGIN_MAX).map(|_| dashboards.place(one).unwrap()).collect();
        assert!(dashboards.place(one).is_none() && dashboards.place(Uuid::new_v4()).is_some());
        places.pop();
        assert!(dashboards.place(one).is_some());
    }
}

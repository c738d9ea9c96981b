//! Several workers: one publishes, one answers, and whoever is left takes over.

use std::{sync::Arc, time::Duration};

use bus::{Bus, MemoryBus, Subscribe, Subscription, request_json};
use schemas::{status::QueueStatus, subject};
use serde_json::json;
use store::{
    Beat, Clock, REPORTS_MS, Status, Store,
    sqlite::{Options, SqliteStore},
};
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;
use worker::{Queues, Worker};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

struct Place {
    store: Arc<SqliteStore>,
    bus: Arc<MemoryBus>,
    published: Subscription,
    _dir: TempDir,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { patience: Duration::from_secs(20), ..Options::default() };
        let store = SqliteStore::open(&dir.path().join("patchbay.db"), Clock::default(), options).await.unwrap();
        let bus = Arc::new(MemoryBus::new());
        let published = bus.subscribe(subject::QUEUES_STATUS, Subscribe::all(1_024)).await.unwrap();
        Self { store: Arc::new(store), bus, published, _dir: dir }
    }

    fn start(&self) -> Worker {
        let (store, bus): (Arc<dyn Store>, Arc<dyn Bus>) = (self.store.clone(), self.bus.clone());
        Worker::start(&worker::Settings::default(), store, bus, &Queues::Sqlite(self.store.clone()))
    }

    async fn next(&mut self) -> QueueStatus {
        let message =
            timeout(PATIENCE, self.published.next()).await.expect("nobody publishes").expect("the bus is closed");
        message.parse().unwrap()
    }

    /// Waits until something published fits.
    async fn until(&mut self, fits: impl Fn(&QueueStatus) -> bool) -> QueueStatus {
        timeout(PATIENCE, async {
            loop {
                let status = self.next().await;
                if fits(&status) {
                    return status;
                }
            }
        })
        .await
        .expect("never published")
    }

    /// Asks, and gives all who answer.
    async fn ask(&self) -> Vec<QueueStatus> {
        let mut replies = self.bus.ask(subject::QUEUES_STATUS_ASK, "{}".into(), None).await.unwrap();
        let mut answers = vec![replies.next(PATIENCE).await.unwrap().parse().unwrap()];
        // A second one would come at the same time.
        while let Ok(more) = replies.next(Duration::from_millis(300)).await {
            answers.push(more.parse().unwrap());
        }
        answers
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publishes_and_another_takes_over_when_it_goes() {
    let mut place = Place::new().await;
    let first = place.start();
    let old = place.next().await.worker;
    let second = place.start();
    let status = place.until(|status| status.workers.len() == 2).await;
    assert_eq!((status.worker, status.workers[0].id), (old, old), "the longest running one reports");
    // However often the other one beats, it stays silent.
    for _ in 0..2 {
        assert_eq!(place.next().await.worker, old);
    }
    for _ in 0..6 {
        assert_eq!(place.ask().await.len(), 1, "one answers");
    }
    first.stop().await;
    let status = place.until(|status| status.worker != old).await;
    assert_eq!(status.workers.len(), 1, "who left in order is not listed any more: {status:?}");
    let answer = place.ask().await.remove(0);
    assert_eq!((answer.worker, answer.workers.len()), (status.worker, 1));
    second.stop().await;
    let nobody = request_json(place.bus.as_ref(), subject::QUEUES_STATUS_ASK, &json!({}), None, PATIENCE).await;
    assert!(matches!(nobody, Err(bus::BusError::NoResponder)), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_without_a_word_is_replaced() {
    let mut place = Place::new().await;
    // Longer there than any that starts now, and never heard of again.
    let ghost = Beat { id: Uuid::from_u128(1), host: "dead".to_owned(), started_at: 0 };
    assert!(place.store.beat(&ghost).await.unwrap());
    let worker = place.start();
    // It listens to questions before it says that it lives.
    timeout(PATIENCE, async {
        while place.store.standing(1, 10).await.unwrap().workers.len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it never said that it lives");
    // Asked, it answers; unasked it leaves the word to the other.
    let answer = place.ask().await.remove(0);
    assert_eq!(answer.workers.iter().map(|worker| worker.host.as_str()).next(), Some("dead"));
    assert!(place.published.try_next().is_none());
    place.store.clock().advance(REPORTS_MS);
    assert_eq!(place.next().await.worker, answer.worker);
    worker.stop().await;
}

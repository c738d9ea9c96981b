//! The executor's backend for one queue, over an engine's tables.
//!
//! A fetch and an acknowledgement are writes, and on SQLite there is one writer, so both are done only when they are of use:
//! the tables are looked at when the bell has rung, once more after a full batch, and every second; what is done is
//! acknowledged together, once a second. A process that dies before that leaves tasks that run once more and find that
//! their rows have moved.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use apalis_core::{
    backend::{
        Backend, BackendConfig, WireFormatBackend,
        finalize::Durable,
        persistence::{Persisted, Persistence, TaskEvent, TaskPersistLayer},
    },
    task::Task,
    worker::context::WorkerContext,
};
use apalis_sqlite::JsonCodec;
use jobs::Queue;
use parking_lot::Mutex;
use serde_json::Value;
use store::Bell;
use tokio::time::Instant;

use crate::executor::{FETCH, HEARTBEAT, TICK};

/// Acknowledgements that may wait.
const ACKS: usize = 256;

/// When an engine's tables are looked at.
#[derive(Clone)]
pub struct Gated<P> {
    tables: P,
    gate: Arc<Gate>,
}

struct Gate {
    bell: Arc<Bell>,
    queue: Queue,
    state: Mutex<State>,
}

struct State {
    /// The bell's number at the last look.
    seen: u64,
    /// The last look brought as much as it could.
    more: bool,
    /// When to look without a ring: tasks that were pushed for later are due at whole seconds.
    next: Instant,
    /// What is done and not acknowledged.
    acks: Vec<TaskEvent<Value>>,
}

impl<P> Gated<P>
where
    P: Persistence<Compact = Vec<u8>, Response = Value>,
{
    /// A queue of an engine.
    pub fn new(tables: P, bell: Arc<Bell>, queue: Queue) -> Self {
        // Whatever was pushed before.
        let state = State { seen: bell.rings_for(queue), more: true, next: Instant::now(), acks: Vec::new() };
        Self { tables, gate: Arc::new(Gate { bell, queue, state: Mutex::new(state) }) }
    }

    async fn acknowledge(&mut self, worker: &WorkerContext) -> Result<(), P::Error> {
        let acks = std::mem::take(&mut self.gate.state.lock().acks);
        if acks.is_empty() { Ok(()) } else { self.tables.handle_events(acks, worker).await }
    }
}

impl Gate {
    fn rings(&self) -> u64 {
        self.bell.rings_for(self.queue)
    }

    /// Is a look of use? And is it the second's?
    fn open(&self) -> Option<bool> {
        let state = self.state.lock();
        let tick = state.next <= Instant::now();
        (tick || state.more || state.seen != self.rings()).then_some(tick)
    }
}

impl<P> Persistence for Gated<P>
where
    P: Persistence<Compact = Vec<u8>, Response = Value> + Sync,
    P::Error: Send,
{
    type Compact = Vec<u8>;
    type Response = Value;
    type Error = P::Error;

    fn register(&mut self, worker: &WorkerContext) -> impl Future<Output = Result<(), P::Error>> + Send {
        self.tables.register(worker)
    }

    async fn heartbeat(&mut self, worker: &WorkerContext) -> Result<(), P::Error> {
        self.acknowledge(worker).await?;
        self.tables.heartbeat(worker).await
    }

    async fn fetch_next(&mut self, worker: &WorkerContext) -> Result<Vec<Task<Vec<u8>>>, P::Error> {
        let Some(tick) = self.gate.open() else { return Ok(Vec::new()) };
        if tick {
            self.acknowledge(worker).await?;
        }
        loop {
            let rings = self.gate.rings();
            let tasks = self.tables.fetch_next(worker).await?;
            {
                let mut state = self.gate.state.lock();
                state.seen = rings;
                state.more = tasks.len() >= FETCH;
                state.next = Instant::now() + TICK;
            }
            // A ring during an empty look has woken nobody who would look again.
            if !tasks.is_empty() || self.gate.rings() == rings {
                return Ok(tasks);
            }
        }
    }

    fn reenqueue_abandoned(
        &mut self,
        tasks: Vec<Task<Vec<u8>>>,
        worker: &WorkerContext,
    ) -> impl Future<Output = Result<u64, P::Error>> + Send {
        self.tables.reenqueue_abandoned(tasks, worker)
    }

    async fn handle_events(&mut self, events: Vec<TaskEvent<Value>>, worker: &WorkerContext) -> Result<(), P::Error> {
        let waiting = {
            let mut state = self.gate.state.lock();
            state.acks.extend(events);
            state.acks.len()
        };
        if waiting >= ACKS || worker.is_shutting_down() { self.acknowledge(worker).await } else { Ok(()) }
    }

    fn push_tasks(&mut self, tasks: Vec<Task<Vec<u8>>>) -> impl Future<Output = Result<(), P::Error>> + Send {
        self.tables.push_tasks(tasks)
    }
}

/// The backend.
pub struct Tasks<P: Persistence, T> {
    persisted: Persisted<P>,
    codec: JsonCodec<Vec<u8>>,
    body: std::marker::PhantomData<fn() -> T>,
}

impl<P: Persistence, T> Tasks<P, T>
where
    P: Persistence<Compact = Vec<u8>, Response = Value>,
{
    pub fn new(tables: P) -> Self {
        Self { persisted: Persisted::new(tables), codec: JsonCodec::default(), body: std::marker::PhantomData }
    }
}

impl<P, T> Backend for Tasks<P, T>
where
    P: Persistence<Compact = Vec<u8>, Response = Value>,
    P::Error: Send + Sync + 'static,
{
    type Task = Task<Vec<u8>>;
    type Error = P::Error;

    fn poll_ready(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), P::Error>> {
        self.persisted.poll_ready(cx, worker, HEARTBEAT)
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Option<Result<Task<Vec<u8>>, P::Error>>> {
        self.persisted.poll_next(cx, worker)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, worker: &WorkerContext) -> Poll<Result<(), P::Error>> {
        self.persisted.poll_close(cx, worker)
    }
}

impl<P, T> BackendConfig for Tasks<P, T>
where
    P: Persistence<Compact = Vec<u8>, Response = Value>,
{
    type Args = T;
    type Id = ();
    type Kind = Durable;
    type Config = ();
    type Layer = TaskPersistLayer<JsonCodec<Value>, Value>;

    fn config(&self) -> &() {
        &()
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Self::Layer {
        // A fetch locks already; a second write to say "running" would only cost the database's time.
        self.persisted.layer(JsonCodec::default(), FETCH).persist_results(true).lock_tasks(false)
    }
}

impl<P, T> WireFormatBackend for Tasks<P, T>
where
    P: Persistence<Compact = Vec<u8>, Response = Value>,
{
    type Codec = JsonCodec<Vec<u8>>;
    type Compact = Vec<u8>;

    fn codec(&self) -> &Self::Codec {
        &self.codec
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use apalis_core::task::builder::TaskBuilder;

    use super::*;

    const QUEUE: Queue = Queue::AgentCommands;

    /// Tables that give what they are told to, and count.
    #[derive(Clone, Default)]
    struct Fake {
        looks: Arc<AtomicUsize>,
        acks: Arc<AtomicUsize>,
        /// How many tasks each look brings.
        brings: Arc<Mutex<VecDeque<usize>>>,
        /// Is rung during the next look.
        rung: Arc<Mutex<Option<Arc<Bell>>>>,
    }

    impl Persistence for Fake {
        type Compact = Vec<u8>;
        type Response = Value;
        type Error = Infallible;

        async fn register(&mut self, _: &WorkerContext) -> Result<(), Infallible> {
            Ok(())
        }

        async fn heartbeat(&mut self, _: &WorkerContext) -> Result<(), Infallible> {
            Ok(())
        }

        async fn fetch_next(&mut self, _: &WorkerContext) -> Result<Vec<Task<Vec<u8>>>, Infallible> {
            self.looks.fetch_add(1, Ordering::SeqCst);
            if let Some(bell) = self.rung.lock().take() {
                bell.ring(QUEUE);
            }
            let n = self.brings.lock().pop_front().unwrap_or(0);
            Ok((0..n).map(|_| TaskBuilder::new(Vec::new()).build()).collect())
        }

        async fn reenqueue_abandoned(&mut self, _: Vec<Task<Vec<u8>>>, _: &WorkerContext) -> Result<u64, Infallible> {
            Ok(0)
        }

        async fn handle_events(&mut self, events: Vec<TaskEvent<Value>>, _: &WorkerContext) -> Result<(), Infallible> {
            self.acks.fetch_add(events.len(), Ordering::SeqCst);
            Ok(())
        }

        async fn push_tasks(&mut self, _: Vec<Task<Vec<u8>>>) -> Result<(), Infallible> {
            Ok(())
        }
    }

    struct Play {
        gated: Gated<Fake>,
        fake: Fake,
        bell: Arc<Bell>,
        worker: WorkerContext,
    }

    impl Play {
        /// After the first look, which is always made.
        async fn new() -> Self {
            let (fake, bell) = (Fake::default(), Arc::<Bell>::default());
            let gated = Gated::new(fake.clone(), Arc::clone(&bell), QUEUE);
            let mut play = Self { gated, fake, bell, worker: WorkerContext::new("worker") };
            assert_eq!(play.look().await, (0, 1));
            play
        }

        /// How many tasks came, of how many looks so far.
        async fn look(&mut self) -> (usize, usize) {
            let tasks = self.gated.fetch_next(&self.worker).await.expect("infallible");
            (tasks.len(), self.fake.looks.load(Ordering::SeqCst))
        }

        async fn done(&mut self, n: usize) -> usize {
            let done = || TaskEvent::Lock { task_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().expect("id") };
            let events = (0..n).map(|_| done()).collect();
            self.gated.handle_events(events, &self.worker).await.expect("infallible");
            self.fake.acks.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_tables_are_looked_at_when_it_rings_and_not_again() {
        let mut play = Play::new().await;
        assert_eq!(play.look().await, (0, 1), "nothing rang");
        play.fake.brings.lock().push_back(3);
        play.bell.ring(QUEUE);
        assert_eq!(play.look().await, (3, 2));
        assert_eq!(play.look().await, (0, 2), "what came was not all it could take");
        play.bell.ring(Queue::Compliance);
        assert_eq!(play.look().await, (0, 2), "that was for others");
    }

    #[tokio::test(start_paused = true)]
    async fn a_ring_during_a_look_is_not_lost() {
        let mut play = Play::new().await;
        *play.fake.rung.lock() = Some(Arc::clone(&play.bell));
        play.fake.brings.lock().extend([0, 2]);
        play.bell.ring(QUEUE);
        assert_eq!(play.look().await, (2, 3), "an empty look is followed by another");
        *play.fake.rung.lock() = Some(Arc::clone(&play.bell));
        play.fake.brings.lock().extend([1, 1]);
        play.bell.ring(QUEUE);
        assert_eq!(play.look().await, (1, 4));
        assert_eq!(play.look().await, (1, 5), "one that brought something too, when its tasks are handed out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_is_followed_by_another_look() {
        let mut play = Play::new().await;
        play.fake.brings.lock().extend([FETCH, 8]);
        play.bell.ring(QUEUE);
        assert_eq!(play.look().await, (FETCH, 2));
        assert_eq!(play.look().await, (8, 3));
        assert_eq!(play.look().await, (0, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_later_it_looks_without_a_ring_and_acknowledges() {
        let mut play = Play::new().await;
        assert_eq!(play.done(2).await, 0, "they wait");
        play.bell.ring(QUEUE);
        play.look().await;
        assert_eq!(play.done(1).await, 0, "a ring is no time for it");
        tokio::time::advance(TICK).await;
        assert_eq!(play.look().await, (0, 3));
        assert_eq!(play.done(0).await, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn acknowledgements_are_bounded_and_do_not_outlive_a_heartbeat() {
        let mut play = Play::new().await;
        assert_eq!(play.done(ACKS - 1).await, 0);
        assert_eq!(play.done(1).await, ACKS);
        play.done(5).await;
        play.gated.heartbeat(&play.worker).await.expect("infallible");
        assert_eq!(play.done(0).await, ACKS + 5);
    }
}

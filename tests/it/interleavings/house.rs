//! The parts of a server in this process, wired as the binary wires them, and the places where a test can stand between.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::{Bus, BusError, BusStatus, MemoryBus, NatsBus, NatsOptions, NatsUrl, Replies, Subscribe, Subscription};
use bytes::Bytes;
use gateway::{
    Gateway,
    admin::{Admin, AdminRequest},
    metrics::Metrics,
};
use jobs::{Command, Kind, State};
use parking_lot::Mutex;
use schemas::{
    ApiId, TraceContext,
    message::{CommandReply, CommandRequest},
    subject,
};
use serde_json::Value;
use store::{
    Clock, Commands, Connect, Connected, Hosts, NewBatch, Store, Target,
    sqlite::{Options, SqliteStore},
};
use tempfile::TempDir;
use tests::{
    agent::AgentConfig, credentials::Credentials, fleet::Fleet, log::FrameLog, server::Server,
    services::nats::NatsServer,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use worker::{Deliverer, Queues, Worker};

/// How long anything may take that must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A bus that a test can hold: what goes through it is seen, and some of it kept back.
pub struct Tapped {
    inner: Arc<dyn Bus>,
    /// The same, where it is a bus that can be taken away.
    memory: Option<Arc<MemoryBus>>,
    /// The subjects asked, with what was asked for commands.
    pub asked: Mutex<Vec<CommandRequest>>,
    /// Publications to these subjects get lost.
    pub lose: Mutex<Option<Subjects>>,
    /// Makes the next question find nobody, once this has been done.
    pub nobody: Mutex<Option<Meanwhile>>,
}

type Subjects = fn(&str) -> bool;
type Meanwhile = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

impl Tapped {
    pub fn set_away(&self, away: bool) {
        self.memory.as_ref().expect("take the server away").set_away(away);
    }
}

#[async_trait]
impl Bus for Tapped {
    async fn publish(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<(), BusError> {
        let lost = self.lose.lock().is_some_and(|lose| lose(subject));
        if lost { Ok(()) } else { self.inner.publish(subject, body, trace).await }
    }

    async fn subscribe(&self, pattern: &str, how: Subscribe<'_>) -> Result<Subscription, BusError> {
        self.inner.subscribe(pattern, how).await
    }

    async fn ask(&self, subject: &str, body: Bytes, trace: Option<TraceContext>) -> Result<Replies, BusError> {
        if let Ok(request) = serde_json::from_slice(&body) {
            self.asked.lock().push(request);
            let meanwhile = self.nobody.lock().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile().await;
                return Err(BusError::NoResponder);
            }
        }
        self.inner.ask(subject, body, trace).await
    }

    fn status(&self) -> watch::Receiver<BusStatus> {
        self.inner.status()
    }

    fn dropped(&self) -> u64 {
        self.inner.dropped()
    }

    async fn flush(&self) {
        self.inner.flush().await;
    }
}

/// One more client of the NATS there.
pub async fn nats(address: SocketAddr) -> Arc<dyn Bus> {
    let options = NatsOptions::new(NatsUrl::parse(&format!("nats://{address}")).unwrap());
    Arc::new(NatsBus::connect(&options).await.unwrap())
}

/// The house.
pub struct House {
    pub dir: TempDir,
    pub store: Arc<SqliteStore>,
    pub bus: Arc<Tapped>,
    pub gateways: Vec<Gateway>,
    pub worker: Option<Worker>,
    tasks: TaskTracker,
}

impl House {
    /// A store and a bus.
    pub async fn new() -> Self {
        let memory = Arc::new(MemoryBus::new());
        Self::on(memory.clone(), Some(memory)).await
    }

    /// A store, and a client of NATS for the worker and the test itself.
    pub async fn on_nats(server: &NatsServer) -> Self {
        Self::on(nats(server.address()).await, None).await
    }

    async fn on(inner: Arc<dyn Bus>, memory: Option<Arc<MemoryBus>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patchbay.db");
        let store = SqliteStore::open(&path, Clock::default(), Options::default()).await.unwrap();
        let bus = Tapped { inner, memory, asked: Mutex::default(), lose: Mutex::default(), nobody: Mutex::default() };
        let (store, bus) = (Arc::new(store), Arc::new(bus));
        Self { dir, store, bus, gateways: Vec::new(), worker: None, tasks: TaskTracker::new() }
    }

    /// A gateway and a worker as well.
    pub async fn whole() -> Self {
        let mut house = Self::new().await;
        house.open_gateway("127.0.0.1:0").await;
        house.start_worker();
        house
    }

    /// One more gateway, on this address.
    pub async fn open_gateway(&mut self, address: &str) {
        self.open_gateway_on(address, self.bus.clone()).await;
    }

    /// One more gateway, which has a bus of its own, as another process would.
    pub async fn open_gateway_on(&mut self, address: &str, bus: Arc<dyn Bus>) {
        let public = TcpListener::bind(address).await.unwrap();
        let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Arc::new(Metrics::new().unwrap());
        let settings = gateway::Settings::default();
        let gateway = Gateway::start(settings, self.store.clone(), bus, metrics, public, internal).await.unwrap();
        self.gateways.push(gateway);
    }

    pub fn start_worker(&mut self) {
        let queues = Queues::Sqlite(self.store.clone());
        let settings = worker::Settings::default();
        self.worker = Some(Worker::start(&settings, self.store.clone(), self.bus.clone(), &queues));
    }

    /// Deliveries by hand, for a house without a worker.
    pub fn deliverer(&self) -> Deliverer {
        Deliverer::start(self.store.clone(), self.bus.clone(), &self.tasks)
    }

    pub fn target(&self, gateway: usize) -> Server {
        Server::parse(&format!("http://{}", self.gateways[gateway].address())).unwrap()
    }

    /// What the command line asks of a running server.
    pub async fn admin(&self, request: AdminRequest) -> Value {
        Admin::new(self.store.clone(), self.bus.clone()).run(request).await.unwrap()
    }

    pub async fn host(&self, name: &str) -> Credentials {
        serde_json::from_value(self.admin(AdminRequest::HostAdd { name: name.to_owned() }).await).unwrap()
    }

    /// These agents, connected to the first gateway.
    pub async fn agents(&self, agents: Vec<AgentConfig>) -> Fleet {
        let fleet = Fleet::start(self.target(0), agents, None, FrameLog::in_memory());
        fleet.all_connected(PATIENCE).await.unwrap();
        fleet
    }

    /// A new command, asked for by nobody in particular.
    pub async fn command(&self, kind: Kind, host: &Credentials, payload: Value) -> Uuid {
        self.command_within(kind, host, payload, 86_400_000).await
    }

    pub async fn command_within(&self, kind: Kind, host: &Credentials, payload: Value, expires_in_ms: i64) -> Uuid {
        let batch = NewBatch {
            id: Uuid::now_v7(),
            kind,
            payload: kind.spec().check(&payload).unwrap(),
            target: Target::Hosts(vec![host.id.parse().unwrap()]),
            expires_in_ms,
            spread_ms: None,
            requested_by: "ada".to_owned(),
            traceparent: None,
            idempotency: None,
        };
        self.store.create(&batch).await.unwrap().unwrap().commands[0].id
    }

    pub async fn row(&self, id: Uuid) -> Command {
        self.store.command(id).await.unwrap().unwrap()
    }

    /// Waits for a state.
    pub async fn until(&self, id: Uuid, state: State) -> Command {
        self.until_row(id, |row| row.state == state).await
    }

    pub async fn until_row(&self, id: Uuid, fits: impl Fn(&Command) -> bool) -> Command {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let row = self.row(id).await;
            if fits(&row) {
                return row;
            }
            assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {row:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn advance(&self, time: Duration) {
        self.store.clock().advance(i64::try_from(time.as_millis()).unwrap());
    }

    /// The host's newest connection is held by somebody whom the test plays.
    pub async fn connect(&self, host: &Credentials) -> i64 {
        let connect =
            Connect { host_id: host.id.parse().unwrap(), key_version: 1, secure: false, gateway_id: Uuid::now_v7() };
        match self.store.connect_hosts(&[connect]).await.unwrap().0[0] {
            Connected::Epoch { epoch, .. } => epoch,
            Connected::Refused => panic!("refused"),
        }
    }

    /// Somebody who holds the agent, played by the test.
    pub async fn holder(&self, host: &Credentials) -> Holder {
        let api_id = ApiId::parse(&host.api_id).unwrap();
        let mailbox = self.bus.subscribe(&subject::agent_all(&api_id), Subscribe::all(16)).await.unwrap();
        Holder { mailbox, bus: self.bus.clone() }
    }

    /// Requests so far for a command.
    pub fn asked_for(&self, id: Uuid) -> Vec<CommandRequest> {
        self.bus.asked.lock().iter().filter(|request| request.id == id).cloned().collect()
    }
}

/// A connection as the bus sees it.
pub struct Holder {
    mailbox: Subscription,
    bus: Arc<Tapped>,
}

/// A request that waits for its answer.
pub struct Asked {
    pub request: CommandRequest,
    reply: Arc<str>,
    bus: Arc<Tapped>,
}

impl Holder {
    /// The next request for a frame.
    pub async fn asked(&mut self) -> Asked {
        loop {
            let message = timeout(PATIENCE, self.mailbox.next()).await.expect("nobody asks").unwrap();
            if subject::last_token(&message.subject) == "command" {
                let (request, reply) = (message.parse().unwrap(), message.reply.unwrap());
                return Asked { request, reply, bus: self.bus.clone() };
            }
        }
    }
}

impl Asked {
    pub async fn answer(&self, reply: CommandReply) {
        let body = serde_json::to_vec(&reply).unwrap();
        self.bus.publish(&self.reply, body.into(), None).await.unwrap();
    }
}

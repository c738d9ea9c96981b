//! A store with nothing in it, and short ways to bring hosts and commands where a test begins.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jobs::{
    Asks, Command, Deed, Event, Kind, Outcome, State,
    queue::{DeliverTask, MaintenanceTask},
};
use schemas::{
    ApiId,
    message::{CommandReply, Mode},
};
use serde_json::{Value, json};
use store::{
    AddHost, Applied, Clock, Connect, Connected, Created, Keep, NewBatch, NewKey, NotCreated, Store, Target,
    postgres::PostgresStore,
    sqlite::{Options, SqliteStore},
};
use tests::services::postgres::Postgres;
use uuid::Uuid;

/// Milliseconds.
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// The gateway that holds everybody unless a test says otherwise.
pub const GATEWAY: Uuid = Uuid::from_u128(0x6a7e);

/// What a suite looks at behind the port's back.
#[async_trait]
pub trait Inside: Send + Sync {
    /// A statement that answers one number. The same text for every engine.
    async fn number(&self, sql: &str) -> i64;
    /// A statement that answers nothing.
    async fn execute(&self, sql: &str);
    /// Takes what was pushed to the queue since the last call, oldest first.
    async fn take_tasks(&self) -> Vec<Task>;
}

/// A task as it waits for a worker.
#[derive(Debug)]
pub struct Task {
    pub queue: String,
    pub body: Value,
    /// Seconds since the Unix epoch; 0 is now.
    pub run_at: i64,
    pub attempts_max: i64,
    pub metadata: String,
}

impl Task {
    pub fn ids(&self) -> Vec<Uuid> {
        serde_json::from_value::<DeliverTask>(self.body.clone()).expect("a task of a command queue").ids
    }

    pub fn name(&self) -> String {
        serde_json::from_value::<MaintenanceTask>(self.body.clone()).expect("a task of the maintenance queue").name
    }
}

/// All ids of these tasks, in order.
pub fn ids_of(tasks: &[Task]) -> Vec<Uuid> {
    tasks.iter().flat_map(Task::ids).collect()
}

/// A store of one adapter.
pub struct World {
    pub store: Arc<dyn Store>,
    inside: Box<dyn Inside>,
}

impl World {
    pub async fn sqlite() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("patchbay.db");
        // Patient: what is tested is what happens, not how busy this machine is.
        let options = Options { patience: Duration::from_secs(20), ..Options::default() };
        let store = SqliteStore::open(&path, Clock::default(), options).await.unwrap();
        let inside = sqlite::File { pool: sqlite::pool(&path).await, _dir: dir };
        Self { store: Arc::new(store), inside: Box::new(inside) }
    }

    pub async fn postgres() -> Self {
        let database = Postgres::shared().await.database().await;
        let options = postgres::options();
        let store = PostgresStore::open(&database.url(), Clock::default(), options).await.unwrap();
        let inside = postgres::Inner { pool: postgres::pool(&database.superuser_url()).await, _database: database };
        Self { store: Arc::new(store), inside: Box::new(inside) }
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.inside.number(sql).await
    }

    pub async fn execute(&self, sql: &str) {
        self.inside.execute(sql).await;
    }

    pub async fn take_tasks(&self) -> Vec<Task> {
        self.inside.take_tasks().await
    }

    pub fn now(&self) -> i64 {
        self.store.clock().now_ms()
    }

    pub fn advance(&self, ms: i64) {
        self.store.clock().advance(ms);
    }

    /// New hosts, named `host-0` and so on after those there are; in id order.
    pub async fn hosts<const N: usize>(&self) -> [Uuid; N] {
        self.many_hosts(N).await.try_into().unwrap()
    }

    pub async fn host(&self) -> Uuid {
        self.many_hosts(1).await[0]
    }

    pub async fn many_hosts(&self, count: usize) -> Vec<Uuid> {
        let before = self.number("SELECT COUNT(*) FROM hosts").await;
        let hosts: Vec<AddHost> = (before..).take(count).map(|n| new_host(&format!("host-{n}"))).collect();
        self.store.add_hosts(&hosts).await.unwrap();
        hosts.iter().map(|h| h.id).collect()
    }

    /// Connects hosts with their first key, and fails unless all are let in. Answers their epochs.
    pub async fn connect(&self, hosts: &[Uuid]) -> Vec<i64> {
        self.connect_moving(hosts).await.0
    }

    /// The same, with the commands that moved.
    pub async fn connect_moving(&self, hosts: &[Uuid]) -> (Vec<i64>, Vec<Applied>) {
        let connects: Vec<Connect> = hosts.iter().map(|id| connect(*id)).collect();
        let (outcomes, moved) = self.store.connect_hosts(&connects).await.unwrap();
        (outcomes.iter().map(epoch).collect(), moved)
    }

    pub async fn make(&self, batch: &NewBatch) -> Created {
        self.store.create(batch).await.unwrap().unwrap()
    }

    pub async fn refused(&self, batch: &NewBatch) -> NotCreated {
        self.store.create(batch).await.unwrap().unwrap_err()
    }

    /// One command to one host.
    pub async fn command(&self, kind: Kind, host: Uuid) -> Uuid {
        self.command_of(kind, payload(kind), host).await
    }

    pub async fn command_of(&self, kind: Kind, payload: Value, host: Uuid) -> Uuid {
        let made = self.make(&NewBatch { payload, ..batch(kind, &[host]) }).await;
        assert_eq!((made.count, made.coalesced), (1, 0), "not a new command: {made:?}");
        made.commands[0].id
    }

    pub async fn row(&self, id: Uuid) -> Command {
        self.store.command(id).await.unwrap().expect("no such command")
    }

    pub async fn state(&self, id: Uuid) -> State {
        self.row(id).await.state
    }

    pub async fn apply(&self, id: Uuid, event: Event<'_>) -> Applied {
        self.store.apply(&[(id, event)]).await.unwrap().pop().expect("no such command")
    }

    /// Begins an attempt, and fails unless it begins. Answers its number.
    pub async fn take(&self, id: Uuid) -> i32 {
        let taken = self.apply(id, TAKE).await;
        assert_eq!(taken.command.state, State::Sending);
        assert_eq!(taken.step.asks, Asks { command: Some(Mode::Deliver), cancel: false });
        taken.command.attempt
    }

    /// Ends the attempt under way.
    pub async fn outcome(&self, id: Uuid, outcome: Outcome) -> Applied {
        let attempt = self.row(id).await.attempt;
        self.apply(id, Event::Outcome { attempt, outcome }).await
    }

    /// A new command that its host has read.
    pub async fn delivered(&self, kind: Kind, host: Uuid) -> Uuid {
        let id = self.command(kind, host).await;
        self.deliver(id).await;
        id
    }

    /// Takes a queued command and has it read.
    pub async fn deliver(&self, id: Uuid) {
        self.take(id).await;
        let done = self.outcome(id, DELIVERED).await;
        assert_eq!(done.command.state, State::Delivered);
    }

    pub async fn observe(&self, host: Uuid, deed: Deed) -> Vec<Applied> {
        self.store.observe(host, &[deed]).await.unwrap()
    }

    /// What the sweep finds now.
    pub async fn sweep(&self) -> Vec<Applied> {
        self.store.claim_due(1_000).await.unwrap().into_iter().map(|due| due.applied).collect()
    }

    /// What must hold after anything at all.
    pub async fn assert_sound(&self) {
        for (what, sql) in [
            (
                "open rows that no sweep will find",
                "SELECT COUNT(*) FROM commands WHERE final = 0 AND next_check_at IS NULL",
            ),
            (
                "ended rows that a sweep would find",
                "SELECT COUNT(*) FROM commands WHERE final = 1 AND next_check_at IS NOT NULL",
            ),
            ("ended rows without an end", "SELECT COUNT(*) FROM commands WHERE final = 1 AND ended_at IS NULL"),
            ("open rows with an end", "SELECT COUNT(*) FROM commands WHERE final = 0 AND ended_at IS NOT NULL"),
            (
                "hosts with two scans under way",
                "SELECT COUNT(*) FROM (SELECT host_id FROM commands WHERE exclusive = 1 AND state IN \
                 ('sending', 'sent', 'delivered', 'running') GROUP BY host_id HAVING COUNT(*) > 1) AS twice",
            ),
        ] {
            assert_eq!(self.number(sql).await, 0, "{what}");
        }
        self.assert_counts().await;
    }

    /// The kept counts are the counted ones.
    pub async fn assert_counts(&self) {
        let kept = self.store.counts().await.unwrap();
        let mut all = 0;
        for kind in Kind::ALL {
            for state in State::ALL {
                let (k, s) = (kind.name(), state.name());
                let counted =
                    self.number(&format!("SELECT COUNT(*) FROM commands WHERE kind = '{k}' AND state = '{s}'")).await;
                let found = kept.iter().find(|(a, b, _)| (*a, *b) == (kind, state)).map_or(0, |(_, _, n)| *n);
                assert_eq!(i64::try_from(found).unwrap(), counted, "{k} {s}");
                all += counted;
            }
        }
        assert_eq!(self.number("SELECT COUNT(*) FROM commands").await, all, "a kind or state that has no name");
    }
}

pub const TAKE: Event<'static> = Event::Take { blocked: false };
pub const DELIVERED: Outcome = Outcome::Reply(CommandReply::Delivered { epoch: 1 }, Mode::Deliver);
pub const SENT: Outcome = Outcome::Reply(CommandReply::Sent { epoch: 1 }, Mode::Deliver);
pub const NOBODY: Outcome = Outcome::NoResponder(Mode::Deliver);
pub const BUSY: Outcome = Outcome::Reply(CommandReply::Busy, Mode::Deliver);

pub fn new_host(name: &str) -> AddHost {
    let id = Uuid::now_v7();
    AddHost { id, name: name.to_owned(), api_id: api_id(id), key: key("first") }
}

/// Every host of these suites calls itself after its id.
pub fn api_id(host: Uuid) -> ApiId {
    ApiId::parse(&format!("agent_{}", host.simple())).unwrap()
}

pub fn key(text: &str) -> NewKey {
    NewKey { hash: format!("hash of {text}"), digest: Some(format!("digest of {text}")) }
}

pub fn connect(host_id: Uuid) -> Connect {
    Connect { host_id, key_version: 1, secure: true, gateway_id: GATEWAY }
}

/// What retention keeps when only commands are asked about.
pub fn keep(commands_ms: i64) -> Keep {
    Keep { commands_ms, ..Keep::default() }
}

/// The epoch of a connection that was let in.
pub fn epoch(outcome: &Connected) -> i64 {
    match outcome {
        Connected::Epoch { epoch, .. } => *epoch,
        Connected::Refused => panic!("refused"),
    }
}

/// The least a request of this kind may say.
pub fn payload(kind: Kind) -> Value {
    let asked = if kind == Kind::SettingsUpdate { json!({"update_interval": 30}) } else { Value::Null };
    kind.spec().check(&asked).unwrap()
}

/// A scan's payload.
pub fn scan(asked: &Value) -> Value {
    Kind::ComplianceScan.spec().check(asked).unwrap()
}

pub fn batch(kind: Kind, hosts: &[Uuid]) -> NewBatch {
    NewBatch {
        id: Uuid::now_v7(),
        kind,
        payload: payload(kind),
        target: Target::Hosts(hosts.to_vec()),
        expires_in_ms: DAY,
        spread_ms: None,
        requested_by: "ada".to_owned(),
        traceparent: None,
        idempotency: None,
    }
}

mod sqlite {
    use std::path::Path;

    use sqlx::{
        AssertSqlSafe, Row, SqlitePool,
        sqlite::{SqliteConnectOptions, SqlitePoolOptions},
    };
    use tempfile::TempDir;

    use super::{Inside, Task, async_trait};

    /// A connection of our own beside the store's.
    pub struct File {
        pub pool: SqlitePool,
        pub _dir: TempDir,
    }

    pub async fn pool(path: &Path) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(std::time::Duration::from_secs(20));
        SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap()
    }

    #[async_trait]
    impl Inside for File {
        async fn number(&self, sql: &str) -> i64 {
            let sql = AssertSqlSafe(sql.to_owned());
            sqlx::query(sql).fetch_one(&self.pool).await.unwrap().get(0)
        }

        async fn execute(&self, sql: &str) {
            sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
        }

        async fn take_tasks(&self) -> Vec<Task> {
            let mut tx = self.pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
            let rows = sqlx::query("SELECT job, job_type, run_at, max_attempts, metadata FROM Jobs ORDER BY rowid")
                .fetch_all(&mut *tx)
                .await
                .unwrap();
            sqlx::query("DELETE FROM Jobs").execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
            rows.iter()
                .map(|row| Task {
                    queue: row.get("job_type"),
                    body: serde_json::from_slice(row.get("job")).unwrap(),
                    run_at: row.get("run_at"),
                    attempts_max: row.get("max_attempts"),
                    metadata: row.get::<Option<String>, _>("metadata").unwrap_or_default(),
                })
                .collect()
        }
    }
}

pub mod postgres {
    use std::time::Duration;

    use sqlx::{AssertSqlSafe, PgPool, Row, postgres::PgPoolOptions};
    use store::postgres::Options;
    use tests::services::postgres::Database;

    use super::{Inside, Task, async_trait};

    /// Patient, and with few connections: many tests share one server.
    pub fn options() -> Options {
        Options {
            patience: Duration::from_secs(20),
            statement: Duration::from_secs(20),
            connections: 4,
            ..Options::default()
        }
    }

    /// A connection of our own beside the store's.
    pub struct Inner {
        pub pool: PgPool,
        pub _database: Database,
    }

    pub async fn pool(url: &str) -> PgPool {
        PgPoolOptions::new().max_connections(1).connect(url).await.unwrap()
    }

    #[async_trait]
    impl Inside for Inner {
        async fn number(&self, sql: &str) -> i64 {
            let sql = AssertSqlSafe(sql.to_owned());
            sqlx::query(sql).fetch_one(&self.pool).await.unwrap().get(0)
        }

        async fn execute(&self, sql: &str) {
            sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.unwrap();
        }

        async fn take_tasks(&self) -> Vec<Task> {
            let rows = sqlx::query(
                "WITH taken AS (DELETE FROM apalis.jobs RETURNING *) SELECT job, job_type, \
                 CAST(EXTRACT(EPOCH FROM run_at) AS BIGINT) AS run_at, CAST(max_attempts AS BIGINT) AS max_attempts, \
                 CAST(metadata AS TEXT) AS metadata FROM taken ORDER BY id",
            );
            let rows = rows.fetch_all(&self.pool).await.unwrap();
            rows.iter()
                .map(|row| Task {
                    queue: row.get("job_type"),
                    body: serde_json::from_slice(row.get("job")).unwrap(),
                    run_at: row.get("run_at"),
                    attempts_max: row.get("max_attempts"),
                    metadata: row.get::<Option<String>, _>("metadata").unwrap_or_default(),
                })
                .collect()
        }
    }
}

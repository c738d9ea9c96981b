//! Commands: made in batches, moved by events, swept when their time has come.

use async_trait::async_trait;
use jobs::{Asks, Command, Deed, Event, HostFacts, Kind, Queue, State, Step};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{Page, StoreError};

/// Whom a batch is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// These hosts.
    Hosts(Vec<Uuid>),
    /// Every host there is now.
    All,
}

/// A request for commands.
#[derive(Debug, Clone)]
pub struct NewBatch {
    /// The batch.
    pub id: Uuid,
    /// What is asked.
    pub kind: Kind,
    /// Checked by the kind.
    pub payload: Value,
    /// Of whom.
    pub target: Target,
    /// Milliseconds until what is not sent expires.
    pub expires_in_ms: i64,
    /// Spread over this many milliseconds instead of the fleet's pace.
    pub spread_ms: Option<i64>,
    /// Who asks.
    pub requested_by: String,
    /// Its trace.
    pub traceparent: Option<String>,
    /// The client's key and a hash of its request: a retry changes nothing.
    pub idempotency: Option<(String, String)>,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The batch.
    pub batch_id: Uuid,
    /// New commands.
    pub count: u64,
    /// Hosts whose identical open command serves instead.
    pub coalesced: u64,
    /// Hosts left out: too many open commands.
    pub skipped: Vec<Uuid>,
    /// The first [`CREATED_SHOWN`], those that serve instead included.
    pub commands: Vec<CreatedCommand>,
}

/// Most commands that an answer names.
pub const CREATED_SHOWN: usize = 1_000;
/// Most commands of one host that are not final.
pub const OPEN_MAX: i64 = 64;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedCommand {
    /// The command.
    pub id: Uuid,
    /// Its host.
    pub host_id: Uuid,
    /// Where it stands.
    pub state: State,
}

/// Why nothing was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCreated {
    /// These hosts do not exist.
    UnknownHosts(Vec<Uuid>),
    /// Every host of the batch has too many open commands.
    AllFull(Vec<Uuid>),
    /// The idempotency key was used for another request.
    OtherRequest,
}

/// A command after an event.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The row, as it is now.
    pub command: Command,
    /// Its host.
    pub host: HostFacts,
    /// What the event did and asks for.
    pub step: Step,
}

/// A row whose time has come.
#[derive(Debug, Clone)]
pub struct Due {
    /// The row, after the sweep's look.
    pub applied: Applied,
}

impl Due {
    /// Requests that must be made for it.
    #[must_use]
    pub fn asks(&self) -> Asks {
        self.applied.step.asks
    }
}

/// A task that a transaction pushed, for logs and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedTask {
    /// Its queue.
    pub queue: Queue,
    /// The commands it wakes a worker for.
    pub ids: Vec<Uuid>,
}

/// Which commands a list shows.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Of this batch.
    pub batch_id: Option<Uuid>,
    /// Of this host.
    pub host_id: Option<Uuid>,
    /// In this state.
    pub state: Option<State>,
    /// Of this kind.
    pub kind: Option<Kind>,
}

/// A listed command.
pub type Listed = Command;

/// The port.
#[async_trait]
pub trait Commands: Send + Sync {
    /// Makes a batch, with its tasks, durable when this returns. A retry with the same idempotency key answers what the
    /// first made.
    async fn create(&self, batch: &NewBatch) -> Result<Result<Created, NotCreated>, StoreError>;

    /// One command.
    async fn command(&self, id: Uuid) -> Result<Option<Command>, StoreError>;

    /// A page of commands, newest first.
    async fn list_commands(
        &self,
        filter: &ListFilter,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<Page<Listed>, StoreError>;

    /// Applies one event to each row, in one transaction. Rows that do not exist are left out. The answer has one entry
    /// for each row that exists, in the order given.
    async fn apply(&self, events: &[(Uuid, Event<'_>)]) -> Result<Vec<Applied>, StoreError>;

    /// Applies what a host did to all its commands that it may concern. Answers those that changed.
    async fn observe(&self, host_id: Uuid, deeds: &[Deed]) -> Result<Vec<Applied>, StoreError>;

    /// Claims rows whose time has come, at most `limit`, and has the life cycle look at each.
    async fn claim_due(&self, limit: u32) -> Result<Vec<Due>, StoreError>;

    /// At the start of the embedded process: what a dead process had in hand is looked at now, not when its time-out
    /// would be over.
    async fn recover(&self) -> Result<u64, StoreError>;

    /// Commands by queue and state, for metrics.
    async fn counts(&self) -> Result<Vec<(Kind, State, u64)>, StoreError>;
}

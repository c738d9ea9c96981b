//! What every handler and socket of one gateway shares.

use std::sync::Arc;

use bus::Bus;
use store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    Settings, agent::Agents, api::ApiState, dashboard::Dashboards, facts::Facts, metrics::Metrics, presence::Presence,
    socket::Outbox, terminal::Terminals,
};

/// Shared by all; cheap to clone.
pub type App = Arc<Shared>;

/// The parts of a gateway.
pub struct Shared {
    /// New at each start.
    pub gateway_id: Uuid,
    /// Its settings.
    pub settings: Settings,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The instruments.
    pub metrics: Arc<Metrics>,
    /// Authentication of agents, and what they post.
    pub agents: Agents,
    /// Facts from sockets on their way to the store.
    pub facts: Facts,
    /// Who is connected here, and the group commit of connects.
    pub presence: Presence,
    /// Sessions, rate limits, events.
    pub api: ApiState,
    /// What dashboards show, and how many there are.
    pub dashboards: Dashboards,
    /// What terminals share, and how many there are.
    pub terminals: Terminals,
    /// Cancelled when draining begins: refuse newcomers.
    pub draining: CancellationToken,
    /// Cancelled when the process must end: close what is left.
    pub stopping: CancellationToken,
    /// Cancelled when no socket is left: what they told is stored, then the last tasks end.
    pub closing: CancellationToken,
    /// Every connection.
    pub sockets: TaskTracker,
    /// Every other task that must have ended before the store closes.
    pub tasks: TaskTracker,
    /// Answers and claims on their way to the bus.
    pub outbox: Outbox,
}

//! `GET /events`: what happens to hosts, as it happens. One task a gateway listens to the bus and fills one window of
//! events that all clients read.

mod filter;
mod newest;
mod ring;
mod stream;

use std::sync::Arc;

use bus::{BusError, Message, Subscribe};
use parking_lot::Mutex;
use schemas::{event::Event, subject};
use serde_json::Value;
use store::Permission;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

pub use self::stream::get;

use self::{
    newest::Newest,
    ring::{Found, Ring},
};
use crate::{App, metrics::Metrics};

/// What a stream's user must be allowed to, as long as it is open.
pub const NEEDS: Permission = Permission::ViewHosts;

/// Most bytes of events that are kept.
const BYTES_MAX: usize = 8 << 20;

/// Most streams at once.
const CLIENTS_MAX: usize = 1_000;

/// Events of the bus that may wait for the task that keeps them.
const CAPACITY: usize = 65_536;

/// The window of events.
pub struct EventLog {
    gateway_id: Uuid,
    ring: Mutex<Ring>,
    newest: Mutex<Newest>,
    /// Number of the next event.
    next: watch::Sender<u64>,
    /// One permit a stream.
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl EventLog {
    /// An empty window of at most so many events.
    #[must_use]
    pub fn new(gateway_id: Uuid, window: usize, metrics: Arc<Metrics>) -> Self {
        let ring = Ring::new(window, BYTES_MAX);
        let next = watch::Sender::new(ring.next());
        Self {
            gateway_id,
            ring: Mutex::new(ring),
            newest: Mutex::default(),
            next,
            places: Arc::new(Semaphore::new(CLIENTS_MAX)),
            metrics,
        }
    }

    /// Adds an event, unless a newer one of the same command was told: each holds the whole row, so nothing is missing.
    pub fn push(&self, event: &Event) {
        if event.order.is_some_and(|order| !self.newest.lock().is_news(order)) {
            return;
        }
        let data = one_line(event.data.get());
        let mut ring = self.ring.lock();
        ring.push(event.host_id, event.kind, |n| {
            format!("id: {}.{n}\nevent: {}\ndata: {data}\n\n", self.gateway_id, event.kind.name())
        });
        self.next.send_replace(ring.next());
    }

    /// Events may have been missed: every reader is told to read anew.
    pub fn gap(&self) {
        let mut ring = self.ring.lock();
        ring.gap();
        self.next.send_replace(ring.next());
    }

    fn read(&self, position: u64) -> Found {
        self.ring.lock().read(position)
    }

    /// The id of the last event before a position.
    fn id_before(&self, position: u64) -> String {
        format!("{}.{}", self.gateway_id, position.saturating_sub(1))
    }

    /// The position behind the event of that id; `None` for an id of another gateway, or none at all.
    fn position_behind(&self, id: &str) -> Option<u64> {
        let (gateway, n) = id.trim().rsplit_once('.')?;
        let ours = gateway.parse::<Uuid>().is_ok_and(|gateway| gateway == self.gateway_id);
        if ours { n.parse::<u64>().ok()?.checked_add(1) } else { None }
    }
}

/// JSON without line ends: a `data:` line cannot hold one. Only white space between tokens can be one.
fn one_line(json: &str) -> String {
    if !json.contains(['\n', '\r']) {
        return json.to_owned();
    }
    serde_json::from_str::<Value>(json).map(|value| value.to_string()).unwrap_or_default()
}

/// Listens to what changes, until the process ends.
///
/// # Errors
/// When the bus is away.
pub(super) async fn start(app: &App) -> Result<(), BusError> {
    let mut changes = app.bus.subscribe(subject::ALL_HOSTS_CHANGED, Subscribe::all(CAPACITY)).await?;
    let app = Arc::clone(app);
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        loop {
            tokio::select! {
                () = app.stopping.cancelled() => return,
                message = changes.next() => match message {
                    Some(message) => keep(&app.api.events, &message),
                    None => return,
                },
            }
        }
    });
    Ok(())
}

fn keep(log: &EventLog, message: &Message) {
    match message.parse::<Event>() {
        Ok(event) => log.push(&event),
        Err(error) => tracing::warn!(%error, subject = %message.subject, "an event that cannot be read was left out"),
    }
}

#[cfg(test)]
mod tests {
    use schemas::event::EventKind;
    use serde_json::value::RawValue;

    use super::*;

    fn log(gateway: Uuid) -> EventLog {
        EventLog::new(gateway, 10, Arc::new(Metrics::new().unwrap()))
    }

    fn event(data: &str) -> Event {
        let data = RawValue::from_string(data.to_owned()).unwrap();
        Event { host_id: Uuid::from_u128(7), kind: EventKind::Presence, data, order: None }
    }

    #[test]
    fn an_event_is_one_block_with_an_id_that_leads_back_behind_it() {
        let gateway = Uuid::from_u128(1);
        let log = log(gateway);
        log.push(&event(r#"{"connected":true}"#));
        let Found::Entries(entries, behind) = log.read(1) else { panic!("inside the window") };
        assert_eq!(entries[0].text, format!("id: {gateway}.1\nevent: presence\ndata: {{\"connected\":true}}\n\n"));
        assert_eq!(log.position_behind(&format!("{gateway}.1")), Some(behind));
        assert_eq!(log.id_before(behind), format!("{gateway}.1"));
    }

    #[test]
    fn ids_of_other_gateways_and_nonsense_lead_nowhere() {
        let log = log(Uuid::from_u128(1));
        for id in ["", "7", ".", "x.7", &format!("{}.7", Uuid::from_u128(2)), &format!("{}.x", Uuid::from_u128(1))] {
            assert_eq!(log.position_behind(id), None, "{id:?}");
        }
        assert_eq!(log.position_behind(&format!("{}.{}", Uuid::from_u128(1), u64::MAX)), None);
    }

    #[test]
    fn no_event_can_forge_another() {
        let log = log(Uuid::from_u128(1));
        log.push(&event("{\"a\":\n\"b\\nc\"}"));
        let Found::Entries(entries, _) = log.read(1) else { panic!("inside the window") };
        let text = String::from_utf8(entries[0].text.to_vec()).unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("data: ")).count(), 1);
        assert!(text.ends_with("data: {\"a\":\"b\\nc\"}\n\n"), "{text:?}");
    }
}

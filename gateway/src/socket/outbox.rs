//! Answers and claims on their way to the bus: a socket's loop never waits for the bus.

use std::{sync::Arc, time::Duration};

use bus::Bus;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Messages that wait at most; more are dropped, as the bus itself would.
const CAPACITY: usize = 8_192;
/// How long one publish may take.
const DEADLINE: Duration = Duration::from_secs(2);

/// The way out.
#[derive(Clone)]
pub struct Outbox(mpsc::Sender<(Arc<str>, Bytes)>);

impl Outbox {
    /// Starts the task that empties it; it ends when `closing`, and it is empty.
    #[must_use]
    pub fn start(bus: Arc<dyn Bus>, tasks: &TaskTracker, closing: CancellationToken) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(Arc<str>, Bytes)>(CAPACITY);
        tasks.spawn(async move {
            loop {
                let next = tokio::select! {
                    biased;
                    next = receiver.recv() => next,
                    () = closing.cancelled(), if receiver.is_empty() => None,
                };
                let Some((subject, body)) = next else { break };
                // A message that does not get out is found by who waits for it.
                let sent = tokio::time::timeout(DEADLINE, bus.publish(&subject, body, None)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    tracing::debug!(%subject, "not published");
                }
            }
        });
        Self(sender)
    }

    /// Sends, or drops when too many wait.
    pub fn send(&self, subject: Arc<str>, body: Bytes) {
        if self.0.try_send((subject, body)).is_err() {
            tracing::debug!("outbox is full or closed");
        }
    }
}

//! "Does that gateway live?" Workers ask it of every gateway that a hint names, and clear the hints of one that nobody
//! answers for: our subscription ends with our connection to the bus.

use std::sync::Arc;

use bus::{Bus, BusError, Subscribe, publish_json};
use schemas::{message::AliveReply, subject};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::Holdings;

/// Questions that wait: one from each worker now and then.
const CAPACITY: usize = 64;

pub(super) async fn start(
    bus: &Arc<dyn Bus>,
    gateway_id: Uuid,
    held: Holdings,
    tasks: &TaskTracker,
    closing: CancellationToken,
) -> Result<(), BusError> {
    let mut asked = bus.subscribe(&subject::gateway_alive(gateway_id), Subscribe::all(CAPACITY)).await?;
    let bus = Arc::clone(bus);
    tasks.spawn(async move {
        loop {
            let question = tokio::select! {
                () = closing.cancelled() => return,
                question = asked.next() => question,
            };
            let Some(question) = question else { return };
            if let Some(to) = question.reply {
                let agents = held.lock().len();
                // Whoever asked asks again.
                let _ = publish_json(bus.as_ref(), &to, &AliveReply { agents }).await;
            }
        }
    });
    Ok(())
}

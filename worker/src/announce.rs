//! Tells everybody which commands moved.

use bus::{Bus, publish_json};
use schemas::subject;
use store::Applied;

/// Publishes one event for each command that moved. Nobody may be listening: an event is news, the row is the truth.
pub async fn announce(bus: &dyn Bus, applied: &[Applied]) {
    for moved in applied.iter().filter(|a| a.step.moved) {
        if let Some(event) = jobs::view::event(&moved.command) {
            let _ = publish_json(bus, &subject::host_changed(event.host_id), &event).await;
        }
    }
}

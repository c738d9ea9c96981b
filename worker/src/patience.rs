//! A store that is away for a moment costs a moment, not the minute until the sweep.

use std::time::Duration;

use jobs::Event;
use store::{Applied, Store, StoreError};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// How long events are tried again while the store is away. Past it the sweep finds their rows.
const KEEP_TRYING: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Applies events, again and again while the store is away. Applying one twice does no harm. `what` is for the log.
///
/// # Errors
/// Those of the store; nothing was written then, or it is not known.
pub async fn apply(
    store: &dyn Store,
    events: &[(Uuid, Event<'static>)],
    what: &'static str,
) -> Result<Vec<Applied>, StoreError> {
    let until = Instant::now() + KEEP_TRYING;
    let mut wait = FIRST_WAIT;
    loop {
        match store.apply(events).await {
            Err(StoreError::Unavailable(why)) if Instant::now() < until => {
                tracing::warn!(why, what, rows = events.len(), "waits for the store");
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            other => return other,
        }
    }
}

//! Hears of tasks that other processes push, and rings for them. A connection that is lost is made again; what was
//! missed meanwhile is rung for, and found by the look that workers take once a second.

use std::{sync::Arc, time::Duration};

use jobs::Queue;
use sqlx::{PgPool, postgres::PgListener};

use crate::Bell;

/// The channel of the executor's own trigger.
const CHANNEL: &str = "apalis::job::insert";
/// Between two tries to listen.
const AGAIN: Duration = Duration::from_secs(1);

pub async fn run(pool: PgPool, bell: Arc<Bell>) {
    loop {
        if let Err(error) = hear(&pool, &bell).await {
            tracing::warn!(%error, "not told of new tasks for now: they are looked for once a second");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn hear(pool: &PgPool, bell: &Bell) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    ring_all(bell);
    loop {
        match listener.try_recv().await? {
            Some(told) => {
                for queue in Queue::ALL.into_iter().filter(|queue| concerns(told.payload(), *queue)) {
                    bell.ring(queue);
                }
            }
            // The connection was lost and will be made anew by the next call.
            None => {
                tracing::info!("the connection that tells of new tasks was lost");
                ring_all(bell);
            }
        }
    }
}

fn ring_all(bell: &Bell) {
    for queue in Queue::ALL {
        bell.ring(queue);
    }
}

/// Does the trigger's text tell of a task of this queue? One that cannot be read concerns everybody.
fn concerns(payload: &str, queue: Queue) -> bool {
    let told = serde_json::from_str::<serde_json::Value>(payload);
    told.ok().and_then(|told| told.get("job_type")?.as_str().map(|name| name == queue.name())).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use jobs::Queue;

    use super::concerns;

    #[test]
    fn a_text_concerns_its_queue_and_an_unreadable_one_everybody() {
        assert!(concerns(r#"{"job_type":"compliance","id":"x"}"#, Queue::Compliance));
        assert!(!concerns(r#"{"job_type":"compliance","id":"x"}"#, Queue::AgentCommands));
        assert!(concerns("{", Queue::AgentCommands) && concerns("{}", Queue::Maintenance));
    }
}

//! Housekeeping.

use async_trait::async_trait;
use jobs::{Queue, queue::Schedule};

use super::{Conn, Engine, SqlStore, audit, recordings, statement::sql, tasks::push_maintenance};
use crate::{Keep, Maintenance, Retired, StoreError};

// A call removes 1,000 rows of each kind: nothing is held for long. The number stands in the text, or PostgreSQL would plan
// for a third of the table.
/// How long finished tasks and ended sessions stay.
const DAY_MS: i64 = 86_400_000;

pub const OLD_COMMANDS: &str =
    "DELETE FROM commands WHERE id IN (SELECT id FROM commands WHERE ended_at < $1 ORDER BY ended_at LIMIT 1000)";

pub const OLD_SESSIONS: &str =
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 ORDER BY expires_at LIMIT 1000)";

pub const OLD_KEYS: &str = "DELETE FROM idempotency_keys WHERE (username, key) IN \
     (SELECT username, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT 1000)";

/// Their recordings go first, in batches of their own.
pub const OLD_TERMINALS: &str = "DELETE FROM terminal_sessions WHERE id IN \
     (SELECT id FROM terminal_sessions WHERE ended_at < $1 AND recorded = 0 ORDER BY ended_at LIMIT 1000)";

pub const OLD_AUDITS: &str =
    "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE id < $1 ORDER BY id LIMIT 1000)";

#[async_trait]
impl<E: Engine> Maintenance for SqlStore<E> {
    async fn tick(&self, schedule: &Schedule) -> Result<bool, StoreError> {
        let tick = self.now() / 1000 / schedule.every_secs;
        let taken = self
            .reader()
            .await?
            .optional(sql("SELECT 1 FROM schedule_ticks WHERE name = $1 AND tick = $2").bind(schedule.name).bind(tick))
            .await?;
        if taken.is_some() {
            return Ok(false);
        }
        let mut tx = self.engine.begin().await?;
        let won = tx
            .run(
                sql("INSERT INTO schedule_ticks (name, tick) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                    .bind(schedule.name)
                    .bind(tick),
            )
            .await?
            == 1;
        if won {
            tx.run(sql("DELETE FROM schedule_ticks WHERE name = $1 AND tick < $2").bind(schedule.name).bind(tick))
                .await?;
            push_maintenance(&mut tx, schedule.name).await?;
        }
        tx.commit().await?;
        if won {
            self.bell.ring(Queue::Maintenance);
        }
        Ok(won)
    }

    async fn retire(&self, keep: &Keep) -> Result<Retired, StoreError> {
        let mut tx = self.engine.begin().await?;
        let now = self.now();
        let commands = delete(&mut tx, OLD_COMMANDS, now - keep.commands_ms).await?;
        let sessions = delete(&mut tx, OLD_SESSIONS, now - DAY_MS).await?;
        let keys = delete(&mut tx, OLD_KEYS, now - DAY_MS).await?;
        let tasks = delete(&mut tx, E::OLD_TASKS, (now - DAY_MS.min(keep.commands_ms)) / 1000).await?
            + tx.run(sql(E::OLD_WORKERS)).await?;
        // A recording is of no use without its terminal.
        let unrecorded = now - keep.recordings_ms.min(keep.audit_ms);
        let chunks = delete(&mut tx, recordings::OLD_CHUNKS, unrecorded).await?;
        let recordings = tx.run(sql(recordings::forget_old_sql()).bind(unrecorded)).await?;
        let terminals = delete(&mut tx, OLD_TERMINALS, now - keep.audit_ms).await?;
        let audits = tx.run(sql(OLD_AUDITS).bind(audit::place(now - keep.audit_ms))).await?;
        tx.commit().await?;
        Ok(Retired { commands, tasks, sessions, keys, terminals, chunks, recordings, audits })
    }

    async fn fold_counts(&self) -> Result<(), StoreError> {
        for fold in E::FOLD_COUNTS {
            self.writer().await?.run(sql(*fold)).await?;
        }
        Ok(())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.reader().await?.all(sql("SELECT oldest_version FROM schema_floor")).await.map(drop)
    }
}

async fn delete<C: Conn>(tx: &mut C, text: &'static str, before: i64) -> Result<u64, StoreError> {
    tx.run(sql(text).bind(before)).await
}

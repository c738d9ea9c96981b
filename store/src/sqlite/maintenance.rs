//! Housekeeping.

use async_trait::async_trait;
use jobs::{Queue, queue::Schedule};
use sqlx::SqliteConnection;

use super::{SqliteStore, queue, unavailable};
use crate::{Maintenance, Retired, StoreError};

/// Rows one call removes of each kind: the writer is never held for long.
const BATCH: i64 = 1_000;
/// How long finished tasks and ended sessions stay.
const DAY_MS: i64 = 86_400_000;

pub(super) const OLD_COMMANDS: &str =
    "DELETE FROM commands WHERE id IN (SELECT id FROM commands WHERE ended_at < $1 LIMIT $2)";

pub(super) const OLD_SESSIONS: &str =
    "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at < $1 LIMIT $2)";

pub(super) const OLD_KEYS: &str =
    "DELETE FROM idempotency_keys WHERE rowid IN (SELECT rowid FROM idempotency_keys WHERE created_at < $1 LIMIT $2)";

#[async_trait]
impl Maintenance for SqliteStore {
    async fn tick(&self, schedule: &Schedule) -> Result<bool, StoreError> {
        let tick = self.clock.now_ms() / 1000 / schedule.every_secs;
        let taken = sqlx::query("SELECT 1 FROM schedule_ticks WHERE name = $1 AND tick = $2")
            .bind(schedule.name)
            .bind(tick)
            .fetch_optional(&self.readers)
            .await
            .map_err(unavailable)?;
        if taken.is_some() {
            return Ok(false);
        }
        let mut tx = self.begin().await?;
        let won = sqlx::query("INSERT INTO schedule_ticks (name, tick) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(schedule.name)
            .bind(tick)
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?
            .rows_affected()
            == 1;
        if won {
            sqlx::query("DELETE FROM schedule_ticks WHERE name = $1 AND tick < $2")
                .bind(schedule.name)
                .bind(tick)
                .execute(&mut *tx)
                .await
                .map_err(unavailable)?;
            queue::push_maintenance(&mut tx, schedule.name).await?;
        }
        tx.commit().await.map_err(unavailable)?;
        if won {
            self.bell.ring(Queue::Maintenance);
        }
        Ok(won)
    }

    async fn retire(&self, keep_ms: i64) -> Result<Retired, StoreError> {
        let mut tx = self.begin().await?;
        let now = self.clock.now_ms();
        let commands = delete(&mut tx, OLD_COMMANDS, now - keep_ms).await?;
        let sessions = delete(&mut tx, OLD_SESSIONS, now - DAY_MS).await?;
        let keys = delete(&mut tx, OLD_KEYS, now - DAY_MS).await?;
        let tasks = Self::retire_tasks(&mut tx, (now - DAY_MS.min(keep_ms)) / 1000, BATCH).await?;
        tx.commit().await.map_err(unavailable)?;
        Ok(Retired { commands, tasks, sessions, keys })
    }

    async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM schema_floor").execute(&self.readers).await.map(drop).map_err(unavailable)
    }
}

async fn delete(tx: &mut SqliteConnection, sql: &'static str, before: i64) -> Result<u64, StoreError> {
    sqlx::query(sql).bind(before).bind(BATCH).execute(tx).await.map(|done| done.rows_affected()).map_err(unavailable)
}

//! Recordings of terminals. What the chunks come to stands in the terminal's row: a list reads no chunk.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    statement::{Cells, get, sql},
    terminals,
};
use crate::{Page, RecordingRow, Recordings, StoreError, TerminalFilter};

/// The next chunk: $2 its number, $3 its bytes, $4 those before compression, $5 where it ends.
pub const NEXT_CHUNK: &str = "UPDATE terminal_sessions SET recorded = 1, chunks = chunks + 1, \
     stored_bytes = stored_bytes + $3, raw_bytes = raw_bytes + $4, recorded_ms = $5 WHERE id = $1 AND chunks = $2";

pub const CHUNK: &str = "SELECT chunk FROM recording_chunks WHERE terminal_id = $1 AND number = $2";

pub const RECORDING: &str = "SELECT * FROM terminal_sessions WHERE id = $1 AND recorded = 1";

/// The terminal's row is as if it had never been recorded.
const FORGET: &str =
    "UPDATE terminal_sessions SET recorded = 0, chunks = 0, stored_bytes = 0, raw_bytes = 0, recorded_ms = 0";

/// One that ended and is recorded.
pub fn forget_sql() -> String {
    format!("{FORGET} WHERE id = $1 AND recorded = 1 AND ended_at IS NOT NULL")
}

/// Chunks of terminals that ended before $1.
pub const OLD_CHUNKS: &str = "DELETE FROM recording_chunks WHERE (terminal_id, number) IN \
     (SELECT c.terminal_id, c.number FROM terminal_sessions t JOIN recording_chunks c ON c.terminal_id = t.id \
     WHERE t.recorded = 1 AND t.ended_at < $1 ORDER BY t.ended_at LIMIT 1000)";

/// Those of which no chunk is left.
pub fn forget_old_sql() -> String {
    format!(
        "{FORGET} WHERE id IN (SELECT t.id FROM terminal_sessions t WHERE t.recorded = 1 AND t.ended_at < $1 \
         AND NOT EXISTS (SELECT 1 FROM recording_chunks WHERE terminal_id = t.id) ORDER BY t.ended_at LIMIT 1000)"
    )
}

fn row(row: &impl Cells) -> Result<RecordingRow, StoreError> {
    Ok(RecordingRow {
        terminal: terminals::row(row)?,
        chunks: get(row, "chunks")?,
        stored_bytes: get(row, "stored_bytes")?,
        raw_bytes: get(row, "raw_bytes")?,
        duration_ms: get(row, "recorded_ms")?,
    })
}

#[async_trait]
impl<E: Engine> Recordings for SqlStore<E> {
    async fn append_recording(
        &self,
        id: Uuid,
        number: i64,
        chunk: &[u8],
        raw: i64,
        until_ms: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.engine.begin().await?;
        let stored = i64::try_from(chunk.len()).unwrap_or(i64::MAX);
        let next = tx.run(sql(NEXT_CHUNK).bind(id).bind(number).bind(stored).bind(raw).bind(until_ms)).await?;
        if next == 0 {
            // The row says whether that is for the better.
            let there = tx.optional(sql(CHUNK).bind(id).bind(number)).await?;
            return there.map(drop).ok_or(StoreError::Gone);
        }
        let insert = sql("INSERT INTO recording_chunks (terminal_id, number, chunk) VALUES ($1, $2, $3)");
        tx.run(insert.bind(id).bind(number).bind(chunk)).await?;
        tx.commit().await
    }

    async fn recording_chunk(&self, id: Uuid, number: i64) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.reader().await?.optional(sql(CHUNK).bind(id).bind(number)).await?;
        row.map(|row| get(&row, "chunk")).transpose()
    }

    async fn recordings(&self, filter: &TerminalFilter) -> Result<Page<RecordingRow>, StoreError> {
        let rows = self.terminal_rows(filter, true).await?;
        let items = rows.iter().map(row).collect::<Result<_, _>>()?;
        Ok(super::page(items, filter.limit, |recording: &RecordingRow| recording.terminal.id))
    }

    async fn recording(&self, id: Uuid) -> Result<Option<RecordingRow>, StoreError> {
        self.reader().await?.optional(sql(RECORDING).bind(id)).await?.as_ref().map(row).transpose()
    }

    async fn delete_recording(&self, id: Uuid) -> Result<bool, StoreError> {
        let mut tx = self.engine.begin().await?;
        let there = tx.run(sql(forget_sql()).bind(id)).await? == 1;
        if there {
            tx.run(sql("DELETE FROM recording_chunks WHERE terminal_id = $1").bind(id)).await?;
        }
        tx.commit().await?;
        Ok(there)
    }
}

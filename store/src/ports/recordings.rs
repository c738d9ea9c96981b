//! Recordings of terminals, in chunks.

use async_trait::async_trait;
use uuid::Uuid;

use super::terminals::{TerminalFilter, TerminalRow};
use crate::{Page, StoreError};

/// A recording, with the terminal it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingRow {
    /// The terminal.
    pub terminal: TerminalRow,
    /// How many chunks there are.
    pub chunks: i64,
    /// Bytes that they take.
    pub stored_bytes: i64,
    /// Bytes before compression.
    pub raw_bytes: i64,
    /// How long it is, in milliseconds.
    pub duration_ms: i64,
}

/// The port.
#[async_trait]
pub trait Recordings: Send + Sync {
    /// Stores a chunk (gzip) of a terminal's recording: `raw` bytes before compression, up to `until_ms` milliseconds after
    /// the beginning. Chunks are numbered from 0 without gaps; one that is there already is left as it is, so that a
    /// store that gave no answer can be asked again. `Gone` when there is no such terminal, or not the chunk before, as
    /// when the recording was removed meanwhile.
    async fn append_recording(
        &self,
        id: Uuid,
        number: i64,
        chunk: &[u8],
        raw: i64,
        until_ms: i64,
    ) -> Result<(), StoreError>;

    /// One chunk; none past the last.
    async fn recording_chunk(&self, id: Uuid, number: i64) -> Result<Option<Vec<u8>>, StoreError>;

    /// A page of terminals that have a recording, newest first.
    async fn recordings(&self, filter: &TerminalFilter) -> Result<Page<RecordingRow>, StoreError>;

    /// The recording of one terminal.
    async fn recording(&self, id: Uuid) -> Result<Option<RecordingRow>, StoreError>;

    /// Removes the recording of a terminal that has ended. False: there is none, or it still goes on.
    async fn delete_recording(&self, id: Uuid) -> Result<bool, StoreError>;
}

//! A recording: what the shell wrote and how large its window was, as asciicast v2, in compressed chunks. What is typed is
//! not recorded. A terminal never waits for its recording; what the store could not take in time is marked as missing.

use std::{io::Write as _, time::Duration};

use flate2::{Compression, write::GzEncoder};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use uuid::Uuid;

use super::message::Size;
use crate::App;

/// What waits for the store at most, in pieces of up to 16 KiB.
const WAITING: usize = 256;
/// A chunk before it is compressed, in bytes.
const CHUNK: usize = 256 << 10;
/// What was written is stored within this, unless more comes.
const FLUSH: Duration = Duration::from_secs(3);
/// For how long a chunk waits for a store that is away.
const PATIENCE: Duration = Duration::from_secs(20);

enum Event {
    Output(String),
    Resize(Size),
}

/// Takes what is to be recorded. Dropped, the recording ends.
pub struct Recorder {
    events: mpsc::Sender<(Instant, Event)>,
    /// Bytes that found no room.
    missing: u64,
}

impl Recorder {
    /// Starts a recording.
    #[must_use]
    pub fn start(app: &App, id: Uuid, size: Size, terminal: &str, title: &str) -> Self {
        let (events, told) = mpsc::channel(WAITING);
        let header = json!({
            "version": 2,
            "width": size.cols,
            "height": size.rows,
            "timestamp": app.store.clock().now_ms() / 1_000,
            "title": title,
            "env": {"TERM": terminal},
        });
        let writer = Writer { app: app.clone(), id, began: Instant::now(), number: 0, text: format!("{header}\n") };
        app.tasks.spawn(writer.run(told));
        Self { events, missing: 0 }
    }

    /// The shell wrote.
    pub fn output(&mut self, text: &str) {
        if self.missing > 0 {
            let marker = format!("\r\n[patchbay: {} bytes were not recorded]\r\n", self.missing);
            if self.events.try_send((Instant::now(), Event::Output(marker))).is_err() {
                self.missing += text.len() as u64;
                return;
            }
            self.missing = 0;
        }
        if self.events.try_send((Instant::now(), Event::Output(text.to_owned()))).is_err() {
            self.missing += text.len() as u64;
        }
    }

    /// The window has another size.
    pub fn resize(&self, size: Size) {
        let _ = self.events.try_send((Instant::now(), Event::Resize(size)));
    }
}

struct Writer {
    app: App,
    id: Uuid,
    began: Instant,
    number: i64,
    text: String,
}

impl Writer {
    async fn run(mut self, mut told: mpsc::Receiver<(Instant, Event)>) {
        let mut flush_at = Instant::now() + FLUSH;
        loop {
            let next = timeout_at(flush_at, told.recv()).await;
            let ended = matches!(next, Ok(None));
            if let Ok(Some((at, event))) = next {
                if self.text.is_empty() {
                    flush_at = Instant::now() + FLUSH;
                }
                self.text.push_str(&line(at - self.began, &event));
            }
            if (ended || self.text.len() >= CHUNK || flush_at <= Instant::now()) && !self.flush().await {
                tracing::error!(terminal = %self.id, "the rest of a recording is lost: the store is away");
                return;
            }
            if ended {
                return;
            }
            if self.text.is_empty() {
                // Nothing to flush before something comes.
                flush_at = Instant::now() + FLUSH * 1_000;
            }
        }
    }

    /// Stores what has come. False: it could not be stored in time.
    async fn flush(&mut self) -> bool {
        if self.text.is_empty() {
            return true;
        }
        let text = std::mem::take(&mut self.text);
        let Ok(chunk) = compress(&text) else { return false };
        let (raw, until) = (text.len(), self.began.elapsed().as_millis());
        let (raw, until) = (i64::try_from(raw).unwrap_or(i64::MAX), i64::try_from(until).unwrap_or(i64::MAX));
        let give_up = Instant::now() + PATIENCE;
        while let Err(error) = self.app.store.append_recording(self.id, self.number, &chunk, raw, until).await {
            if Instant::now() >= give_up {
                return false;
            }
            tracing::warn!(%error, terminal = %self.id, "a recording waits for the store");
            sleep(Duration::from_secs(1)).await;
        }
        self.number += 1;
        true
    }
}

fn line(since: Duration, event: &Event) -> String {
    let seconds = (since.as_secs_f64() * 1e6).round() / 1e6;
    match event {
        Event::Output(text) => format!("{}\n", json!([seconds, "o", text])),
        Event::Resize(size) => format!("{}\n", json!([seconds, "r", format!("{}x{}", size.cols, size.rows)])),
    }
}

fn compress(text: &str) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    encoder.finish()
}

/// A chunk as it was before.
///
/// # Errors
/// When it is none.
pub fn expand(chunk: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(chunk), &mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_of_asciicast() {
        let second = Duration::from_micros(1_500_000);
        assert_eq!(line(second, &Event::Output("a\u{1b}\n".into())), "[1.5,\"o\",\"a\\u001b\\n\"]\n");
        assert_eq!(line(second, &Event::Resize(Size::new(80, 24))), "[1.5,\"r\",\"80x24\"]\n");
    }

    #[test]
    fn a_chunk_is_smaller_and_comes_back() {
        let text = "hello ".repeat(1_000);
        let chunk = compress(&text).unwrap();
        assert!(chunk.len() < text.len() / 10);
        assert_eq!(expand(&chunk).unwrap(), text.as_bytes());
        assert!(expand(b"no gzip").is_err());
    }
}

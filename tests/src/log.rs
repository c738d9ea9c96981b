//! What really happened on the hosts: every frame they got, every call they made, in one order. Tests hold a server's rows
//! against it.

mod event;

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use event::{Event, ScanOutcome, What};

use anyhow::Context;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::summary::Counts;

/// A handle on the log, shared by all agents of a fleet.
#[derive(Debug, Clone)]
pub struct FrameLog {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    keep: Keep,
}

#[derive(Debug)]
struct Inner {
    events: Vec<Event>,
    counts: Counts,
    seq: u64,
    file: Option<BufWriter<File>>,
}

/// What stays in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Only the counts: for long loads.
    Counts,
    /// Events without payloads.
    Events,
    /// Events with the payloads of frames.
    Payloads,
}

impl FrameLog {
    /// A log that keeps everything in memory, for tests.
    pub fn in_memory() -> Self {
        Self::new(Keep::Payloads, None)
    }

    /// A log that appends JSON lines to a file.
    pub fn to_file(path: &Path, keep: Keep) -> anyhow::Result<Self> {
        let file =
            File::options().append(true).create(true).open(path).with_context(|| format!("{}", path.display()))?;
        Ok(Self::new(keep, Some(BufWriter::new(file))))
    }

    /// A log that only counts.
    pub fn counting() -> Self {
        Self::new(Keep::Counts, None)
    }

    fn new(keep: Keep, file: Option<BufWriter<File>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(Inner { events: Vec::new(), counts: Counts::default(), seq: 0, file }),
                changed: watch::Sender::new(()),
                keep,
            }),
        }
    }

    pub(crate) fn record(&self, agent: &Arc<str>, conn: u32, what: What) {
        {
            let mut inner = self.shared.inner.lock();
            inner.seq += 1;
            inner.counts.take(&what);
            if inner.file.is_some() || self.shared.keep != Keep::Counts {
                let time_us = unix_micros();
                let event =
                    Event { seq: inner.seq, time_ms: time_us / 1000, time_us, agent: agent.clone(), conn, what };
                if let Some(file) = &mut inner.file {
                    // A log on a full disk must not stop the fleet; the summary still counts.
                    let _ = serde_json::to_writer(&mut *file, &event)
                        .map_err(std::io::Error::from)
                        .and_then(|()| file.write_all(b"\n"));
                }
                if self.shared.keep != Keep::Counts {
                    inner.events.push(event);
                }
            }
        }
        self.shared.changed.send_replace(());
    }

    pub(crate) fn frame(&self, agent: &Arc<str>, conn: u32, kind: String, payload: &[u8]) {
        let keep = (self.shared.keep == Keep::Payloads).then(|| payload.into());
        self.record(
            agent,
            conn,
            What::Frame { kind, sha256: sha256_hex(payload), bytes: payload.len(), payload: keep },
        );
    }

    /// Changes a count that is no event.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.shared.inner.lock().counts);
        self.shared.changed.send_replace(());
    }

    /// The counts as they are now.
    pub fn counts(&self) -> Counts {
        self.shared.inner.lock().counts.clone()
    }

    /// The number of the last event so far.
    pub fn last(&self) -> u64 {
        self.shared.inner.lock().seq
    }

    /// A copy of all events so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.inner.lock().events.clone()
    }

    /// The events that fit.
    pub fn select(&self, fits: impl Fn(&Event) -> bool) -> Vec<Event> {
        let inner = self.shared.inner.lock();
        inner.events.iter().filter(|event| fits(event)).cloned().collect()
    }

    /// One agent's events.
    pub fn of_agent(&self, api_id: &str) -> Vec<Event> {
        self.select(|event| &*event.agent == api_id)
    }

    /// The frames of one `type` that an agent got, in order.
    pub fn frames(&self, api_id: &str, kind: &str) -> Vec<Event> {
        self.select(|event| &*event.agent == api_id && event.is_frame(kind))
    }

    /// The calls of one agent to paths that end so, with the status of their answers.
    pub fn calls(&self, api_id: &str, path_end: &str) -> Vec<(Event, Option<u16>)> {
        self.select(|event| &*event.agent == api_id)
            .into_iter()
            .filter_map(|event| match &event.what {
                What::Http { path, status, .. } if path.ends_with(path_end) => {
                    let status = *status;
                    Some((event, status))
                }
                _ => None,
            })
            .collect()
    }

    /// Waits until `look` finds something in the events. `None` after `timeout`.
    pub async fn wait_for<T>(&self, timeout: Duration, look: impl Fn(&[Event]) -> Option<T>) -> Option<T> {
        self.wait(timeout, |inner| look(&inner.events)).await
    }

    /// Waits until the counts fit. `None` after `timeout`.
    pub async fn wait_counts(&self, timeout: Duration, fits: impl Fn(&Counts) -> bool) -> Option<Counts> {
        self.wait(timeout, |inner| fits(&inner.counts).then(|| inner.counts.clone())).await
    }

    async fn wait<T>(&self, timeout: Duration, look: impl Fn(&Inner) -> Option<T>) -> Option<T> {
        let mut changed = self.shared.changed.subscribe();
        let found = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = look(&self.shared.inner.lock()) {
                    return Some(found);
                }
                changed.changed().await.ok()?;
            }
        };
        tokio::time::timeout(timeout, found).await.ok().flatten()
    }

    /// Writes what is buffered to the file.
    pub fn flush(&self) {
        if let Some(file) = &mut self.shared.inner.lock().file {
            let _ = file.flush();
        }
    }
}

/// SHA-256 in hex, as the log writes it.
pub fn sha256_hex(payload: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(payload).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[expect(clippy::disallowed_methods, reason = "a host's own clock, beside the server's")]
fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

//! The last events, bounded by count and bytes. Readers keep a position, not a queue: who is too slow finds that its
//! position has left the window, and costs nothing until then.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use schemas::event::EventKind;
use uuid::Uuid;

/// What an entry costs beside its text.
const OVERHEAD: usize = 96;

/// Most entries that one reading looks at, so that a reader far behind holds the lock only briefly.
const READ_MAX: usize = 256;

/// One event, printed once for all readers.
#[derive(Debug)]
pub(super) struct Entry {
    pub host_id: Uuid,
    pub kind: EventKind,
    /// The whole block of the stream, its empty line included.
    pub text: Bytes,
}

/// What a reader finds at its position.
pub(super) enum Found {
    /// Entries, oldest first, and the position behind them.
    Entries(Vec<Arc<Entry>>, u64),
    /// The position is outside the window; it goes on here.
    Reset(u64),
}

pub(super) struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Number of the next event; the first is 1.
    next: u64,
    max: (usize, usize),
}

impl Ring {
    pub(super) fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: 0, next: 1, max: (max_entries.max(1), max_bytes) }
    }

    /// Number of the next event.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    /// Adds an event whose text is printed with its number.
    pub(super) fn push(&mut self, host_id: Uuid, kind: EventKind, print: impl FnOnce(u64) -> String) {
        let text = Bytes::from(print(self.next));
        self.next += 1;
        self.bytes += text.len() + OVERHEAD;
        self.entries.push_back(Arc::new(Entry { host_id, kind, text }));
        while self.entries.len() > self.max.0 || (self.bytes > self.max.1 && self.entries.len() > 1) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.text.len() + OVERHEAD;
            }
        }
    }

    /// Events may have been missed: no position before this one is inside the window any more.
    pub(super) fn gap(&mut self) {
        self.entries.clear();
        self.bytes = 0;
        self.next += 1;
    }

    /// What is at a position.
    pub(super) fn read(&self, position: u64) -> Found {
        if position < self.first() || position > self.next {
            return Found::Reset(self.next);
        }
        let skip = usize::try_from(position - self.first()).unwrap_or(usize::MAX);
        let entries: Vec<_> = self.entries.iter().skip(skip).take(READ_MAX).cloned().collect();
        let behind = position + entries.len() as u64;
        Found::Entries(entries, behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(ring: &mut Ring, text: &str) {
        ring.push(Uuid::nil(), EventKind::Command, |n| format!("{n}{text}"));
    }

    fn at(ring: &Ring, position: u64) -> String {
        match ring.read(position) {
            Found::Entries(entries, behind) => {
                let texts: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.text).into_owned()).collect();
                format!("{} >{behind}", texts.join(","))
            }
            Found::Reset(next) => format!("reset >{next}"),
        }
    }

    #[test]
    fn a_position_finds_what_came_after_it() {
        let mut ring = Ring::new(3, 1 << 20);
        assert_eq!(at(&ring, 1), " >1");
        assert_eq!(at(&ring, 2), "reset >1", "a number that was never given");
        push(&mut ring, "a");
        push(&mut ring, "b");
        assert_eq!(at(&ring, 1), "1a,2b >3");
        assert_eq!(at(&ring, 2), "2b >3");
        assert_eq!(at(&ring, 3), " >3");
    }

    #[test]
    fn the_window_is_bounded_by_count() {
        let mut ring = Ring::new(3, 1 << 20);
        for _ in 0..5 {
            push(&mut ring, "x");
        }
        assert_eq!(at(&ring, 3), "3x,4x,5x >6");
        assert_eq!(at(&ring, 2), "reset >6");
    }

    #[test]
    fn the_window_is_bounded_by_bytes_but_keeps_the_newest() {
        let mut ring = Ring::new(100, 2 * (OVERHEAD + 11));
        for _ in 0..4 {
            push(&mut ring, &"y".repeat(10));
        }
        assert_eq!(ring.entries.len(), 2);
        push(&mut ring, &"z".repeat(10_000));
        assert_eq!(ring.entries.len(), 1);
        assert_eq!(ring.bytes, OVERHEAD + 10_001);
    }

    #[test]
    fn after_a_gap_every_reader_starts_anew() {
        let mut ring = Ring::new(10, 1 << 20);
        push(&mut ring, "a");
        ring.gap();
        assert_eq!(at(&ring, 2), "reset >3");
        push(&mut ring, "b");
        assert_eq!(at(&ring, 3), "3b >4");
        assert_eq!(at(&ring, 1), "reset >4");
    }

    #[test]
    fn a_reader_far_behind_gets_it_in_pieces() {
        let mut ring = Ring::new(1_000, 1 << 20);
        for _ in 0..READ_MAX + 10 {
            push(&mut ring, "");
        }
        let Found::Entries(first, behind) = ring.read(1) else { panic!("inside the window") };
        assert_eq!((first.len(), behind), (READ_MAX, 1 + READ_MAX as u64));
        let Found::Entries(rest, _) = ring.read(behind) else { panic!("inside the window") };
        assert_eq!(rest.len(), 10);
    }
}

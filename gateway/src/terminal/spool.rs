//! What a shell tells on its way to who reads it: in order, bounded. Beyond the bound the oldest output goes, and how much
//! is told in its place; what is no output stays. So the newest, a prompt after Ctrl-C, is never lost.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// Output that waits at most, in bytes.
pub const SPOOL_MAX: usize = 512 << 10;
/// A reader that took nothing in so many looks, 250 ms, stalls. Looks and not a time: where the whole machine is busy, they
/// take longer too.
const STALL_LOOKS: u32 = 5;
const LOOK: Duration = Duration::from_millis(50);
/// After Ctrl-C, for so long, no more than this is kept: a prompt, and what stands before it.
const HURRY: Duration = Duration::from_millis(300);
const HURRY_MAX: usize = 16 << 10;
/// Items that are no output and wait at most. A shell has a handful.
const TOLD_MAX: usize = 256;
/// Output that becomes one item.
const PIECE: usize = 16 << 10;

/// What comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// The shell is open.
    Connected,
    /// It wrote.
    Output(String),
    /// So many bytes of output were left out here.
    Shed(u64),
    /// What went wrong.
    Error(String),
    /// The shell is gone, with its status where it told one.
    Closed(Option<u32>),
    /// It never opened. The error was told before.
    Failed,
    /// Whoever would tell is gone.
    Lost,
}

struct Inner {
    items: VecDeque<Item>,
    /// Of output.
    bytes: usize,
    shed: u64,
    /// Items of another writer are not taken.
    writer: u64,
    /// Looks since something was taken.
    idle_looks: u32,
    /// Counts what was taken.
    takes: u64,
    /// Something was typed, and nothing was taken since.
    expected: bool,
    /// Until then only the newest counts.
    hurries_until: Option<Instant>,
    reading: Option<Waker>,
    writing: Option<Waker>,
}

/// The way.
pub struct Spool {
    inner: Mutex<Inner>,
    max: usize,
    /// Below this a writer that waits may write: what it writes then still fits.
    room: usize,
}

impl Spool {
    /// Nothing waits; `max` bytes of output may.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let inner = Inner {
            items: VecDeque::new(),
            bytes: 0,
            shed: 0,
            writer: 0,
            idle_looks: 0,
            takes: 0,
            expected: false,
            hurries_until: None,
            reading: None,
            writing: None,
        };
        Arc::new(Self { inner: Mutex::new(inner), max, room: max / 2 })
    }

    /// The end for a new writer; what earlier ones still say is not heard.
    #[must_use]
    pub fn writer(self: &Arc<Self>) -> SpoolWriter {
        let mut inner = self.inner.lock();
        inner.writer += 1;
        SpoolWriter { spool: Arc::clone(self), number: inner.writer }
    }

    /// The next item; of output, what has come together, up to `most` bytes.
    pub fn poll_take(&self, most: usize, cx: &mut Context<'_>) -> Poll<Item> {
        let mut inner = self.inner.lock();
        match inner.take(most) {
            Some(item) => {
                inner.idle_looks = 0;
                inner.expected &= !matches!(item, Item::Output(_));
                inner.takes += 1;
                if let Some(waker) = inner.writing.take() {
                    waker.wake();
                }
                Poll::Ready(item)
            }
            None => {
                inner.reading = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Bytes of output that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.lock().bytes
    }

    /// The reader took something after all: it was further on the way than could be seen from here.
    pub fn progressed(&self) {
        self.inner.lock().idle_looks = 0;
    }

    /// Something was typed: what the shell writes next is shown at once.
    pub fn expect(&self) {
        self.inner.lock().expected = true;
    }

    /// Is its echo waited for? Then output must not wait for more to come together.
    #[must_use]
    pub fn expected(&self) -> bool {
        self.inner.lock().expected
    }

    /// For a moment only the newest output counts: somebody typed Ctrl-C, and what was on its way is of no use any more.
    pub fn hurry(&self) {
        let mut inner = self.inner.lock();
        inner.hurries_until = Some(Instant::now() + HURRY);
        inner.fit(HURRY_MAX);
        if let Some(waker) = inner.writing.take() {
            waker.wake();
        }
    }

    /// Forgets what waits, and does not hear its writer any more.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        inner.writer += 1;
        inner.items.clear();
        inner.bytes = 0;
        if let Some(waker) = inner.writing.take() {
            waker.wake();
        }
    }

    /// Is there something other than output at its head? It must not wait for more to come together.
    #[must_use]
    pub fn urgent(&self) -> bool {
        self.inner.lock().items.front().is_some_and(|item| !matches!(item, Item::Output(_)))
    }
}

impl Inner {
    fn take(&mut self, most: usize) -> Option<Item> {
        let mut first = match self.items.pop_front()? {
            Item::Output(text) => text,
            other => return Some(other),
        };
        while first.len() < most
            && let Some(Item::Output(next)) = self.items.front()
            && first.len() + next.len() <= most
        {
            first.push_str(next);
            self.items.pop_front();
        }
        if first.len() > most {
            let mut at = most;
            while !first.is_char_boundary(at) {
                at -= 1;
            }
            // A bound below the length of a character is no bound.
            if at > 0 {
                self.items.push_front(Item::Output(first.split_off(at)));
            }
        }
        self.bytes -= first.len();
        Some(Item::Output(first))
    }

    fn hurries(&self) -> bool {
        self.hurries_until.is_some_and(|until| Instant::now() < until)
    }

    fn push(&mut self, item: Item) {
        self.items.push_back(item);
        if let Some(waker) = self.reading.take() {
            waker.wake();
        }
    }

    /// Leaves out the oldest output until the rest fits.
    fn fit(&mut self, max: usize) {
        while self.bytes > max
            && let Some(at) = self.items.iter().position(|item| matches!(item, Item::Output(_)))
            && let Some(Item::Output(text)) = self.items.get(at)
        {
            let length = text.len();
            self.bytes -= length;
            self.shed += length as u64;
            if at > 0
                && let Some(Item::Shed(before)) = self.items.get_mut(at - 1)
            {
                *before += length as u64;
                self.items.remove(at);
            } else {
                self.items[at] = Item::Shed(length as u64);
            }
        }
    }
}

/// Writes into a spool, until another writer is made.
pub struct SpoolWriter {
    spool: Arc<Spool>,
    number: u64,
}

impl SpoolWriter {
    /// Adds output, whatever that makes of older output.
    pub fn output(&self, text: &str) {
        let mut inner = self.spool.inner.lock();
        if inner.writer != self.number || text.is_empty() {
            return;
        }
        inner.bytes += text.len();
        match inner.items.back_mut() {
            Some(Item::Output(last)) if last.len() + text.len() <= PIECE => last.push_str(text),
            _ => inner.push(Item::Output(text.to_owned())),
        }
        let most = if inner.hurries() { HURRY_MAX } else { self.spool.max };
        inner.fit(most);
    }

    /// Adds what is no output.
    pub fn tell(&self, item: Item) {
        let mut inner = self.spool.inner.lock();
        if inner.writer != self.number {
            return;
        }
        let told = |item: &&Item| !matches!(item, Item::Output(_) | Item::Shed(_));
        // Whoever tells so much means no good; how it ends is all that matters.
        if inner.items.iter().filter(told).count() >= TOLD_MAX {
            if matches!(item, Item::Connected | Item::Error(_)) {
                return;
            }
            inner.items.clear();
            inner.bytes = 0;
        }
        inner.push(item);
    }

    /// Waits until there is room, or until the reader stalls: then what comes next costs older output.
    pub async fn room(&self) {
        while !self.may_write() {
            let room = std::future::poll_fn(|cx| {
                let mut inner = self.spool.inner.lock();
                if inner.writer != self.number || inner.bytes < self.spool.room {
                    return Poll::Ready(());
                }
                inner.writing = Some(cx.waker().clone());
                Poll::Pending
            });
            if timeout(LOOK, room).await.is_err() {
                self.spool.inner.lock().idle_looks += 1;
            }
        }
    }

    fn may_write(&self) -> bool {
        let inner = self.spool.inner.lock();
        inner.writer != self.number
            || inner.bytes < self.spool.room
            || inner.idle_looks >= STALL_LOOKS
            || inner.hurries()
    }

    /// Bytes of output that wait, and how often something was taken.
    #[must_use]
    pub fn waiting(&self) -> (u64, u64) {
        let inner = self.spool.inner.lock();
        (if inner.writer == self.number { inner.bytes as u64 } else { 0 }, inner.takes)
    }

    /// Waits until something was taken more often than that.
    pub async fn taken(&self, takes: u64) {
        std::future::poll_fn(|cx| {
            let mut inner = self.spool.inner.lock();
            if inner.takes != takes {
                return Poll::Ready(());
            }
            inner.writing = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Bytes that were left out since the last call.
    pub fn shed(&self) -> u64 {
        std::mem::take(&mut self.spool.inner.lock().shed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(spool: &Spool, most: usize) -> Vec<Item> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut items = Vec::new();
        while let Poll::Ready(item) = spool.poll_take(most, &mut cx) {
            items.push(item);
        }
        items
    }

    fn text(text: &str) -> Item {
        Item::Output(text.to_owned())
    }

    #[test]
    fn what_came_together_goes_together_and_in_order() {
        let spool = Spool::new(100);
        let writer = spool.writer();
        writer.tell(Item::Connected);
        writer.output("ab");
        writer.output("cd");
        writer.tell(Item::Closed(Some(3)));
        assert!(spool.urgent());
        assert_eq!(all(&spool, 100), [Item::Connected, text("abcd"), Item::Closed(Some(3))]);
        writer.output("äöü");
        assert_eq!(all(&spool, 3), [text("ä"), text("ö"), text("ü")], "cut between characters");
        assert_eq!(spool.waiting(), 0);
    }

    #[test]
    fn the_oldest_output_goes_and_is_counted_and_the_rest_stays() {
        let spool = Spool::new(PIECE * 2);
        let writer = spool.writer();
        writer.tell(Item::Connected);
        for letter in ["a", "b", "c", "d", "e"] {
            writer.output(&letter.repeat(PIECE));
        }
        writer.output("$ ");
        writer.tell(Item::Error("x".into()));
        assert_eq!(spool.waiting(), PIECE + 2);
        let items = all(&spool, usize::MAX);
        let newest = "e".repeat(PIECE) + "$ ";
        let shed = 4 * PIECE as u64;
        assert_eq!(items, [Item::Connected, Item::Shed(shed), Item::Output(newest), Item::Error("x".into())]);
        assert_eq!((writer.shed(), writer.shed()), (shed, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn after_ctrl_c_only_the_newest_counts_for_a_moment() {
        let spool = Spool::new(PIECE * 8);
        let writer = spool.writer();
        for _ in 0..4 {
            writer.output(&"y".repeat(PIECE));
        }
        spool.hurry();
        writer.room().await;
        writer.output(&"y".repeat(PIECE));
        writer.output("^C$ ");
        let items = all(&spool, usize::MAX);
        assert_eq!(items, [Item::Shed(5 * PIECE as u64), text("^C$ ")]);
        tokio::time::sleep(HURRY).await;
        for _ in 0..4 {
            writer.output(&"z".repeat(PIECE));
        }
        assert_eq!(spool.waiting(), 4 * PIECE, "and then as before");
    }

    #[test]
    fn whoever_tells_without_end_takes_no_room() {
        let spool = Spool::new(100);
        let writer = spool.writer();
        for _ in 0..10_000 {
            writer.tell(Item::Connected);
            writer.output("x");
        }
        assert!(spool.inner.lock().items.len() <= 2 * TOLD_MAX + 1);
        writer.tell(Item::Lost);
        assert_eq!(all(&spool, 100), [Item::Lost]);
    }

    #[test]
    fn of_two_writers_the_newer_is_heard() {
        let spool = Spool::new(100);
        let old = spool.writer();
        old.output("old");
        let new = spool.writer();
        old.output("late");
        old.tell(Item::Closed(None));
        new.output("new");
        assert_eq!(all(&spool, 100), [text("oldnew")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_writer_waits_for_a_reader_that_reads_and_not_for_one_that_stalls() {
        let spool = Spool::new(PIECE);
        let writer = spool.writer();
        writer.room().await;
        writer.output(&"x".repeat(PIECE / 2));
        let (began, stall) = (Instant::now(), LOOK * STALL_LOOKS);
        writer.room().await;
        assert!(began.elapsed() >= stall && began.elapsed() < stall * 2, "{:?}", began.elapsed());
        // One that takes a little each 200 ms is waited for, as long as it takes.
        std::future::poll_fn(|cx| spool.poll_take(PIECE / 8, cx)).await;
        writer.output(&"y".repeat(PIECE / 8));
        let reading = async {
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(200)).await;
                std::future::poll_fn(|cx| spool.poll_take(PIECE / 8, cx)).await;
            }
        };
        let writing = async {
            for _ in 0..8 {
                writer.room().await;
                writer.output(&"y".repeat(PIECE / 8));
            }
        };
        tokio::join!(reading, writing);
        assert_eq!(writer.shed(), 0);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_without_being_counted(
            pieces in proptest::collection::vec("[a-zäöü🦀]{0,40}", 0..60),
            max in 8_usize..200,
            most in 4_usize..64,
        ) {
            let spool = Spool::new(max);
            let writer = spool.writer();
            let (mut cx, mut told) = (Context::from_waker(Waker::noop()), 0);
            for (n, piece) in pieces.iter().enumerate() {
                writer.output(piece);
                prop_assert!(spool.waiting() <= max.max(PIECE));
                if n % 3 == 0 && let Poll::Ready(item) = spool.poll_take(most, &mut cx) {
                    told += length(&item);
                }
            }
            told += all(&spool, most).iter().map(length).sum::<u64>();
            prop_assert_eq!(told, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
        }
    }

    fn length(item: &Item) -> u64 {
        match item {
            Item::Output(text) => text.len() as u64,
            Item::Shed(bytes) => *bytes,
            _ => 0,
        }
    }
}

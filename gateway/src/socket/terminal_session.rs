//! The session of one terminal's socket (protocol 2.3, 2.4), without IO.
//!
//! Behind every few KiB of output goes a ping, and no more than a window goes out before their pongs are there: so whatever
//! buffers lie between, what a browser has not read yet is little, and the answer to Ctrl-C is not behind megabytes of old
//! output. The window is what the way takes in a quarter of a second, at most 256 KiB.

use std::{collections::VecDeque, task::Context, task::Poll, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::PollSender;

use super::{
    reader::Incoming,
    session::{Effect, Now, Session},
};
use crate::terminal::{
    INTERRUPT,
    message::{Connect, FromBrowser, ToBrowser},
    pieces,
    shell::{Input, Stop, Typed},
    spool::Item,
};

/// Longest message of a browser, in all its fragments, in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;
/// Nothing heard for so long: nobody is there. Re-armed by any frame.
const READ_DEADLINE: Duration = Duration::from_secs(90);
/// Output whose pong has not come, in bytes: as much as goes and comes back in a quarter of a second, within these.
const WINDOW_MIN: u64 = 8 << 10;
const WINDOW_MAX: u64 = 256 << 10;
/// So many pings are in a window.
const PINGS: u64 = 8;
/// A pong that comes within the first of these says that more could be under way, one that takes longer than the second
/// that it is too much.
const SOON: Duration = Duration::from_millis(100);
const LATE: Duration = Duration::from_millis(250);
/// Typed, and not taken by the shell: beyond it the browser is not read any more, in bytes.
const PENDING_MAX: usize = 2 << 20;
/// Before a terminal is closed for its time, this much earlier the user is told.
const WARNING: Duration = Duration::from_secs(60);

/// Close code for a terminal that was ended by the server: the UI does not come back by itself (protocol 2.7).
pub const ENDED: u16 = 1008;

/// What comes to a terminal beside frames.
#[derive(Debug)]
pub enum Mail {
    /// From the shell.
    Item(Item),
    /// Whoever sits there may no longer, and why.
    Revoked(&'static str),
}

/// Opens shells.
pub trait Opener: Send {
    /// Opens one. What it tells comes as mail; what an earlier one still tells does not.
    fn open(&mut self, connect: Connect) -> Port;

    /// Somebody typed.
    fn typed(&mut self);

    /// Output was read by the browser for certain.
    fn progressed(&mut self);

    /// Ctrl-C: what waits to be shown is of no use any more.
    fn hurry(&mut self);

    /// The shell was left: what it still tells must not come.
    fn left(&mut self);
}

/// A shell.
pub struct Port {
    /// To it.
    pub input: PollSender<Typed>,
    /// Ends it.
    pub stop: Stop,
}

/// How long a terminal may be open.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Without anything typed or written.
    pub idle: Duration,
    /// In all.
    pub most: Duration,
}

/// The session.
pub struct TerminalSession<O> {
    opener: O,
    shell: Option<Port>,
    /// Read, and not yet taken by the shell.
    pending: VecDeque<Typed>,
    pings: u64,
    /// Output that was sent, and that was read for certain.
    sent: u64,
    read: u64,
    /// Pings behind output: their number, the output before them, and when they went.
    marks: VecDeque<(u64, u64, Instant)>,
    window: u64,
    /// Bytes in `pending`.
    pending_bytes: usize,
    /// The browser is not read: nor are its pongs.
    held: bool,
    last_heard: Instant,
    next_ping: Instant,
    gap: Duration,
    times: Times,
    active_at: Instant,
    ends_at: Instant,
    warned: bool,
    ignored: Option<&'static str>,
}

impl<O: Opener> TerminalSession<O> {
    /// A session without a shell. `gap`: between two pings, other than those behind output.
    pub fn new(opener: O, times: Times, now: Instant, gap: Duration) -> Self {
        Self {
            opener,
            shell: None,
            pending: VecDeque::new(),
            pings: 0,
            sent: 0,
            read: 0,
            marks: VecDeque::new(),
            window: WINDOW_MAX / 2,
            pending_bytes: 0,
            held: false,
            last_heard: now,
            next_ping: now + gap,
            gap,
            times,
            active_at: now,
            ends_at: now + times.most,
            warned: false,
            ignored: None,
        }
    }

    fn say(message: &ToBrowser<'_>, effects: &mut Vec<Effect>) {
        effects.push(Effect::Text { text: message.text(), marked: false });
    }

    fn ping(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.pings += 1;
        self.next_ping = now + self.gap;
        effects.push(Effect::Ping(self.pings));
        if self.sent > self.marked() {
            self.marks.push_back((self.pings, self.sent, now));
        }
    }

    fn data(&mut self, data: &str, now: Instant, effects: &mut Vec<Effect>) {
        Self::say(&ToBrowser::Data { data }, effects);
        self.sent += data.len() as u64;
        if self.sent - self.marked() >= self.window / PINGS {
            self.ping(now, effects);
        }
    }

    /// The output before the last ping.
    fn marked(&self) -> u64 {
        self.marks.back().map_or(self.read, |(_, sent, _)| *sent)
    }

    fn on_pong(&mut self, payload: &[u8], now: Instant, effects: &mut Vec<Effect>) {
        let Some(n) = <[u8; 8]>::try_from(payload).ok().map(u64::from_be_bytes).filter(|n| *n <= self.pings) else {
            return;
        };
        let mut went = None;
        while let Some((ping, sent, at)) = self.marks.front().copied()
            && ping <= n
        {
            self.read = sent;
            went = Some(at);
            self.marks.pop_front();
        }
        let Some(went) = went else { return };
        self.opener.progressed();
        let took = now - went;
        if took <= SOON {
            self.window = (self.window * 2).min(WINDOW_MAX);
        } else if took > LATE {
            self.window = (self.window / 2).max(WINDOW_MIN);
        }
        // What went after the last ping may be more than the window is now.
        if self.marks.is_empty() && self.sent - self.read >= self.window / PINGS {
            self.ping(now, effects);
        }
    }

    fn active(&mut self, now: Instant) {
        self.active_at = now;
        if self.warned && now + self.warning() < self.ends_at {
            self.warned = false;
        }
    }

    /// Leaves the shell, if there is one.
    fn leave(&mut self, why: &str) -> bool {
        self.forget_pending();
        let Some(port) = self.shell.take() else { return false };
        port.stop.because(why);
        self.opener.left();
        true
    }

    /// Ends the terminal, and says why.
    fn end(&mut self, why: &'static str, effects: &mut Vec<Effect>) {
        Self::say(&ToBrowser::Error { message: why }, effects);
        if self.leave(why) {
            Self::say(&ToBrowser::Closed { exit_status: None }, effects);
        }
    }

    fn on_text(&mut self, text: &str, now: Instant, effects: &mut Vec<Effect>) {
        let message = match FromBrowser::parse(text) {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.ignored = Some("unknown_type");
                return;
            }
            Err(why) => {
                self.ignored = Some("malformed");
                return Self::say(&ToBrowser::Error { message: &why }, effects);
            }
        };
        self.active(now);
        self.opener.typed();
        match message {
            FromBrowser::Connect(_) if self.shell.is_some() => {
                Self::say(&ToBrowser::Error { message: "Already connected" }, effects);
            }
            FromBrowser::Connect(connect) => self.shell = Some(self.opener.open(*connect)),
            FromBrowser::Input(data) => {
                if self.shell.is_some() {
                    if data == INTERRUPT {
                        self.opener.hurry();
                    }
                    let typed = |piece: &str| Typed { at: now, input: Input::Keys(piece.to_owned()) };
                    self.pending.extend(pieces::of(&data).map(typed));
                    self.pending_bytes += data.len();
                } else {
                    self.ignored = Some("no_shell");
                }
            }
            FromBrowser::Resize(size) => {
                if self.shell.is_some() {
                    self.pending.push_back(Typed { at: now, input: Input::Resize(size) });
                }
            }
            FromBrowser::Disconnect => {
                if self.leave("the user ended it") {
                    Self::say(&ToBrowser::Closed { exit_status: None }, effects);
                }
            }
        }
    }

    fn on_item(&mut self, item: &Item, now: Instant, effects: &mut Vec<Effect>) {
        match item {
            Item::Connected => Self::say(&ToBrowser::Connected, effects),
            Item::Output(text) => {
                self.active(now);
                self.data(text, now, effects);
            }
            // CAN ends a control sequence that was cut off.
            Item::Shed(bytes) => {
                let marker = format!("\u{18}\r\n\u{1b}[0;7m[patchbay: {bytes} bytes of output left out]\u{1b}[0m\r\n");
                self.data(&marker, now, effects);
            }
            Item::Error(message) => Self::say(&ToBrowser::Error { message }, effects),
            Item::Closed(exit_status) => {
                self.gone();
                Self::say(&ToBrowser::Closed { exit_status: *exit_status }, effects);
            }
            Item::Failed | Item::Lost => self.gone(),
        }
    }

    fn gone(&mut self) {
        self.shell = None;
        self.forget_pending();
    }

    fn forget_pending(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.held = false;
    }

    /// How much earlier the user is warned.
    fn warning(&self) -> Duration {
        WARNING.min(self.times.idle / 4)
    }

    /// When the terminal ends for its time, whichever comes first, and what is said then.
    fn limit(&self) -> (Instant, &'static str, &'static str) {
        let idle_at = self.active_at + self.times.idle;
        if idle_at <= self.ends_at {
            (idle_at, "The terminal was idle for too long", "closes soon, unless something is typed or written")
        } else {
            (self.ends_at, "The terminal was open for as long as it may", "has been open for long, and closes soon")
        }
    }
}

impl<O: Opener> Session for TerminalSession<O> {
    type Mail = Mail;

    fn limit(&self) -> usize {
        MESSAGE_MAX
    }

    fn ready(&self) -> bool {
        // Where the browser is not read its pongs are not either; a shell that waits for its output to be taken, as one
        // that echoes does, would never take the rest of its input.
        self.held || self.sent - self.read < self.window
    }

    /// Far more than the shell takes holds up what the browser sends, so that nothing of it is lost.
    fn poll_reads(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(port) = &mut self.shell
            && !self.pending.is_empty()
        {
            match port.input.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {
                    if let Some(typed) = self.pending.pop_front() {
                        if let Input::Keys(keys) = &typed.input {
                            self.pending_bytes -= keys.len();
                        }
                        let _ = port.input.send_item(typed);
                    }
                }
                // It has ended, and says so.
                Poll::Ready(Err(_)) => self.forget_pending(),
                Poll::Pending => break,
            }
        }
        self.held = self.pending_bytes > PENDING_MAX || self.pending.len() > PENDING_MAX / 64;
        if self.held { Poll::Pending } else { Poll::Ready(()) }
    }

    fn on_frame(&mut self, incoming: Incoming, now: Now, effects: &mut Vec<Effect>) {
        self.last_heard = now.instant;
        match incoming {
            Incoming::Text(text) => self.on_text(&text, now.instant, effects),
            Incoming::Binary(_) => self.ignored = Some("binary"),
            Incoming::Fragment => {}
            Incoming::Ping(payload) => effects.push(Effect::Pong(payload)),
            Incoming::Pong(payload) => self.on_pong(&payload, now.instant, effects),
            Incoming::Close(code) => effects.push(Effect::Close { code: code.unwrap_or(1000), reason: "" }),
        }
    }

    fn on_message(&mut self, message: &Mail, now: Now, effects: &mut Vec<Effect>) {
        match message {
            Mail::Item(item) => self.on_item(item, now.instant, effects),
            Mail::Revoked(why) => {
                self.end(why, effects);
                effects.push(Effect::Close { code: ENDED, reason: "the terminal may no longer be used" });
            }
        }
    }

    fn on_tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let now = now.instant;
        let (ends_at, why, warning) = Self::limit(self);
        if now - self.last_heard >= READ_DEADLINE {
            let why = if self.held { "The shell took no input for 90 s" } else { "The browser was not heard for 90 s" };
            self.end(why, effects);
            effects.push(Effect::Close { code: 1001, reason: "nothing heard for 90 s" });
        } else if ends_at <= now {
            self.end(why, effects);
            effects.push(Effect::Close { code: 1000, reason: "the time is over" });
        } else if !self.warned && ends_at - self.warning() <= now && self.shell.is_some() {
            self.warned = true;
            self.data(&format!("\r\n\u{1b}[7m[patchbay: this terminal {warning}]\u{1b}[0m\r\n"), now, effects);
        } else if self.next_ping <= now {
            self.ping(now, effects);
        }
    }

    fn next_tick(&self) -> Instant {
        let (ends_at, ..) = Self::limit(self);
        let warns_at = if self.warned || self.shell.is_none() { ends_at } else { ends_at - self.warning() };
        self.next_ping.min(self.last_heard + READ_DEADLINE).min(warns_at)
    }

    fn on_leave(&mut self, effects: &mut Vec<Effect>) {
        self.end("The server goes away, please connect again", effects);
        effects.push(Effect::Close { code: 1001, reason: "the server goes away" });
    }

    fn on_leftover(&mut self, _: &Mail, _: &mut Vec<Effect>) {}

    fn on_end(&mut self, _: &mut Vec<Effect>) {
        self.leave("the browser went away");
    }

    fn take_ignored(&mut self) -> Option<&'static str> {
        self.ignored.take()
    }
}

#[cfg(test)]
#[path = "terminal_session_tests.rs"]
mod tests;

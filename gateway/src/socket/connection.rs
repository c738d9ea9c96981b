//! The loop of one connection: it alone touches the socket. One task, one timer, one bounded buffer of what is to be
//! written; reading, writing and the mailbox are arms of one `select!`, so a peer that does not read deafens nobody.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use fastwebsockets::{Frame, OpCode, Payload};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    reader::{Incoming, ReadError, Reader},
    session::{Effect, Mailbox, Now, Session},
};
use crate::{App, terminal::line};

/// While more waits to be written, what can wait does: whatever is more urgent is never behind more than this.
const OUT_SOON: usize = 32 << 10;
/// Most bytes that wait to be written. A peer that lets so much pile up is closed.
const OUT_MAX: usize = 1 << 20;
/// How long what is to be written may take until the peer has taken all of it.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a peer may take to answer our close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The close code, ours or the peer's; 1006 when there was none.
    pub code: u16,
    /// Why, for the log.
    pub reason: &'static str,
}

const DROPPED: Ended = Ended { code: 1006, reason: "the connection ended without a close frame" };

/// What is to be written.
#[derive(Default)]
struct Out {
    bytes: Vec<u8>,
    written: usize,
    /// What waited when this was set must be taken by then.
    deadline: Option<Instant>,
    /// Of which so much is left.
    due: u32,
    /// TLS streams keep bytes until they are flushed.
    unflushed: bool,
    /// A command's frame is in it.
    marked: bool,
    /// The peer was served last, so the rest is looked at first: neither a flood of frames nor one of mail shuts others out.
    io_last: bool,
}

impl Out {
    fn push(&mut self, opcode: OpCode, payload: &[u8], now: Instant) {
        let first = self.bytes.is_empty();
        if self.written >= OUT_SOON {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        let mut head = [0; 16];
        let size = Frame::new(true, opcode, None, Payload::Borrowed(payload)).fmt_head(&mut head);
        self.bytes.reserve_exact(size + payload.len());
        self.bytes.extend_from_slice(&head[..size]);
        self.bytes.extend_from_slice(payload);
        if first {
            self.set_deadline(now);
        }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn set_deadline(&mut self, now: Instant) {
        self.deadline = Some(now + WRITE_DEADLINE);
        self.due = u32::try_from(self.waiting()).unwrap_or(u32::MAX);
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.unflushed
    }

    fn poll<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while self.written < self.bytes.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.due = self.due.saturating_sub(u32::try_from(n).unwrap_or(u32::MAX));
                    // A peer that takes all that it was given in time may be given more meanwhile.
                    if self.due == 0 && self.waiting() > 0 {
                        self.set_deadline(Instant::now());
                    }
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Nothing is kept while idle.
        self.bytes = Vec::new();
        self.written = 0;
        if self.unflushed {
            match Pin::new(&mut *stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                other => return other,
            }
        }
        self.deadline = None;
        if std::mem::take(&mut self.marked) {
            store::failpoint::hit("frame_written");
        }
        Poll::Ready(Ok(()))
    }
}

/// What may still come of the peer at the end: anything and its close frame at last, nothing, nothing that makes sense.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Talks,
    Closed,
    Broke,
}

/// What a turn of the loop is about, in the order in which it is looked for.
enum Event<M> {
    /// The gateway drains.
    Leave,
    Io(Io),
    /// Something came from the bus.
    Mail(M),
    /// A task of the session's own had something for the peer.
    Own,
    /// The session's time has come, or that of what is to be written.
    Tick,
}

enum Io {
    Incoming(Incoming),
    Broken(ReadError),
    /// All that was to be written is.
    Drained,
}

/// Runs a session on a stream until either ends it.
pub async fn run<S, T, M>(
    app: &App,
    stream: &mut S,
    session: &mut T,
    mailbox: &mut M,
    effects: &mut Vec<Effect>,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Session<Mail = M::Mail>,
    M: Mailbox,
{
    let mut reader = Reader::new(session.limit());
    let mut out = Out::default();
    let mut timer = pin!(sleep_until(session.next_tick()));
    let mut leaving = pin!(leave(app));
    let (mut closing, mut peer) = (None, Peer::Talks);
    loop {
        let now = Now { instant: Instant::now(), wall_ms: app.store.clock().now_ms() };
        if let Some(ended) = perform(app, &mut out, effects, now.instant) {
            closing = Some(ended);
        }
        if closing.is_some() || out.waiting() > OUT_MAX {
            break;
        }
        if let Some(reason) = session.take_ignored() {
            app.metrics.frame_ignored(reason);
        }
        arm(timer.as_mut(), session.next_tick(), out.deadline);
        // By hand: a `select!` would keep room for a future of each arm.
        let event = poll_fn(|cx| {
            if leaving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            let little = out.waiting() < OUT_SOON;
            // A peer that always has something to read holds up neither the bus, nor keys for its shells, nor the time.
            for io in [!out.io_last, out.io_last] {
                if io {
                    let reads = session.poll_reads(cx).is_ready();
                    if let Poll::Ready(io) = poll_io(stream, &mut reader, &mut out, reads, cx) {
                        return Poll::Ready(Event::Io(io));
                    }
                    continue;
                }
                // A closed bus says nothing more; the sockets stay.
                if let Poll::Ready(Some(message)) = mailbox.poll_next(little && session.ready(), cx) {
                    return Poll::Ready(Event::Mail(message));
                }
                if little && session.poll_own(effects, cx).is_ready() {
                    return Poll::Ready(Event::Own);
                }
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Tick);
                }
            }
            Poll::Pending
        });
        let event = event.await;
        out.io_last = matches!(event, Event::Io(_));
        match event {
            Event::Leave => session.on_leave(effects),
            Event::Own => {}
            Event::Io(Io::Incoming(incoming)) => {
                if matches!(incoming, Incoming::Close(_)) {
                    peer = Peer::Closed;
                }
                app.metrics.frame_in(name(&incoming));
                app.metrics.bytes("in", size(&incoming));
                session.on_frame(incoming, seen(app), effects);
            }
            Event::Io(Io::Broken(error)) => match broken(&error) {
                Some(close) => {
                    peer = Peer::Broke;
                    effects.push(close);
                }
                None => break,
            },
            Event::Io(Io::Drained) => {}
            Event::Mail(message) => session.on_message(&message, seen(app), effects),
            Event::Tick => {
                let now = seen(app);
                if out.deadline.is_some_and(|at| at <= now.instant) {
                    closing = Some(Ended { code: 1006, reason: "the peer does not read" });
                    out = Out::default();
                    break;
                }
                session.on_tick(now, effects);
            }
        }
    }
    effects.clear();
    while let Some(message) = mailbox.try_next() {
        session.on_leftover(&message, effects);
    }
    session.on_end(effects);
    // What is known goes out before the socket does.
    perform(app, &mut Out::default(), effects, Instant::now());
    let ended = closing.unwrap_or(DROPPED);
    if closing.is_some() && !out.is_empty() {
        // Boxed: no room for it in a connection that lives.
        let goodbye = Box::pin(say_goodbye(stream, &mut reader, &mut out, peer));
        let _ = Box::pin(tokio::time::timeout(CLOSE_WAIT, goodbye)).await;
    }
    ended
}

fn seen(app: &App) -> Now {
    Now { instant: Instant::now(), wall_ms: app.store.clock().now_ms() }
}

fn arm(mut timer: Pin<&mut Sleep>, tick: Instant, write: Option<Instant>) {
    let at = write.map_or(tick, |write| write.min(tick));
    if timer.deadline() != at || timer.is_elapsed() {
        timer.as_mut().reset(at);
    }
}

/// When this connection must go. The gateway always drains before it ends, so one waiter a connection is enough.
async fn leave(app: &App) {
    app.draining.cancelled().await;
    // Boxed: no room for it in ten thousand connections that do not drain.
    Box::pin(place_in_drain(app)).await;
}

/// At a place of its own within the drain's time, and at once when the process ends.
async fn place_in_drain(app: &App) {
    let share = f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
    tokio::select! {
        () = app.stopping.cancelled() => {}
        () = tokio::time::sleep(app.settings.drain.mul_f64(share)) => {}
    }
}

/// Does what the session asked for; answers how it ended, if it did.
fn perform(app: &App, out: &mut Out, effects: &mut Vec<Effect>, now: Instant) -> Option<Ended> {
    let mut ended = None;
    for effect in effects.drain(..) {
        if ended.is_some() {
            break;
        }
        match effect {
            Effect::Text { text, marked } => {
                app.metrics.frame_out("text");
                app.metrics.bytes("out", text.len());
                out.push(OpCode::Text, text.as_bytes(), now);
                out.marked |= marked;
            }
            Effect::Ping(n) => out.push(OpCode::Ping, &n.to_be_bytes(), now),
            Effect::Pong(payload) => out.push(OpCode::Pong, &payload, now),
            Effect::Publish { subject, body, outcome } => {
                if let Some(outcome) = outcome {
                    app.metrics.command_reply(outcome);
                }
                app.outbox.send(subject, body);
            }
            Effect::Record(fact) => {
                if !app.facts.record(fact) {
                    app.metrics.facts_dropped(1);
                }
            }
            Effect::Line(start) => {
                app.sockets.spawn(line::run(app.clone(), *start));
            }
            Effect::Close { code, reason } => {
                let mut payload = code.to_be_bytes().to_vec();
                payload.extend_from_slice(reason.as_bytes());
                out.push(OpCode::Close, &payload, now);
                ended = Some(Ended { code, reason });
            }
        }
    }
    if effects.is_empty() {
        *effects = Vec::new();
    }
    ended
}

fn poll_io<S>(stream: &mut S, reader: &mut Reader, out: &mut Out, reads: bool, cx: &mut Context<'_>) -> Poll<Io>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if !out.is_empty() {
        match out.poll(stream, cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(Io::Drained),
            Poll::Ready(Err(error)) => return Poll::Ready(Io::Broken(error.into())),
            Poll::Pending => {}
        }
    }
    if !reads {
        return Poll::Pending;
    }
    reader.poll_next(stream, cx).map(|read| match read {
        Ok(incoming) => Io::Incoming(incoming),
        Err(error) => Io::Broken(error),
    })
}

/// Writes the close frame out, hears the peer's unless it has come, and ends our side.
async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    reader: &mut Reader,
    out: &mut Out,
    mut peer: Peer,
) {
    if poll_fn(|cx| out.poll(stream, cx)).await.is_err() {
        return;
    }
    while peer == Peer::Talks {
        match poll_fn(|cx| reader.poll_next(stream, cx)).await {
            Ok(Incoming::Close(_)) | Err(ReadError::Eof | ReadError::Io(_)) => peer = Peer::Closed,
            Err(ReadError::Protocol { .. }) => peer = Peer::Broke,
            Ok(_) => {}
        }
    }
    let _ = poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx)).await;
    if peer == Peer::Broke {
        poll_fn(|cx| Reader::poll_discard(stream, cx)).await;
    }
}

fn broken(error: &ReadError) -> Option<Effect> {
    match *error {
        ReadError::Protocol { code, why } => Some(Effect::Close { code, reason: why }),
        ReadError::Eof | ReadError::Io(_) => None,
    }
}

fn size(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Text(text) => text.len(),
        Incoming::Binary(bytes) => *bytes,
        Incoming::Fragment | Incoming::Ping(_) | Incoming::Pong(_) | Incoming::Close(_) => 0,
    }
}

fn name(incoming: &Incoming) -> &'static str {
    match incoming {
        Incoming::Text(_) => "text",
        Incoming::Binary(_) => "binary",
        Incoming::Fragment => "fragment",
        Incoming::Ping(_) => "ping",
        Incoming::Pong(_) => "pong",
        Incoming::Close(_) => "close",
    }
}

//! What a session is to the connection loop: events in, effects out, no IO.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bus::{Message, Subscription};
use bytes::Bytes;
use tokio::time::Instant;

use super::reader::Incoming;
use crate::{facts::Fact, terminal::line};

/// What the connection loop must do.
#[derive(Debug)]
pub enum Effect {
    /// Write a text frame; `marked`: it is a command, a test may stop the process once it is written.
    Text {
        /// One JSON object.
        text: String,
        /// A command's frame.
        marked: bool,
    },
    /// Write a ping.
    Ping(u64),
    /// Write a pong.
    Pong(Vec<u8>),
    /// Publish on the bus: an answer, or a claim.
    Publish {
        /// Where to.
        subject: Arc<str>,
        /// JSON.
        body: Bytes,
        /// What it answers to a request to deliver, for metrics.
        outcome: Option<&'static str>,
    },
    /// Tell the store.
    Record(Fact),
    /// Start a task that carries a shell of this agent.
    Line(Box<line::Start>),
    /// Close with this code; nothing more is read or written.
    Close {
        /// RFC 6455 section 7.4.
        code: u16,
        /// For the peer and the log.
        reason: &'static str,
    },
}

/// The times an event is seen at.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For deadlines.
    pub instant: Instant,
    /// The store's clock, milliseconds since the Unix epoch: for what others wrote.
    pub wall_ms: i64,
}

/// Where the messages of a session come from.
pub trait Mailbox: Send {
    /// What comes.
    type Mail: Send;

    /// The next one; `None` when none will come any more. `ready`: the session takes what can wait. It is asked again
    /// after each event of the connection.
    fn poll_next(&mut self, ready: bool, cx: &mut Context<'_>) -> Poll<Option<Self::Mail>>;

    /// One that has come already.
    fn try_next(&mut self) -> Option<Self::Mail>;
}

impl Mailbox for Subscription {
    type Mail = Message;

    fn poll_next(&mut self, _ready: bool, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        Self::poll_next(self, cx)
    }

    fn try_next(&mut self) -> Option<Message> {
        Self::try_next(self)
    }
}

/// A session without IO.
pub trait Session: Send {
    /// What comes to it beside frames.
    type Mail: Send;

    /// Longest message from the peer, in bytes.
    fn limit(&self) -> usize;

    /// Something came from the peer.
    fn on_frame(&mut self, incoming: Incoming, now: Now, effects: &mut Vec<Effect>);

    /// Does it take mail that can wait?
    fn ready(&self) -> bool {
        true
    }

    /// Ready when the peer may be read. What it sends waits with the peer until then.
    fn poll_reads(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// What the session's own tasks have for the peer. Asked only while little waits to be written.
    fn poll_own(&mut self, _effects: &mut Vec<Effect>, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// The gateway drains.
    fn on_leave(&mut self, effects: &mut Vec<Effect>) {
        effects.push(Effect::Close { code: 1001, reason: "the server goes away" });
    }

    /// Something came from the mailbox.
    fn on_message(&mut self, message: &Self::Mail, now: Now, effects: &mut Vec<Effect>);

    /// Its time has come.
    fn on_tick(&mut self, now: Now, effects: &mut Vec<Effect>);

    /// When that is next.
    fn next_tick(&self) -> Instant;

    /// Something came from the mailbox that the connection will not serve any more: it ended before.
    fn on_leftover(&mut self, message: &Self::Mail, effects: &mut Vec<Effect>);

    /// The connection ended.
    fn on_end(&mut self, effects: &mut Vec<Effect>);

    /// For metrics: frames that were ignored, by reason, since the last call.
    fn take_ignored(&mut self) -> Option<&'static str>;
}

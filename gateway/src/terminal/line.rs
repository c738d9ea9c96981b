//! The agent's side of a proxied terminal: one task beside the connection that holds the agent. It takes input off the bus
//! and hands it to the socket, and puts what the shell writes on the bus, so that neither a slow bus nor a slow browser
//! ever holds the socket up.
//!
//! Input has numbers, is taken in order and acknowledged, and is never left out: what finds no room is not acknowledged,
//! and comes again. Output is left out where it must be, and counted: the browser's side sees by the offsets how much.

use std::{collections::VecDeque, future::poll_fn, sync::Arc, time::Duration};

use bus::{Message, Subscribe, Subscription, trace};
use schemas::{
    TraceContext,
    agent::{TerminalFrame, session_id},
    message::{TerminalIn, TerminalInput, TerminalLogin, TerminalOpen, TerminalOut, TerminalReply, TerminalState},
    subject,
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{
    pieces,
    spool::{Item, Spool},
};
use crate::App;

/// Output on its way to the browser that was not acknowledged yet, in bytes: the spool there always has room for it.
pub const WINDOW: u64 = super::spool::SPOOL_MAX as u64 / 2;
/// Messages of the browser's side that wait unread: more than it sends without an acknowledgement.
const INCOMING: usize = 256;
/// Input that waits for the shell to open, or for the socket, in bytes.
const HELD_MAX: usize = 256 << 10;
/// Longest frame that opens a shell, in bytes: agents read 64 KiB.
const FRAME_MAX: usize = 60 << 10;
/// Output in one message.
const PIECE: usize = 16 << 10;
/// Output that comes within so long of the last goes together.
const GATHER: Duration = Duration::from_millis(2);
/// The browser's side asks every 400 ms; unheard for so long, it is gone.
const QUIET: Duration = Duration::from_secs(3);
/// How long an agent may take to close a shell.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// And to open one that is no longer wanted, so that it can be closed: agents dial for 20 s.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// How long the bus may take.
const BUS_WAIT: Duration = Duration::from_secs(2);

/// From a line to the connection that holds the agent.
#[derive(Debug)]
pub enum Order {
    /// Write this frame.
    Frame(String),
    /// The line has ended.
    Gone(Uuid),
}

/// What a connection starts a line with.
pub struct Start {
    /// What was asked.
    pub open: TerminalOpen,
    /// Who waits for the answer.
    pub reply: Arc<str>,
    /// The story it belongs to.
    pub trace: Option<TraceContext>,
    /// Epoch of the connection.
    pub epoch: i64,
    /// To the connection.
    pub orders: mpsc::Sender<Order>,
    /// What the agent says.
    pub spool: Arc<Spool>,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Start").field("session", &self.open.session).finish_non_exhaustive()
    }
}

/// Runs a line until its shell is gone.
pub async fn run(app: App, start: Start) {
    let (orders, session) = (start.orders.clone(), start.open.session);
    let span = tracing::info_span!(
        target: trace::TARGET,
        parent: None,
        "open shell",
        otel.kind = "server",
        messaging.operation.type = "receive",
        patchbay.terminal.id = %session,
    );
    if let Some(parent) = &start.trace {
        trace::set_parent(&span, parent);
    }
    match enter(&app, start).instrument(span).await {
        Ok(mut line) => line.run().await,
        Err((reply, reason)) => {
            answer(&app, reply, &TerminalReply::Refused { reason: reason.to_owned() });
        }
    }
    // Waits for a connection that writes, and not for one that is gone.
    let _ = orders.send(Order::Gone(session)).await;
}

fn answer<T: Serialize>(app: &App, to: Arc<str>, value: &T) {
    app.outbox.send(to, serde_json::to_vec(value).unwrap_or_default().into());
}

async fn enter(app: &App, start: Start) -> Result<Line, (Arc<str>, &'static str)> {
    let Start { open, reply, epoch, orders, spool, .. } = start;
    let session = open.session;
    let Ok(login) = app.terminals.seal.open::<TerminalLogin>(session, &open.sealed) else {
        tracing::error!(%session, "credentials cannot be opened: do all gateways have one PATCHBAY_SECRET?");
        return Err((reply, "The gateways do not share one secret"));
    };
    let id = session_id(session);
    let frame = TerminalFrame::SshProxy {
        session_id: &id,
        host: &login.host,
        port: login.port,
        username: &login.username,
        terminal: &login.terminal,
        cols: login.cols,
        rows: login.rows,
        password: login.password.as_deref(),
        private_key: login.private_key.as_deref(),
        passphrase: login.passphrase.as_deref(),
    }
    .encode();
    if frame.len() > FRAME_MAX {
        return Err((reply, "The private key is too large for an agent"));
    }
    let subject_in = subject::terminal_in(session);
    let Ok(Ok(incoming)) = timeout(BUS_WAIT, app.bus.subscribe(&subject_in, Subscribe::all(INCOMING))).await else {
        return Err((reply, "The message bus is away"));
    };
    if orders.send(Order::Frame(frame)).await.is_err() {
        return Err((reply, "Agent WebSocket connection lost"));
    }
    answer(app, reply, &TerminalReply::Accepted { epoch });
    let now = Instant::now();
    Ok(Line {
        app: app.clone(),
        session,
        id,
        subject_out: subject::terminal_out(session),
        incoming,
        orders,
        spool,
        got: 0,
        held: VecDeque::new(),
        held_bytes: 0,
        connected: false,
        sent: 0,
        left_out: 0,
        taken: 0,
        heard: now,
        last_sent: now - GATHER,
    })
}

struct Line {
    app: App,
    session: Uuid,
    /// On the wire.
    id: String,
    subject_out: String,
    incoming: Subscription,
    orders: mpsc::Sender<Order>,
    spool: Arc<Spool>,
    /// Number of the last input that came.
    got: u64,
    held: VecDeque<TerminalInput>,
    held_bytes: usize,
    connected: bool,
    /// Bytes of output that were sent, and that were left out before them.
    sent: u64,
    /// Left out since. It takes no room on the way: nobody could acknowledge it before what follows.
    left_out: u64,
    /// Of which so many have left for the browser.
    taken: u64,
    heard: Instant,
    last_sent: Instant,
}

/// Why a line ends.
enum End {
    /// The agent has no such shell any more.
    Gone,
    /// The browser's side went, or was not heard.
    Left,
    /// The socket is gone. The agent may hold the shell still.
    Lost,
}

impl Line {
    async fn run(&mut self) {
        let end = self.carry().await;
        let gone = match end {
            End::Gone => true,
            End::Left => self.close_shell().await,
            End::Lost => {
                let lost = "Agent WebSocket connection lost".to_owned();
                self.publish(&TerminalOut::Error { at: self.at(), message: lost }).await;
                false
            }
        };
        if gone && let Err(error) = self.app.store.terminals_left_agent(&[self.session]).await {
            // It is closed once more when the agent comes back, which does no harm.
            tracing::warn!(%error, session = %self.session, "that a shell is gone is not stored");
        }
    }

    async fn carry(&mut self) -> End {
        let orders = self.orders.clone();
        loop {
            let due = self.last_sent + GATHER;
            // What is no output needs no room.
            let may_send = self.sent - self.taken < WINDOW || self.spool.urgent();
            let hurries = self.spool.expected() || self.spool.urgent();
            let gathers = due > Instant::now() && self.spool.waiting() < PIECE && !hurries;
            let may_write = self.connected && !self.held.is_empty();
            tokio::select! {
                message = self.incoming.next() => match message {
                    Some(message) => if self.on_message(&message) { return End::Left },
                    None => return End::Left,
                },
                item = poll_fn(|cx| self.spool.poll_take(PIECE, cx)), if may_send && !gathers => {
                    if let Some(end) = self.on_item(item).await {
                        return end;
                    }
                }
                () = sleep_until(due), if may_send && gathers => {}
                permit = orders.reserve(), if may_write => match permit {
                    Ok(permit) => if let Some(input) = self.held.pop_front() {
                        self.held_bytes -= size(&input);
                        permit.send(Order::Frame(encode(&self.id, &input)));
                    },
                    Err(_) => return End::Lost,
                },
                () = sleep_until(self.heard + QUIET) => {
                    tracing::info!(session = %self.session, "the browser's side of a terminal is not heard any more");
                    return End::Left;
                }
            }
        }
    }

    /// True when the browser's side is done.
    fn on_message(&mut self, message: &Message) -> bool {
        let Ok(told) = message.parse::<TerminalIn>() else { return false };
        self.heard = Instant::now();
        self.taken = self.taken.max(told.taken.min(self.sent));
        if let Some((number, input)) = told.input
            && number == self.got + 1
            && self.held_bytes + size(&input) <= HELD_MAX
        {
            self.got = number;
            self.spool.expect();
            if matches!(&input, TerminalInput::Keys(keys) if keys == super::INTERRUPT) {
                self.spool.hurry();
            }
            self.held_bytes += size(&input);
            self.held.push_back(input);
        }
        if let Some(to) = &message.reply {
            answer(
                &self.app,
                Arc::clone(to),
                &TerminalState { got: self.got, connected: self.connected, sent: self.sent },
            );
        }
        told.leave
    }

    /// Where what comes next stands in all that the shell wrote.
    fn at(&self) -> u64 {
        self.sent + self.left_out
    }

    async fn on_item(&mut self, item: Item) -> Option<End> {
        match item {
            Item::Connected => {
                self.connected = true;
                self.publish(&TerminalOut::Connected).await;
            }
            Item::Output(data) => {
                let (at, length) = (self.at(), data.len() as u64);
                if self.publish(&TerminalOut::Data { at, data }).await {
                    (self.sent, self.left_out) = (at + length, 0);
                } else {
                    self.left_out += length;
                }
                self.last_sent = Instant::now();
            }
            Item::Shed(bytes) => self.left_out += bytes,
            Item::Error(message) => {
                self.publish(&TerminalOut::Error { at: self.at(), message }).await;
                return Some(End::Gone);
            }
            Item::Closed(_) => {
                self.publish(&TerminalOut::Closed { at: self.at() }).await;
                return Some(End::Gone);
            }
            Item::Failed | Item::Lost => return Some(End::Lost),
        }
        None
    }

    /// Has the agent close the shell. True when it has none.
    async fn close_shell(&mut self) -> bool {
        let mut until = Instant::now() + if self.connected { CLOSE_WAIT } else { OPEN_WAIT };
        loop {
            // Agents know a shell only once it is open; one that opens later is closed then.
            let close = TerminalFrame::SshProxyDisconnect { session_id: &self.id }.encode();
            if timeout(CLOSE_WAIT, self.orders.send(Order::Frame(close))).await.is_err() {
                return false;
            }
            loop {
                let told = tokio::select! {
                    item = poll_fn(|cx| self.spool.poll_take(PIECE, cx)) => item,
                    // Whoever still asks hears that it is over.
                    () = sleep_until(until) => return false,
                };
                match told {
                    Item::Connected => {
                        until = Instant::now() + CLOSE_WAIT;
                        break;
                    }
                    Item::Error(_) | Item::Closed(_) => return true,
                    Item::Failed | Item::Lost => return false,
                    Item::Output(_) | Item::Shed(_) => {}
                }
            }
        }
    }

    /// False when the bus did not take it: the browser's side sees the gap, or asks in vain.
    async fn publish(&self, out: &TerminalOut) -> bool {
        let Ok(body) = serde_json::to_vec(out) else { return false };
        let sent = timeout(BUS_WAIT, self.app.bus.publish(&self.subject_out, body.into(), None)).await;
        let taken = matches!(sent, Ok(Ok(())));
        if !taken {
            tracing::debug!(session = %self.session, "output of a terminal is not published");
        }
        taken
    }
}

fn size(input: &TerminalInput) -> usize {
    match input {
        TerminalInput::Keys(keys) => keys.len(),
        TerminalInput::Resize { .. } => 16,
    }
}

fn encode(id: &str, input: &TerminalInput) -> String {
    match input {
        TerminalInput::Keys(data) => {
            debug_assert!(data.len() <= pieces::MAX);
            TerminalFrame::SshProxyInput { session_id: id, data }.encode()
        }
        TerminalInput::Resize { cols, rows } => {
            TerminalFrame::SshProxyResize { session_id: id, cols: *cols, rows: *rows }.encode()
        }
    }
}

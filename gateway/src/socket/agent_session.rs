//! The session of one agent's socket (protocol 1.2 to 1.4), without IO.
//!
//! Ping payloads are a counter of the connection: a pong for n proves that the agent's process has read every frame
//! that was written before ping n (protocol 1.2: agents answer pings in the loop that reads their frames).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bus::{Message, trace};
use bytes::Bytes;
use jobs::Deed;
use schemas::{
    ApiId,
    agent::{AGENT_READ_LIMIT, AgentFrame, CONNECTED, ShellFrame, TerminalFrame, session_id},
    message::{
        Claim, CloseRequest, CommandReply, CommandRequest, Mode, Part, StatusReply, TerminalOpen, TerminalReply,
    },
    subject, timestamp,
};
use serde::Serialize;
use tokio::{sync::mpsc, time::Instant};
use tracing::{Span, field::Empty};
use uuid::Uuid;

use super::{
    reader::Incoming,
    session::{Effect, Now, Session},
};
use crate::{
    facts::Fact,
    terminal::{
        line::{self, Order},
        spool::{Item, SPOOL_MAX, Spool, SpoolWriter},
    },
};

/// Longest message of an agent, in all its fragments, in bytes.
pub const MESSAGE_MAX: usize = 128 << 10;
/// Nothing heard for so long: the agent is gone. Re-armed by any frame.
pub const READ_DEADLINE: Duration = Duration::from_secs(90);
/// How long an answer waits for the pong that proves delivery.
const PROOF_WAIT: Duration = Duration::from_secs(2);
/// Commands a connection remembers.
const REMEMBERED: usize = 128;
/// Progress frames a second that are looked at.
const PROGRESS_PER_SEC: u16 = 50;

/// Close code for a connection that a newer one replaced.
pub const REPLACED: u16 = 4001;
/// Close code for a host that was removed, or whose key was replaced.
pub const REVOKED: u16 = 4401;

/// Shells of one agent at most.
const LINES_MAX: usize = 32;
/// Frames for shells that wait for the socket.
const ORDERS: usize = 32;

/// The shells behind one agent.
struct Lines {
    /// Where each one's output goes.
    spools: HashMap<Uuid, SpoolWriter>,
    sender: mpsc::Sender<Order>,
    orders: mpsc::Receiver<Order>,
    /// Shells of an earlier connection that the agent was told to close, and the ping behind that.
    orphans: Option<(u64, Vec<Uuid>)>,
}

impl Default for Lines {
    fn default() -> Self {
        let (sender, orders) = mpsc::channel(ORDERS);
        Self { spools: HashMap::new(), sender, orders, orphans: None }
    }
}

/// Which connection this is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The host.
    pub host_id: Uuid,
    /// What the agent calls itself.
    pub api_id: ApiId,
    /// The connection.
    pub connection: Uuid,
    /// The gateway.
    pub gateway: Uuid,
    /// Its number among the host's connections.
    pub epoch: i64,
    /// Came over TLS.
    pub secure: bool,
    /// Connected, milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// A frame that this connection wrote for a command.
struct Remembered {
    id: Uuid,
    attempt: i32,
    part: Part,
    proved: bool,
    /// The ping that was written right behind it.
    ping: u64,
    /// Who waits for the answer.
    waiting: Option<Box<Waiting>>,
}

/// Who waits for the answer, and until when.
struct Waiting {
    to: Arc<str>,
    until: Instant,
    /// Ends with the answer.
    span: Span,
}

impl Waiting {
    fn reply(self, reply: CommandReply, effects: &mut Vec<Effect>) {
        self.span.record("patchbay.reply", reply.name());
        AgentSession::reply(&self.to, reply, effects);
    }
}

/// The session.
pub struct AgentSession {
    me: Identity,
    /// One every half minute: enough for three thousand years.
    pings: u32,
    last_heard: Instant,
    next_ping: Instant,
    remembered: VecDeque<Remembered>,
    /// The second in which so many progress frames came; it is only compared with the present one.
    progress_second: u16,
    progress_seen: u16,
    ignored: Option<&'static str>,
    /// The shells behind its agent, while there are some.
    lines: Option<Box<Lines>>,
    /// Drawn between pings, so that a fleet that connected at once does not ping at once.
    jitter: fn() -> Duration,
}

fn ping_gap() -> Duration {
    Duration::from_millis(25_000 + u64::from(rand::random::<u16>()) % 5_000)
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

impl AgentSession {
    /// A session that greets.
    pub fn new(me: Identity, now: Instant, effects: &mut Vec<Effect>) -> Self {
        effects.push(Effect::Text { text: CONNECTED.to_owned(), marked: false });
        Self {
            me,
            pings: 0,
            last_heard: now,
            next_ping: now + ping_gap(),
            remembered: VecDeque::new(),
            progress_second: 0,
            progress_seen: 0,
            ignored: None,
            lines: None,
            jitter: ping_gap,
        }
    }

    /// Has the agent close shells of earlier connections: it keeps them when its socket ends (protocol 6-5).
    pub fn close_orphans(&mut self, orphans: Vec<Uuid>, now: Instant, effects: &mut Vec<Effect>) {
        if orphans.is_empty() {
            return;
        }
        for id in &orphans {
            let text = TerminalFrame::SshProxyDisconnect { session_id: &session_id(*id) }.encode();
            effects.push(Effect::Text { text, marked: false });
        }
        self.ping(now, effects);
        self.lines.get_or_insert_default().orphans = Some((self.pings.into(), orphans));
    }

    /// Which connection this is.
    pub fn me(&self) -> &Identity {
        &self.me
    }

    fn ping(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.pings += 1;
        self.next_ping = now + (self.jitter)();
        effects.push(Effect::Ping(self.pings.into()));
    }

    fn reply(to: &Arc<str>, reply: CommandReply, effects: &mut Vec<Effect>) {
        let outcome = Some(reply.name());
        effects.push(Effect::Publish { subject: to.clone(), body: json(&reply), outcome });
    }

    fn on_command(&mut self, message: &Message, now: Now, effects: &mut Vec<Effect>) {
        let (Ok(request), Some(to)) = (message.parse::<CommandRequest>(), &message.reply) else {
            self.ignored = Some("bus_message");
            return;
        };
        if now.wall_ms > request.deadline_ms {
            // Whoever asked has given up: an answer would be about another attempt.
            self.ignored = Some("late_request");
            return;
        }
        // A report would hold up what is typed for as long as it takes (protocol 6-3).
        if request.quiet && request.mode == Mode::Deliver && self.is_busy() && !self.remembers(&request) {
            return Self::reply(to, CommandReply::Busy, effects);
        }
        let epoch = self.me.epoch;
        let known = self.remembered.iter().find(|r| r.id == request.id && r.part == request.part);
        if let Some(known) = known {
            let reply = if known.proved { CommandReply::Delivered { epoch } } else { CommandReply::Sent { epoch } };
            return Self::reply(to, reply, effects);
        }
        if epoch < request.asked_epoch {
            Self::reply(to, CommandReply::Superseded, effects);
            effects.push(Effect::Close { code: REPLACED, reason: "a newer connection exists" });
            return;
        }
        let may_write = match request.mode {
            Mode::Deliver => true,
            Mode::Again => epoch == request.asked_epoch,
            Mode::Probe => false,
        };
        if !may_write || request.frame.len() > AGENT_READ_LIMIT {
            return Self::reply(to, CommandReply::Unknown, effects);
        }
        let span = tracing::info_span!(
            target: trace::TARGET,
            parent: None,
            "write frame",
            otel.kind = "server",
            messaging.operation.type = "receive",
            patchbay.command.id = %request.id,
            patchbay.command.attempt = request.attempt,
            patchbay.reply = Empty,
        );
        if let Some(parent) = &message.trace {
            trace::set_parent(&span, parent);
        }
        span.in_scope(|| tracing::trace!(target: trace::TARGET, "frame handed to the socket"));
        effects.push(Effect::Text { text: request.frame, marked: request.part == Part::Command });
        self.ping(now.instant, effects);
        self.remember(Remembered {
            id: request.id,
            attempt: request.attempt,
            part: request.part,
            proved: false,
            ping: self.pings.into(),
            waiting: Some(Box::new(Waiting { to: to.clone(), until: now.instant + PROOF_WAIT, span })),
        });
    }

    /// Forgets the oldest that is proved; one that is not is never forgotten, so that it cannot be written twice.
    fn remember(&mut self, entry: Remembered) {
        if self.remembered.len() >= REMEMBERED
            && let Some(at) = self.remembered.iter().position(|r| r.proved)
        {
            self.remembered.remove(at);
        }
        self.remembered.push_back(entry);
    }

    fn on_pong(&mut self, payload: &[u8], effects: &mut Vec<Effect>) {
        let Some(n) = <[u8; 8]>::try_from(payload).ok().map(u64::from_be_bytes).filter(|n| *n <= u64::from(self.pings))
        else {
            // An unsolicited pong, or one with a payload that is not ours: a sign of life, no proof.
            return;
        };
        let epoch = self.me.epoch;
        // Read by the agent's process: whichever shells it had are closed.
        if let Some(lines) = &mut self.lines
            && let Some((_, ids)) = lines.orphans.take_if(|(ping, _)| *ping <= n)
        {
            effects.push(Effect::Record(Fact::ShellsLeft(ids)));
            self.forget_lines();
        }
        for entry in self.remembered.iter_mut().filter(|r| !r.proved && r.ping <= n) {
            entry.proved = true;
            if entry.part == Part::Command {
                store::failpoint::hit("pong_in");
            }
            if let Some(waiting) = entry.waiting.take() {
                waiting.reply(CommandReply::Delivered { epoch }, effects);
            } else if entry.part == Part::Command {
                effects.push(Effect::Record(Fact::Proved { id: entry.id, attempt: entry.attempt, epoch }));
            }
        }
    }

    /// No room for what is not there.
    fn forget_lines(&mut self) {
        self.lines.take_if(|lines| lines.spools.is_empty() && lines.orphans.is_none());
    }

    /// Does a shell go through this agent?
    fn is_busy(&self) -> bool {
        self.lines.as_ref().is_some_and(|lines| !lines.spools.is_empty())
    }

    fn remembers(&self, request: &CommandRequest) -> bool {
        self.remembered.iter().any(|r| r.id == request.id && r.part == request.part)
    }

    fn on_terminal(&mut self, message: &Message, now: Now, effects: &mut Vec<Effect>) {
        let (Ok(open), Some(reply)) = (message.parse::<TerminalOpen>(), &message.reply) else {
            self.ignored = Some("bus_message");
            return;
        };
        if now.wall_ms > open.deadline_ms {
            self.ignored = Some("late_request");
            return;
        }
        let lines = self.lines.get_or_insert_default();
        if lines.spools.len() >= LINES_MAX {
            let reason = format!("This agent carries {LINES_MAX} terminals already");
            let body = json(&TerminalReply::Refused { reason });
            effects.push(Effect::Publish { subject: reply.clone(), body, outcome: None });
            return;
        }
        let spool = Spool::new(SPOOL_MAX);
        lines.spools.insert(open.session, spool.writer());
        effects.push(Effect::Line(Box::new(line::Start {
            open,
            reply: reply.clone(),
            trace: message.trace.clone(),
            epoch: self.me.epoch,
            orders: lines.sender.clone(),
            spool,
        })));
    }

    /// A shell of this agent told something; of another's it can tell nothing.
    fn on_shell(&mut self, session: Uuid, frame: ShellFrame) {
        let Some(spool) = self.lines.as_ref().and_then(|lines| lines.spools.get(&session)) else {
            // The answer of a shell of an earlier connection that was closed, or a stranger's.
            self.ignored = Some("unknown_session");
            return;
        };
        match frame {
            ShellFrame::Connected => spool.tell(Item::Connected),
            ShellFrame::Data(data) => spool.output(&data),
            ShellFrame::Error(message) => spool.tell(Item::Error(message)),
            ShellFrame::Closed => spool.tell(Item::Closed(None)),
        }
    }

    fn on_claim(&mut self, claim: Claim, effects: &mut Vec<Effect>) {
        if claim.connection == self.me.connection || claim.epoch == self.me.epoch {
            return;
        }
        if claim.epoch > self.me.epoch {
            effects.push(Effect::Close { code: REPLACED, reason: "a newer connection exists" });
        } else {
            effects.push(self.claim());
        }
    }

    /// "This connection holds the agent."
    pub fn claim(&self) -> Effect {
        Effect::Publish {
            subject: subject::agent_claim(&self.me.api_id).into(),
            body: json(&Claim { epoch: self.me.epoch, gateway: self.me.gateway, connection: self.me.connection }),
            outcome: None,
        }
    }

    fn on_text(&mut self, text: &str, now: Now, effects: &mut Vec<Effect>) {
        match AgentFrame::parse(text) {
            Ok(AgentFrame::ScanProgress(progress)) => {
                let second = u16::try_from(now.wall_ms / 1_000 % 0x1_0000).unwrap_or(0);
                if second != self.progress_second {
                    self.progress_second = second;
                    self.progress_seen = 0;
                }
                self.progress_seen += 1;
                if self.progress_seen > PROGRESS_PER_SEC {
                    self.ignored = Some("too_many");
                    return;
                }
                let words = if progress.error.is_empty() { &progress.message } else { &progress.error };
                let deed = Deed::ScanPhase {
                    phase: progress.phase,
                    host_ms: timestamp::parse_rfc3339(&progress.timestamp),
                    profile: progress.profile_name.chars().take(500).collect(),
                    text: words.chars().take(500).collect(),
                };
                effects.push(Effect::Record(Fact::Progress {
                    host_id: self.me.host_id,
                    progress: Box::new(progress),
                    deed: Box::new(deed),
                }));
            }
            Ok(AgentFrame::Shell { session_id, frame }) => self.on_shell(session_id, frame),
            Ok(AgentFrame::Unused) => self.ignored = Some("unused_type"),
            Ok(AgentFrame::UnknownType) => self.ignored = Some("unknown_type"),
            Err(_) => self.ignored = Some("malformed"),
        }
    }
}

impl Session for AgentSession {
    type Mail = Message;

    fn limit(&self) -> usize {
        MESSAGE_MAX
    }

    fn on_frame(&mut self, incoming: Incoming, now: Now, effects: &mut Vec<Effect>) {
        self.last_heard = now.instant;
        match incoming {
            Incoming::Text(text) => self.on_text(&text, now, effects),
            Incoming::Binary(_) => self.ignored = Some("binary"),
            Incoming::Fragment => {}
            Incoming::Ping(payload) => effects.push(Effect::Pong(payload)),
            Incoming::Pong(payload) => self.on_pong(&payload, effects),
            Incoming::Close(code) => effects.push(Effect::Close { code: code.unwrap_or(1000), reason: "" }),
        }
    }

    /// What shells are sent. Asked after the bus, so that a command goes before it.
    fn poll_own(&mut self, effects: &mut Vec<Effect>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lines) = &mut self.lines else { return Poll::Pending };
        match ready!(lines.orders.poll_recv(cx)) {
            Some(Order::Frame(text)) => effects.push(Effect::Text { text, marked: false }),
            Some(Order::Gone(session)) => {
                lines.spools.remove(&session);
                self.forget_lines();
            }
            // It holds a sender itself.
            None => return Poll::Pending,
        }
        Poll::Ready(())
    }

    fn on_message(&mut self, message: &Message, now: Now, effects: &mut Vec<Effect>) {
        match subject::last_token(&message.subject) {
            "command" => self.on_command(message, now, effects),
            "terminal" => self.on_terminal(message, now, effects),
            "claim" => match message.parse() {
                Ok(claim) => self.on_claim(claim, effects),
                Err(_) => self.ignored = Some("bus_message"),
            },
            "status" => {
                if let Some(to) = &message.reply {
                    effects.push(Effect::Publish {
                        subject: to.clone(),
                        body: json(&StatusReply {
                            secure: self.me.secure,
                            epoch: self.me.epoch,
                            since_ms: self.me.since_ms,
                            gateway: self.me.gateway,
                        }),
                        outcome: None,
                    });
                }
            }
            "close" => {
                let (reason, only) =
                    message.parse::<CloseRequest>().map(|c| (c.reason, c.connection)).unwrap_or_default();
                if only.is_some_and(|only| only != self.me.connection) {
                    return;
                }
                tracing::info!(host_id = %self.me.host_id, reason, "closing the agent's socket");
                effects.push(Effect::Close { code: REVOKED, reason: "credentials are no longer valid" });
            }
            _ => self.ignored = Some("bus_message"),
        }
    }

    fn on_tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now.instant - self.last_heard >= READ_DEADLINE {
            effects.push(Effect::Close { code: 1001, reason: "nothing heard for 90 s" });
            return;
        }
        let epoch = self.me.epoch;
        for entry in &mut self.remembered {
            if entry.waiting.as_ref().is_some_and(|w| w.until <= now.instant)
                && let Some(waiting) = entry.waiting.take()
            {
                waiting.reply(CommandReply::Sent { epoch }, effects);
            }
        }
        if self.next_ping <= now.instant {
            self.ping(now.instant, effects);
        }
    }

    fn next_tick(&self) -> Instant {
        let answers = self.remembered.iter().filter_map(|r| r.waiting.as_ref().map(|w| w.until));
        answers.fold(self.next_ping.min(self.last_heard + READ_DEADLINE), Instant::min)
    }

    /// A first asking is known not to be written, so whoever asked need not wait for its time-out. What asks again, or
    /// asks only whether, finds out by itself that nobody holds this connection.
    fn on_leftover(&mut self, message: &Message, effects: &mut Vec<Effect>) {
        if subject::last_token(&message.subject) != "command" {
            return;
        }
        if let (Ok(request), Some(to)) = (message.parse::<CommandRequest>(), &message.reply)
            && request.mode == Mode::Deliver
            && !self.remembered.iter().any(|r| r.id == request.id && r.part == request.part)
        {
            Self::reply(to, CommandReply::Superseded, effects);
        }
    }

    fn on_end(&mut self, effects: &mut Vec<Effect>) {
        for spool in self.lines.take().iter().flat_map(|lines| lines.spools.values()) {
            spool.tell(Item::Lost);
        }
        for entry in &mut self.remembered {
            if entry.proved {
                continue;
            }
            if let Some(waiting) = entry.waiting.take() {
                // Perhaps written: whoever asked finds out by asking again.
                waiting.reply(CommandReply::Unknown, effects);
            }
            if entry.part == Part::Command {
                effects.push(Effect::Record(Fact::Lost { id: entry.id, attempt: entry.attempt }));
            }
        }
    }

    fn take_ignored(&mut self) -> Option<&'static str> {
        self.ignored.take()
    }
}

#[cfg(test)]
#[path = "agent_session_tests.rs"]
mod tests;

//! The browser's side of a terminal through the host's agent. The agent may be on any gateway; [`super::line`] is the side
//! there.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use bus::{BusError, Message, Subscribe, Subscription, request_json, trace};
use schemas::{
    ApiId,
    message::{TerminalIn, TerminalInput, TerminalLogin, TerminalOpen, TerminalOut, TerminalReply, TerminalState},
    subject,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    line::WINDOW,
    message::Connect,
    pieces,
    shell::{Carried, Ended, Input},
};
use crate::App;

/// Messages of the agent's side that wait unread.
const INCOMING: usize = 1_024;
/// How long the agent's gateway may take to say that it has asked the agent.
const ASK_WAIT: Duration = Duration::from_secs(5);
/// How long the agent may take to open the shell (protocol 2.5: a peer that says nothing is never answered for).
const CONNECT_WAIT: Duration = Duration::from_secs(25);
/// Between two questions whether the agent's side is there.
const BEAT: Duration = Duration::from_millis(400);
/// How long an answer may take; three in a row that did not come are the end.
const BEAT_WAIT: Duration = Duration::from_millis(300);
const MISSED_MAX: u32 = 3;
/// Nobody listens: asked once more, since a bus that is back may not have told everybody yet.
const NOBODY_AGAIN: Duration = Duration::from_millis(200);
const NOBODY_MAX: u32 = 2;
/// How long a bus that is away is waited for: as long as the agent's side waits.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// Input that was not acknowledged yet, in messages. Half of it is worth a question at once.
const UNACKED_MAX: usize = 64;
/// How old what is not acknowledged may be, before it is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

const OFFLINE: &str = "Agent not connected. Please ensure the agent is running and connected.";
const LOST: &str = "Agent WebSocket connection lost";

/// Opens the shell and carries it until it ends.
pub async fn carry(carried: &mut Carried, connect: Connect, host: String, port: u16) -> Ended {
    let outgoing = subject::terminal_in(carried.id);
    let mut side = match ask(carried, connect, host, port).await {
        Ok(incoming) => Side::new(carried.app.clone(), outgoing, incoming),
        Err(ended) => return ended,
    };
    let ended = side.carry(carried).await;
    if side.leaves {
        side.leave().await;
    }
    ended
}

fn exposed(secret: Option<&SecretString>) -> Option<String> {
    secret.map(|secret| secret.expose_secret().to_owned())
}

/// Has the agent's gateway ask the agent.
async fn ask(carried: &Carried, connect: Connect, host: String, port: u16) -> Result<Subscription, Ended> {
    let app = &carried.app;
    let Ok(api_id) = ApiId::parse(&carried.host.facts.api_id) else {
        return Err(Ended::wrong("error", "Internal error"));
    };
    let login = TerminalLogin {
        host,
        port,
        username: connect.username,
        terminal: connect.terminal,
        cols: connect.size.cols,
        rows: connect.size.rows,
        password: exposed(connect.password.as_ref()),
        private_key: exposed(connect.private_key.as_ref()),
        passphrase: exposed(connect.passphrase.as_ref()),
    };
    let sealed = app.terminals.seal.seal(carried.id, &login).map_err(|_| Ended::wrong("error", "Internal error"))?;
    let wait = i64::try_from(ASK_WAIT.as_millis()).unwrap_or(i64::MAX);
    let open = TerminalOpen { session: carried.id, deadline_ms: app.store.clock().now_ms() + wait, sealed };
    let to = subject::terminal_out(carried.id);
    let Ok(Ok(incoming)) = timeout(ASK_WAIT, app.bus.subscribe(&to, Subscribe::all(INCOMING))).await else {
        return Err(Ended::wrong("bus_unavailable", "The message bus is away, please try again"));
    };
    let story = trace::of(&carried.story());
    let to = subject::agent_terminal(&api_id);
    let asked = request_json(app.bus.as_ref(), &to, &open, story, ASK_WAIT);
    let answered = tokio::select! {
        answered = asked => answered,
        why = carried.stop.wait() => return Err(Ended::well(why, None)),
    };
    match answered.map(|message| message.parse::<TerminalReply>()) {
        Ok(Ok(TerminalReply::Accepted { .. })) => Ok(incoming),
        Ok(Ok(TerminalReply::Refused { reason })) => Err(Ended::wrong("refused", reason)),
        Ok(Err(_)) => Err(Ended::wrong("error", "Failed to send proxy request to agent")),
        Err(BusError::NoResponder) => Err(Ended::wrong("offline", OFFLINE)),
        Err(BusError::Timeout) => Err(Ended::wrong("timeout", "Failed to send proxy request to agent")),
        Err(BusError::TooLarge) => Err(Ended::wrong("refused", "The private key is too large for an agent")),
        Err(BusError::Disconnected) => {
            Err(Ended::wrong("bus_unavailable", "The message bus is away, please try again"))
        }
    }
}

type Beat = Pin<Box<dyn Future<Output = Result<Message, BusError>> + Send>>;

struct Side {
    app: App,
    outgoing: String,
    incoming: Subscription,
    /// Number of the last input that was sent.
    number: u64,
    unacked: VecDeque<(u64, TerminalInput)>,
    /// When the oldest of them was sent last.
    sent_at: Instant,
    /// Bytes of output that came, or were left out.
    received: u64,
    /// Told the agent's side.
    told: u64,
    beat_at: Instant,
    missed: u32,
    nobody: u32,
    away_since: Option<Instant>,
    /// At the last answer: what was sent, and what had come of it.
    behind: Option<(u64, u64)>,
    /// The agent's side must be told to close the shell.
    leaves: bool,
}

impl Side {
    fn new(app: App, outgoing: String, incoming: Subscription) -> Self {
        let now = Instant::now();
        Self {
            app,
            outgoing,
            incoming,
            number: 0,
            unacked: VecDeque::new(),
            sent_at: now,
            received: 0,
            told: 0,
            beat_at: now + BEAT,
            missed: 0,
            nobody: 0,
            away_since: None,
            behind: None,
            leaves: false,
        }
    }

    async fn carry(&mut self, carried: &mut Carried) -> Ended {
        let stop = carried.stop.clone();
        let connect_by = Instant::now() + CONNECT_WAIT;
        let mut beat: Option<Beat> = None;
        loop {
            // What waits for the browser here has not left yet.
            let (waiting, takes) = carried.spool.waiting();
            let taken = self.received.saturating_sub(waiting);
            if taken - self.told >= WINDOW / 4 {
                self.told = taken;
                self.publish(&TerminalIn { taken, input: None, leave: false }).await;
            }
            let told_all = self.told == self.received;
            let may_type = self.unacked.len() < UNACKED_MAX;
            tokio::select! {
                message = self.incoming.next() => {
                    let Some(message) = message else { return self.lost() };
                    if let Some(ended) = self.on_message(&message, carried).await {
                        return ended;
                    }
                }
                typed = carried.input.recv(), if may_type => {
                    let Some(typed) = typed else { return self.left(&stop.why().unwrap_or_default()) };
                    carried.typed(&typed);
                    self.send(typed.input).await;
                }
                () = sleep_until(self.beat_at), if beat.is_none() => beat = Some(self.ask(taken)),
                answered = async { match &mut beat { Some(beat) => beat.await, None => std::future::pending().await } } => {
                    beat = None;
                    if let Some(ended) = self.on_beat(answered, carried).await {
                        return ended;
                    }
                }
                () = carried.spool.taken(takes), if !told_all => {}
                () = sleep_until(connect_by), if !carried.is_connected() => {
                    self.leaves = true;
                    return Ended::wrong("timeout", "Failed to connect: the agent did not answer within 25 s");
                }
                why = stop.wait() => return self.left(&why),
            }
        }
    }

    fn left(&mut self, why: &str) -> Ended {
        self.leaves = true;
        Ended::well(why, None)
    }

    fn lost(&mut self) -> Ended {
        // Perhaps only one of the two ways is gone.
        self.leaves = true;
        Ended::wrong("lost", LOST)
    }

    async fn on_message(&mut self, message: &Message, carried: &mut Carried) -> Option<Ended> {
        // What cannot be read is told by the offset of what follows.
        match message.parse::<TerminalOut>().ok()? {
            TerminalOut::Connected => self.connected(carried).await,
            TerminalOut::Data { at, data } => {
                self.catch_up(at, carried);
                let known = usize::try_from(self.received - at.min(self.received)).unwrap_or(usize::MAX);
                if let Some(new) = data.get(known..) {
                    self.received += new.len() as u64;
                    carried.output(new);
                }
            }
            TerminalOut::Error { at, message } => {
                self.catch_up(at, carried);
                let outcome = if message == LOST { "lost" } else { "refused" };
                return Some(Ended::wrong(outcome, message));
            }
            TerminalOut::Closed { at } => {
                self.catch_up(at, carried);
                return Some(Ended::well("the shell ended", None));
            }
        }
        None
    }

    /// Output up to here is not coming any more.
    fn catch_up(&mut self, at: u64, carried: &mut Carried) {
        if at > self.received {
            carried.left_out(at - self.received);
            self.received = at;
        }
    }

    async fn connected(&mut self, carried: &mut Carried) {
        if !carried.is_connected() {
            carried.opened().await;
        }
    }

    async fn send(&mut self, input: Input) {
        let inputs: Vec<TerminalInput> = match input {
            Input::Keys(keys) => pieces::of(&keys).map(|piece| TerminalInput::Keys(piece.to_owned())).collect(),
            Input::Resize(size) => vec![TerminalInput::Resize { cols: size.cols, rows: size.rows }],
        };
        for input in inputs {
            self.number += 1;
            if self.unacked.is_empty() {
                self.sent_at = Instant::now();
            }
            self.unacked.push_back((self.number, input.clone()));
            self.publish(&TerminalIn { taken: self.told, input: Some((self.number, input)), leave: false }).await;
        }
        if self.unacked.len() >= UNACKED_MAX / 2 {
            self.beat_at = self.beat_at.min(Instant::now());
        }
    }

    fn ask(&mut self, taken: u64) -> Beat {
        self.told = taken;
        let (bus, to) = (self.app.bus.clone(), self.outgoing.clone());
        let told = TerminalIn { taken, input: None, leave: false };
        self.beat_at = Instant::now() + BEAT;
        Box::pin(async move { request_json(bus.as_ref(), &to, &told, None, BEAT_WAIT).await })
    }

    async fn on_beat(&mut self, answered: Result<Message, BusError>, carried: &mut Carried) -> Option<Ended> {
        match answered {
            Ok(message) => {
                (self.missed, self.nobody, self.away_since) = (0, 0, None);
                let state = message.parse::<TerminalState>().ok()?;
                if state.connected {
                    self.connected(carried).await;
                }
                self.acknowledged(state.got).await;
                // What was sent before the last question, and did not come since, got lost on the way.
                let behind = (state.sent > self.received).then_some((state.sent, self.received));
                if behind.is_some() && behind == self.behind {
                    self.catch_up(state.sent, carried);
                }
                self.behind = behind;
            }
            Err(BusError::NoResponder) => {
                self.nobody += 1;
                self.beat_at = Instant::now() + NOBODY_AGAIN;
                if self.nobody >= NOBODY_MAX {
                    // What it told last may be on its way here still.
                    while let Some(message) = self.incoming.try_next() {
                        if let Some(ended) = self.on_message(&message, carried).await {
                            return Some(ended);
                        }
                    }
                    return Some(self.lost());
                }
            }
            Err(BusError::Disconnected) => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= AWAY_MAX {
                    self.leaves = true;
                    return Some(Ended::wrong("bus_unavailable", "The message bus is away"));
                }
            }
            Err(BusError::Timeout | BusError::TooLarge) => {
                self.missed += 1;
                self.beat_at = Instant::now();
                if self.missed >= MISSED_MAX {
                    return Some(self.lost());
                }
            }
        }
        None
    }

    async fn acknowledged(&mut self, got: u64) {
        let before = self.unacked.len();
        while self.unacked.front().is_some_and(|(number, _)| *number <= got) {
            self.unacked.pop_front();
        }
        if self.unacked.len() < before {
            self.sent_at = Instant::now();
        } else if !self.unacked.is_empty() && self.sent_at.elapsed() >= AGAIN_AFTER {
            self.sent_at = Instant::now();
            for (number, input) in self.unacked.clone() {
                self.publish(&TerminalIn { taken: self.told, input: Some((number, input)), leave: false }).await;
            }
        }
    }

    async fn publish(&self, told: &TerminalIn) {
        let Ok(body) = serde_json::to_vec(told) else { return };
        // What does not get through comes again, or is told by the next question.
        let _ = timeout(BEAT_WAIT, self.app.bus.publish(&self.outgoing, body.into(), None)).await;
    }

    /// Has the agent's side close the shell. Where that does not get through, it misses our questions.
    async fn leave(&self) {
        let told = TerminalIn { taken: self.told, input: None, leave: true };
        let _ = request_json(self.app.bus.as_ref(), &self.outgoing, &told, None, BEAT_WAIT).await;
    }
}

//! One connected socket: heartbeat, deadlines, the reader that blocks on a full inbox, and the habits of a bad peer.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use super::{
    Control,
    host::Host,
    process::{End, Process},
    service::Message,
    terminals,
};
use crate::{
    generation::Generation,
    log::What,
    message::{self, Inbound},
    misbehaviour::{Hangup, Misbehaviour},
    socket::{Incoming, Socket, SocketError},
};

/// Lives until the socket is gone. `Some` when the process goes with it.
pub(super) async fn run(
    process: &Arc<Process>,
    socket: Socket,
    inbox: &mpsc::Sender<Box<Inbound>>,
    outgoing: &mut mpsc::Receiver<Box<Message>>,
    orders: &mut mpsc::Receiver<Control>,
) -> Option<End> {
    let mut connection = Connection::new(&process.host, socket);
    let (uplink, mut from_terminals) = terminals::uplink();
    *process.uplink.lock() = uplink;
    let gone = connection.exchange(inbox, outgoing, &mut from_terminals, orders).await;
    if let Hangup::Reset = gone.how
        && let Some(socket) = connection.socket.take()
    {
        socket.reset();
    }
    connection.disconnected.reason = gone.reason;
    gone.end
}

/// The end of a connection.
#[derive(Debug)]
struct Gone {
    reason: String,
    how: Hangup,
    end: Option<End>,
}

impl Gone {
    fn because(reason: impl ToString) -> Self {
        Self { reason: reason.to_string(), how: Hangup::Fin, end: None }
    }

    fn hung_up(reason: impl ToString, how: Hangup) -> Self {
        Self { how, ..Self::because(reason) }
    }

    fn with_process(reason: &str, end: End) -> Self {
        Self { end: Some(end), ..Self::because(reason) }
    }
}

/// Records the loss also when the future is dropped by a stop.
struct Disconnected<'a> {
    host: &'a Host,
    reason: String,
}

impl Drop for Disconnected<'_> {
    fn drop(&mut self) {
        self.host.record(What::Disconnected { reason: std::mem::take(&mut self.reason) });
    }
}

struct Connection<'a> {
    host: &'a Host,
    /// Dropped before `disconnected` records it.
    socket: Option<Socket>,
    disconnected: Disconnected<'a>,
    next_ping: Instant,
    read_deadline: Instant,
    /// The scenario's pause.
    paused_until: Option<Instant>,
    /// A message for which the inbox has no place, and when a 2.1 agent drops it.
    blocked: Option<(Box<Inbound>, Instant)>,
    late_pongs: VecDeque<(Instant, Bytes)>,
    flap_at: Option<Instant>,
    commands: u32,
}

impl<'a> Connection<'a> {
    fn new(host: &'a Host, socket: Socket) -> Self {
        let now = Instant::now();
        let timing = &host.config.timing;
        Self {
            host,
            socket: Some(socket),
            disconnected: Disconnected { host, reason: "stopped".to_owned() },
            next_ping: now + timing.ping_interval,
            read_deadline: now + timing.read_deadline,
            paused_until: None,
            blocked: None,
            late_pongs: VecDeque::new(),
            flap_at: match host.state.lock().misbehaviour {
                Some(Misbehaviour::Flap(after)) => Some(now + after),
                _ => None,
            },
            commands: 0,
        }
    }

    async fn exchange(
        &mut self,
        inbox: &mpsc::Sender<Box<Inbound>>,
        outgoing: &mut mpsc::Receiver<Box<Message>>,
        from_terminals: &mut mpsc::Receiver<Box<Message>>,
        orders: &mut mpsc::Receiver<Control>,
    ) -> Gone {
        loop {
            let reads = self.reads();
            let timer = self.next_timer();
            let Some(socket) = &mut self.socket else {
                return Gone::because("no socket");
            };
            let step = tokio::select! {
                incoming = socket.next(), if reads => self.take(incoming, inbox).await,
                place = inbox.reserve(), if self.blocked.is_some() => match (place, self.blocked.take()) {
                    (Ok(place), Some((message, _))) => {
                        place.send(message);
                        Ok(())
                    }
                    _ => Ok(()),
                },
                Some(message) = outgoing.recv() => self.send(message).await,
                Some(message) = from_terminals.recv() => self.send(message).await,
                order = orders.recv() => self.obey(order).await,
                () = tokio::time::sleep_until(timer) => self.on_timer().await,
            };
            if let Err(gone) = step {
                return gone;
            }
        }
    }

    /// The reader stands still while the scenario says so, or while the inbox is full (protocol 6-3).
    fn reads(&self) -> bool {
        self.paused_until.is_none() && self.blocked.is_none()
    }

    fn next_timer(&self) -> Instant {
        let drops = self.host.config.generation == Generation::V2;
        [
            // The deadline is one of reading: a reader that stands still meets it when it reads again.
            self.reads().then_some(self.read_deadline),
            self.paused_until,
            self.blocked.as_ref().filter(|_| drops).map(|(_, drop_at)| *drop_at),
            self.late_pongs.front().map(|(at, _)| *at),
            self.flap_at,
        ]
        .into_iter()
        .flatten()
        .fold(self.next_ping, Instant::min)
    }

    async fn on_timer(&mut self) -> Result<(), Gone> {
        let now = Instant::now();
        let timing = &self.host.config.timing;
        if self.flap_at.is_some_and(|at| at <= now) {
            self.misbehaved();
            return Err(Gone::because("flapped"));
        }
        if self.reads() && self.read_deadline <= now {
            return Err(Gone::because("nothing re-armed the read deadline"));
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        if self.host.config.generation == Generation::V2
            && let Some((message, _)) = self.blocked.take_if(|(_, drop_at)| *drop_at <= now)
        {
            self.host.record(What::Lost { kind: message.kind().to_owned(), reason: "the inbox stayed full" });
        }
        while let Some((_, payload)) = self.late_pongs.pop_front_if(|(at, _)| *at <= now) {
            self.pong(payload).await?;
        }
        if self.next_ping <= now {
            self.next_ping = now + timing.ping_interval;
            let deadline = timing.write_deadline;
            written(self.socket()?.send_ping(deadline).await)?;
        }
        Ok(())
    }

    async fn take(
        &mut self,
        incoming: Result<Incoming, SocketError>,
        inbox: &mpsc::Sender<Box<Inbound>>,
    ) -> Result<(), Gone> {
        let deadline = self.host.config.timing.write_deadline;
        match incoming {
            Ok(Incoming::Pong(_)) => self.rearm(),
            Ok(Incoming::Ping(payload)) => {
                self.rearm_2_1();
                self.host.log.count(|counts| counts.pings += 1);
                let habit = self.host.state.lock().misbehaviour;
                match habit {
                    Some(Misbehaviour::Deaf) => {}
                    Some(Misbehaviour::LatePongs(delay)) => {
                        self.late_pongs.push_back((Instant::now() + delay, payload));
                    }
                    _ => self.pong(payload).await?,
                }
            }
            Ok(Incoming::Message(payload)) => {
                self.rearm_2_1();
                return self.take_message(&payload, inbox);
            }
            Ok(Incoming::Close(code)) => {
                // Echoed without its reason, whatever it says (protocol 1.2).
                let _ = self.socket()?.send_close(code, deadline).await;
                let code = code.map_or_else(|| "without a code".to_owned(), |code| code.to_string());
                return Err(Gone::because(format!("closed by the server: {code}")));
            }
            Err(error) => {
                let code = match error {
                    SocketError::TooBig => Some(1009),
                    SocketError::Protocol(_) => Some(1002),
                    SocketError::Ended | SocketError::Io(_) => None,
                };
                if code.is_some() {
                    let _ = self.socket()?.send_close(code, deadline).await;
                }
                return Err(Gone::because(error));
            }
        }
        Ok(())
    }

    fn take_message(&mut self, payload: &[u8], inbox: &mpsc::Sender<Box<Inbound>>) -> Result<(), Gone> {
        let kind = message::kind_for_log(payload);
        self.host.record_frame(kind.clone(), payload);
        let habit = self.host.state.lock().misbehaviour;
        if kind != "connected" {
            self.commands += 1;
            match habit {
                Some(Misbehaviour::DropAfter(frames, how)) if self.commands >= frames => {
                    self.misbehaved();
                    return Err(Gone::hung_up("dropped after its number of frames", how));
                }
                Some(Misbehaviour::SlowReader(pause)) => {
                    self.misbehaved();
                    self.paused_until = Some(Instant::now() + pause);
                }
                _ => {}
            }
        }
        let Some(message) = Inbound::decode(payload) else {
            self.host.record(What::Lost { kind, reason: "it did not decode" });
            return Ok(());
        };
        if matches!(habit, Some(Misbehaviour::Silent | Misbehaviour::Deaf)) {
            return Ok(());
        }
        if let Err(mpsc::error::TrySendError::Full(message)) = inbox.try_send(Box::new(message)) {
            let drop_at = Instant::now() + self.host.config.timing.inbox_wait;
            self.blocked = Some((message, drop_at));
        }
        Ok(())
    }

    async fn send(&mut self, message: Box<Message>) -> Result<(), Gone> {
        let deadline = self.host.config.timing.write_deadline;
        written(self.socket()?.send_text(&message.text, deadline).await)?;
        self.host.record(What::Sent { kind: message.kind, phase: message.phase, bytes: message.text.len() });
        Ok(())
    }

    async fn obey(&mut self, order: Option<Control>) -> Result<(), Gone> {
        let deadline = self.host.config.timing.write_deadline;
        match order {
            None => Err(Gone::with_process("stopped", End::Stopped)),
            Some(Control::Restart) => Err(Gone::with_process("the process ended", End::Restart)),
            Some(Control::PowerOff) => Err(Gone::with_process("powered off", End::PoweredOff)),
            Some(Control::PowerOn) => Ok(()),
            Some(Control::HangUp(how)) => Err(Gone::hung_up("hung up", how)),
            Some(Control::PauseReading(pause)) => {
                self.paused_until = Some(Instant::now() + pause);
                Ok(())
            }
            Some(Control::SendText(text)) => self.send(Box::new(Message::plain(text))).await,
            Some(Control::SendFrame(frame)) => written(self.socket()?.send(*frame, deadline).await),
        }
    }

    async fn pong(&mut self, payload: Bytes) -> Result<(), Gone> {
        let deadline = self.host.config.timing.write_deadline;
        written(self.socket()?.send_pong(payload, deadline).await)
    }

    /// By a pong, in both generations.
    fn rearm(&mut self) {
        self.read_deadline = Instant::now() + self.host.config.timing.read_deadline;
    }

    /// By a ping or a message, in 2.1 only (protocol 1.2).
    fn rearm_2_1(&mut self) {
        if self.host.config.generation == Generation::V2 {
            self.rearm();
        }
    }

    fn misbehaved(&self) {
        let habit = self.host.state.lock().misbehaviour;
        if let Some(habit) = habit {
            self.host.misbehaved(habit);
        }
    }

    fn socket(&mut self) -> Result<&mut Socket, Gone> {
        self.socket.as_mut().ok_or_else(|| Gone::because("no socket"))
    }
}

fn written(result: std::io::Result<()>) -> Result<(), Gone> {
    result.map_err(|error| Gone::because(format!("write: {error}")))
}

//! One life of the agent's process: its start, and its connections one after the other.

use std::{future::Future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Control, Start, connection,
    host::Host,
    scan::Scans,
    service::{self, Message},
    terminals::{self, Terminals, Uplink},
};
use crate::{
    backoff::Backoff,
    log::{FrameLog, What},
    message::Inbound,
    socket::{Refused, Socket, Upgrade, upgrade},
};

/// The channel between the reader and the service loop (protocol 6-3). What goes through the channels is boxed: a channel
/// keeps room for 32 of them.
const INBOX: usize = 10;
/// The buffer of scan progress; what does not fit is dropped, and it survives a reconnect (protocol 1.4).
const OUTBOX: usize = 10;

/// Why a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Stopped,
    Restart,
    PoweredOff,
}

/// What the tasks of one process share.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) host: Arc<Host>,
    /// Ends with the process, and everything that it does with it.
    pub(super) life: CancellationToken,
    pub(super) outbox: mpsc::Sender<Box<Message>>,
    pub(super) scans: Mutex<Scans>,
    pub(super) terminals: Terminals,
    /// To the socket of now, or of before: what is said of terminals is lost with the socket.
    pub(super) uplink: Mutex<Uplink>,
}

impl Process {
    /// Runs something beside the service loop, as long as the process lives.
    pub(super) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let life = self.life.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = life.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Puts a message into the buffer towards the server.
    pub(super) fn send(&self, message: Message) {
        // Full: the agents drop it, too.
        let _ = self.outbox.try_send(Box::new(message));
    }
}

/// The machine: starts the process again whenever it ended.
pub(super) async fn live(
    host: Arc<Host>,
    mut orders: mpsc::Receiver<Control>,
    stop: CancellationToken,
    delay: Duration,
) {
    let life = async {
        tokio::time::sleep(delay).await;
        loop {
            match run(&host, &mut orders, &stop).await {
                End::Stopped => return,
                End::Restart => tokio::time::sleep(host.config.timing.restart).await,
                End::PoweredOff => while !matches!(orders.recv().await, Some(Control::PowerOn) | None) {},
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = life => {}
    }
}

async fn run(host: &Arc<Host>, orders: &mut mpsc::Receiver<Control>, stop: &CancellationToken) -> End {
    let (inbox, messages) = mpsc::channel(INBOX);
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let process = Arc::new(Process {
        host: host.clone(),
        life: stop.child_token(),
        outbox,
        scans: Mutex::default(),
        terminals: Terminals::default(),
        uplink: Mutex::new(terminals::uplink().0),
    });
    let _started = Running::begin(&process);
    let connections = Connections { process: &process, orders, inbox, outgoing };
    Box::pin(connections.run(messages)).await
}

/// Records the end of the process also when its future is dropped.
struct Running(Arc<Process>);

impl Running {
    fn begin(process: &Arc<Process>) -> Self {
        process.host.record(What::ProcessStarted);
        Self(process.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.life.cancel();
        self.0.host.record(What::ProcessEnded);
    }
}

struct Connections<'a> {
    process: &'a Arc<Process>,
    orders: &'a mut mpsc::Receiver<Control>,
    inbox: mpsc::Sender<Box<Inbound>>,
    outgoing: mpsc::Receiver<Box<Message>>,
}

impl Connections<'_> {
    async fn run(mut self, messages: mpsc::Receiver<Box<Inbound>>) -> End {
        let host = &self.process.host;
        let full = host.config.start == Start::Full;
        if full {
            let start = Box::pin(service::start_up(self.process));
            if let Err(end) = attend(self.orders, start).await {
                return end;
            }
        }
        self.process.spawn(service::serve(self.process.clone(), messages));
        if full {
            self.process.spawn(service::first_report(self.process.clone()));
        }
        let mut backoff = Backoff::new(host.config.generation, host.config.timing.backoff_unit);
        let mut first = full;
        loop {
            let wait = match attend(self.orders, Box::pin(dial(host))).await {
                Err(end) => return end,
                Ok(Err(refused)) => {
                    host.record(What::Refused { status: refused.status, error: refused.error });
                    backoff.after_failed_dial()
                }
                Ok(Ok(socket)) => {
                    if first {
                        first = false;
                        self.process.spawn(service::first_status(self.process.clone()));
                    }
                    let end = connection::run(self.process, socket, &self.inbox, &mut self.outgoing, self.orders).await;
                    if let Some(end) = end {
                        return end;
                    }
                    backoff.after_session()
                }
            };
            if let Err(end) = attend(self.orders, tokio::time::sleep(wait)).await {
                return end;
            }
        }
    }
}

async fn dial(host: &Arc<Host>) -> Result<Socket, Refused> {
    let _dialing = Dialing::begin(&host.log);
    let began = tokio::time::Instant::now();
    let socket = upgrade(Upgrade {
        server: &host.server,
        api_id: &host.config.credentials.api_id,
        api_key: &host.config.credentials.api_key,
        source: host.config.source,
        deadline: host.config.timing.handshake,
    })
    .await?;
    let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    host.next_connection();
    host.record(What::Connected { micros });
    Ok(socket)
}

/// Counts the upgrades under way.
struct Dialing<'a>(&'a FrameLog);

impl<'a> Dialing<'a> {
    fn begin(log: &'a FrameLog) -> Self {
        log.count(|counts| counts.connecting += 1);
        Self(log)
    }
}

impl Drop for Dialing<'_> {
    fn drop(&mut self) {
        self.0.count(|counts| counts.connecting = counts.connecting.saturating_sub(1));
    }
}

/// Waits for `work` while the test's orders that end a process are obeyed. Those for a socket find none.
async fn attend<T>(orders: &mut mpsc::Receiver<Control>, work: impl Future<Output = T>) -> Result<T, End> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            order = orders.recv() => match order {
                None => return Err(End::Stopped),
                Some(Control::Restart) => return Err(End::Restart),
                Some(Control::PowerOff) => return Err(End::PoweredOff),
                Some(_) => {}
            },
        }
    }
}

//! One shell behind a terminal's socket, from `connect` until it is gone: a task of its own, so that whatever the other
//! end does the socket goes on. It has a row in the store, and its ends are in the audit log.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bus::trace;
use store::{Host, NewTerminal, TerminalEnd, TerminalMode, TerminalOpened};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, field::Empty};
use uuid::Uuid;

use super::{
    direct,
    message::{Connect, Mode, Size},
    proxied,
    recorder::Recorder,
    spool::{Item, SpoolWriter},
    who::Who,
};
use crate::App;

/// How long the end of a terminal waits for a store that is away. After that a sweep finds it, once the gateway is gone.
const END_PATIENCE: Duration = Duration::from_secs(120);

/// Something typed, and when it was read.
#[derive(Debug)]
pub struct Typed {
    /// Read from the browser's socket.
    pub at: Instant,
    /// What.
    pub input: Input,
}

/// For the shell.
#[derive(Clone, PartialEq, Eq)]
pub enum Input {
    /// Keystrokes.
    Keys(String),
    /// The window has another size.
    Resize(Size),
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // What is typed may be a password.
        match self {
            Self::Keys(keys) => write!(f, "Keys({} bytes)", keys.len()),
            Self::Resize(size) => write!(f, "{size:?}"),
        }
    }
}

/// Ends a shell, and says why.
#[derive(Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    why: Arc<OnceLock<String>>,
}

impl Stop {
    /// Ends it. The first reason counts.
    pub fn because(&self, why: impl Into<String>) {
        let _ = self.why.set(why.into());
        self.token.cancel();
    }

    /// The reason, if it was ended.
    #[must_use]
    pub fn why(&self) -> Option<String> {
        self.why.get().cloned()
    }

    /// Waits for that.
    pub async fn wait(&self) -> String {
        self.token.cancelled().await;
        self.why.get().cloned().unwrap_or_default()
    }
}

/// How a shell ended.
#[derive(Debug)]
pub struct Ended {
    /// For the row and the audit log.
    pub reason: String,
    /// For the user, if something went wrong.
    pub error: Option<String>,
    /// Its status, where it told one.
    pub exit_status: Option<u32>,
    /// In a word, for metrics.
    pub outcome: &'static str,
}

impl Ended {
    /// Something went wrong.
    pub fn wrong(outcome: &'static str, error: impl Into<String>) -> Self {
        let error = error.into();
        Self { reason: error.clone(), error: Some(error), exit_status: None, outcome }
    }

    /// It ended as it should.
    pub fn well(reason: impl Into<String>, exit_status: Option<u32>) -> Self {
        Self { reason: reason.into(), error: None, exit_status, outcome: "ended" }
    }
}

/// A shell under way.
pub struct Carried {
    /// The gateway.
    pub app: App,
    /// Whose.
    pub who: Arc<Who>,
    /// The host as it is now.
    pub host: Host,
    /// Its row.
    pub id: Uuid,
    /// From the browser.
    pub input: mpsc::Receiver<Typed>,
    /// Ends it.
    pub stop: Stop,
    /// To the browser.
    pub spool: SpoolWriter,
    mode: &'static str,
    began: Instant,
    /// The story of its opening, until it is open.
    opening: Option<Span>,
    connected: bool,
    /// To be recorded once it is open: its window, `TERM` and title.
    record: Option<(Size, String, String)>,
    recorder: Option<Recorder>,
    bytes_in: u64,
    bytes_out: u64,
    shed: u64,
    /// When what has not been answered yet was typed.
    typed_at: Option<Instant>,
}

impl Carried {
    /// One that nothing has happened to.
    #[must_use]
    pub fn new(app: App, who: Arc<Who>, input: mpsc::Receiver<Typed>, stop: Stop, spool: SpoolWriter) -> Self {
        let host = who.host.clone();
        Self {
            app,
            who,
            host,
            id: Uuid::now_v7(),
            input,
            stop,
            spool,
            mode: "direct",
            began: Instant::now(),
            opening: None,
            connected: false,
            record: None,
            recorder: None,
            bytes_in: 0,
            bytes_out: 0,
            shed: 0,
            typed_at: None,
        }
    }

    /// The story that its opening is told in.
    #[must_use]
    pub fn story(&self) -> Span {
        self.opening.clone().unwrap_or_else(Span::none)
    }

    /// Is it open?
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// It is.
    pub async fn opened(&mut self) {
        self.connected = true;
        if let Some((size, terminal, title)) = self.record.take() {
            self.recorder = Some(Recorder::start(&self.app, self.id, size, &terminal, &title));
        }
        self.spool.tell(Item::Connected);
        self.app.metrics.terminal_opened(self.mode, "opened", Some(self.began.elapsed()));
        self.app.metrics.terminals(self.mode, 1);
        if let Some(span) = self.opening.take() {
            span.record("patchbay.outcome", "opened");
        }
        if let Err(error) = self.app.store.terminal_connected(self.id).await {
            tracing::warn!(%error, terminal = %self.id, "that a terminal is open is not stored");
        }
    }

    /// It wrote.
    pub fn output(&mut self, text: &str) {
        self.bytes_out += text.len() as u64;
        self.app.metrics.terminal_bytes(self.mode, "out", text.len() as u64);
        if let Some(at) = self.typed_at.take() {
            self.app.metrics.terminal_echo(self.mode, at.elapsed());
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.output(text);
        }
        self.spool.output(text);
        let shed = self.spool.shed();
        self.count_shed(shed);
    }

    /// So much was left out on the way here.
    pub fn left_out(&mut self, bytes: u64) {
        self.count_shed(bytes);
        self.spool.tell(Item::Shed(bytes));
    }

    fn count_shed(&mut self, bytes: u64) {
        if bytes > 0 {
            self.shed += bytes;
            self.app.metrics.terminal_shed(self.mode, bytes);
        }
    }

    /// This goes to it.
    pub fn typed(&mut self, typed: &Typed) {
        self.app.metrics.terminal_input(self.mode, typed.at.elapsed());
        match &typed.input {
            Input::Keys(keys) => {
                self.bytes_in += keys.len() as u64;
                self.app.metrics.terminal_bytes(self.mode, "in", keys.len() as u64);
                self.typed_at.get_or_insert(typed.at);
            }
            Input::Resize(size) => {
                if let Some(recorder) = &self.recorder {
                    recorder.resize(*size);
                }
            }
        }
    }

    /// Opens the shell that was asked for, carries it, and tells how it ended.
    pub async fn run(mut self, connect: Connect) {
        self.mode = match connect.mode {
            Mode::Direct { .. } => "direct",
            Mode::Proxy { .. } => "proxy",
        };
        let span = tracing::info_span!(
            target: trace::TARGET,
            parent: None,
            "terminal",
            otel.name = "open terminal",
            otel.status_code = Empty,
            patchbay.terminal.id = %self.id,
            patchbay.terminal.mode = self.mode,
            patchbay.outcome = Empty,
        );
        if let Some(parent) = &self.who.trace {
            trace::set_parent(&span, parent);
        }
        self.opening = Some(span.clone());
        let entered = self.enter(&connect).instrument(span).await;
        let (entered, ended) = match entered {
            Ok(legacy) => (true, self.carry(connect, legacy).await),
            Err(ended) => (false, ended),
        };
        self.tell_end(&ended);
        if entered {
            self.store_end(&ended).await;
        }
    }

    /// A place, and a row.
    async fn enter(&mut self, connect: &Connect) -> Result<bool, Ended> {
        // The socket may have been open for long: the host may have another address by now.
        match self.app.store.host(self.who.host.facts.id).await {
            Ok(Some(host)) => self.host = host,
            Ok(None) => return Err(Ended::wrong("gone", "Host not found")),
            Err(error) => {
                tracing::error!(%error, "a terminal was refused");
                return Err(Ended::wrong("store_unavailable", "The store is unavailable, please try again"));
            }
        }
        let (host, settings) = (&self.host, &self.app.settings.terminals);
        let address =
            host.report.as_ref().map(|report| if report.ip.is_empty() { &report.hostname } else { &report.ip });
        let target = connect.target(address.map_or("?", String::as_str));
        let new = NewTerminal {
            id: self.id,
            host_id: host.facts.id,
            user_id: self.who.user_id,
            username: self.who.username.clone(),
            address: self.who.address.to_string(),
            gateway_id: self.app.gateway_id,
            mode: match connect.mode {
                Mode::Direct { .. } => TerminalMode::Direct,
                Mode::Proxy { .. } => TerminalMode::Proxy,
            },
            target: target.clone(),
            record: settings.record,
        };
        match self.app.store.open_terminal(&new, &settings.limits).await {
            Ok(TerminalOpened::Opened { record, legacy_algorithms }) => {
                let title = format!("{target} ({})", host.name);
                self.record = record.then(|| (connect.size, connect.terminal.clone(), title));
                Ok(legacy_algorithms)
            }
            Ok(TerminalOpened::UserFull(n)) => {
                Err(Ended::wrong("limit", format!("You have {n} terminals open already, which is as many as you may")))
            }
            Ok(TerminalOpened::HostFull(n)) => Err(Ended::wrong(
                "limit",
                format!("This host has {n} terminals open already, which is as many as it may"),
            )),
            Ok(TerminalOpened::OldAgentFull(n)) => Err(Ended::wrong(
                "limit",
                format!(
                    "{n} open already: an agent before 2.0 does not survive more terminals at once. Connect directly, or end the other"
                ),
            )),
            Err(store::StoreError::Gone) => Err(Ended::wrong("gone", "Host not found")),
            Err(error) => {
                tracing::error!(%error, "a terminal was refused");
                Err(Ended::wrong("store_unavailable", "The store is unavailable, please try again"))
            }
        }
    }

    async fn carry(&mut self, connect: Connect, legacy: bool) -> Ended {
        tracing::info!(
            terminal = %self.id, user = self.who.username, host = self.who.host.name, client = %self.who.address,
            mode = self.mode, "a terminal is opened"
        );
        match connect.mode.clone() {
            Mode::Direct { port } => direct::carry(self, &connect, port, legacy).await,
            Mode::Proxy { host, port } => proxied::carry(self, connect, host, port).await,
        }
    }

    fn tell_end(&mut self, ended: &Ended) {
        if let Some(span) = self.opening.take() {
            span.record("patchbay.outcome", ended.outcome);
            if ended.error.is_some() {
                span.record("otel.status_code", "ERROR");
            }
        }
        if let Some(error) = &ended.error {
            self.spool.tell(Item::Error(error.clone()));
        }
        if self.connected {
            self.app.metrics.terminals(self.mode, -1);
            self.spool.tell(Item::Closed(ended.exit_status));
        } else {
            self.app.metrics.terminal_opened(self.mode, ended.outcome, None);
            // Nothing that was open closes; the socket may ask again all the same.
            self.spool.tell(if ended.error.is_some() { Item::Failed } else { Item::Closed(None) });
        }
    }

    async fn store_end(&mut self, ended: &Ended) {
        // The recording ends before its row does.
        self.recorder = None;
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let end = TerminalEnd {
            reason: ended.reason.chars().take(500).collect(),
            bytes_in: count(self.bytes_in),
            bytes_out: count(self.bytes_out),
            shed: count(self.shed),
            exit_status: ended.exit_status.map(i64::from),
        };
        let span = tracing::info_span!(
            target: trace::TARGET,
            parent: None,
            "terminal",
            otel.name = "close terminal",
            patchbay.terminal.id = %self.id,
            patchbay.terminal.mode = self.mode,
            patchbay.outcome = ended.outcome,
        );
        if let Some(parent) = &self.who.trace {
            trace::set_parent(&span, parent);
        }
        tracing::info!(
            terminal = %self.id, user = self.who.username, host = self.who.host.name, mode = self.mode,
            seconds = self.began.elapsed().as_secs(), bytes_in = end.bytes_in, bytes_out = end.bytes_out,
            shed = end.shed, reason = end.reason, "a terminal is closed"
        );
        let storing = async {
            let give_up = Instant::now() + END_PATIENCE;
            while let Err(error) = self.app.store.end_terminal(self.id, &end).await {
                if Instant::now() >= give_up || self.app.stopping.is_cancelled() {
                    tracing::error!(%error, terminal = %self.id, "the end of a terminal is not stored");
                    return;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        storing.instrument(span).await;
    }
}

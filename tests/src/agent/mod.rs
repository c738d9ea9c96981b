//! One scripted host: a machine with an agent on it, and the handle by which a test plays with it.

mod connection;
mod host;
mod http;
mod process;
mod report;
mod results;
mod scan;
mod service;
mod shell;
#[cfg(test)]
mod terminal_tests;
mod terminals;
#[cfg(test)]
mod tests;
mod ticks;

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_util::sync::CancellationToken;

pub use host::ComplianceMode;

use crate::{
    credentials::Credentials,
    generation::Generation,
    log::FrameLog,
    misbehaviour::{Hangup, Misbehaviour},
    server::Server,
    timing::Timing,
};
use host::Host;

/// Orders that a test can have under way for one agent.
const CONTROL_DEPTH: usize = 8;

/// Everything about one agent.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Who it is.
    pub credentials: Credentials,
    /// How it behaves.
    pub generation: Generation,
    /// How fast.
    pub timing: Arc<Timing>,
    /// What it does wrong.
    pub misbehaviour: Option<Misbehaviour>,
    /// What it does at its start.
    pub start: Start,
    /// Where it dials from; None leaves it to the system.
    pub source: Option<Ipv4Addr>,
    /// `compliance` of its config.yml at the first start.
    pub compliance: ComplianceMode,
    /// `docker` of its config.yml at the first start.
    pub docker: bool,
    /// Whether Docker Bench can run.
    pub docker_bench: bool,
    /// `ssh-proxy-enabled` of its config.yml.
    pub ssh_proxy: bool,
    /// Packages in a report instead of the recorded ones ([`crate::recording::packages`]).
    pub packages: Option<Arc<RawValue>>,
    /// Leaves the connection of the last HTTP call open, as real agents do.
    pub keep_http_open: bool,
}

/// What an agent does at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// All of protocol 3: three calls, the socket, integration status, a report, the version check.
    Full,
    /// The socket only, for loads.
    Quiet,
}

impl AgentConfig {
    /// A well-behaved agent with recorded times and a full start.
    pub fn new(credentials: Credentials, generation: Generation) -> Self {
        Self {
            credentials,
            generation,
            timing: Arc::new(Timing::real(generation)),
            misbehaviour: None,
            start: Start::Full,
            source: None,
            compliance: ComplianceMode::OnDemand,
            docker: false,
            docker_bench: false,
            ssh_proxy: false,
            packages: None,
            keep_http_open: false,
        }
    }

    /// The same with short times ([`Timing::fast`]).
    pub fn fast(credentials: Credentials, generation: Generation) -> Self {
        Self { timing: Arc::new(Timing::fast(generation)), ..Self::new(credentials, generation) }
    }
}

/// What a test asks of an agent.
#[derive(Debug)]
enum Control {
    HangUp(Hangup),
    Restart,
    PowerOff,
    PowerOn,
    PauseReading(Duration),
    SendText(String),
    SendFrame(Box<Frame>),
}

/// A running agent. Dropping it stops it.
#[derive(Debug)]
pub struct Agent {
    host: Arc<Host>,
    control: mpsc::Sender<Control>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Agent {
    /// Starts an agent of its own.
    pub fn start(config: AgentConfig, server: &Arc<Server>, log: &FrameLog) -> Self {
        Self::start_after(Duration::ZERO, config, server, log)
    }

    /// Starts one whose machine is switched on after `delay`.
    pub(crate) fn start_after(delay: Duration, config: AgentConfig, server: &Arc<Server>, log: &FrameLog) -> Self {
        let (control, orders) = mpsc::channel(CONTROL_DEPTH);
        let stop = CancellationToken::new();
        let host = Arc::new(Host::new(config, server.clone(), log.clone(), control.clone()));
        let task = tokio::spawn(process::live(host.clone(), orders, stop.clone(), delay));
        Self { host, control, stop, task: Some(task) }
    }

    /// The host's name on the wire.
    pub fn api_id(&self) -> &str {
        &self.host.config.credentials.api_id
    }

    /// Its identity.
    pub fn credentials(&self) -> &Credentials {
        &self.host.config.credentials
    }

    /// Loses the socket; the process lives on and dials again by its back-off table.
    pub async fn hang_up(&self, how: Hangup) {
        self.order(Control::HangUp(how)).await;
    }

    /// Ends the process, as by SIGKILL: no close frame, scans and calls in flight die. It is back after
    /// [`Timing::restart`].
    pub async fn restart(&self) {
        self.order(Control::Restart).await;
    }

    /// Ends the process until [`Agent::power_on`].
    pub async fn power_off(&self) {
        self.order(Control::PowerOff).await;
    }

    /// Starts it again.
    pub async fn power_on(&self) {
        self.order(Control::PowerOn).await;
    }

    /// Reads nothing from the socket for this long.
    pub async fn pause_reading(&self, pause: Duration) {
        self.order(Control::PauseReading(pause)).await;
    }

    /// Sends a message of the test's own.
    pub async fn send_text(&self, text: &str) {
        self.order(Control::SendText(text.to_owned())).await;
    }

    /// Sends a frame of the test's own, for breaking rules.
    pub async fn send_frame(&self, frame: Frame) {
        self.order(Control::SendFrame(Box::new(frame))).await;
    }

    /// Changes the bad habit, from the next message on.
    pub fn misbehave(&self, habit: Option<Misbehaviour>) {
        self.host.state.lock().misbehaviour = habit;
    }

    /// Minutes between two reports, as the agent has it in its config.yml.
    pub fn update_interval(&self) -> i64 {
        self.host.state.lock().update_interval
    }

    async fn order(&self, order: Control) {
        // Fails only when the agent has been stopped, and then there is nobody to obey.
        let _ = self.control.send(order).await;
    }

    pub(crate) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Ends it for good and waits until it is gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

//! The agent's start, and its service loop: what it does for each message (protocol 1.3), one after the other.

use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::mpsc;

use super::{
    host::ComplianceMode,
    http::{Body, Call},
    process::Process,
    scan, terminals,
    ticks::Ticks,
};
use crate::{
    generation::Generation,
    log::What,
    message::{self, Inbound},
};

/// A message on its way to the server.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: String,
    pub(super) phase: Option<String>,
    pub(super) text: String,
}

impl Message {
    /// A text that nobody has looked into.
    pub(super) fn plain(text: String) -> Self {
        Self { kind: message::kind_for_log(text.as_bytes()), phase: None, text }
    }
}

/// The three calls before the first upgrade. Each one's failure is logged on the host, and no more (protocol 3).
pub(super) async fn start_up(process: &Arc<Process>) {
    #[derive(Deserialize)]
    struct Interval {
        #[serde(rename = "updateInterval")]
        update_interval: i64,
    }
    #[derive(Deserialize)]
    struct Integrations {
        success: bool,
        integrations: Enabled,
    }
    #[derive(Deserialize)]
    struct Enabled {
        docker: Option<bool>,
        compliance: Option<bool>,
    }
    let host = &process.host;
    let get = |path| Call { method: "GET", path, query: "", body: Body::None };
    let conn = host.connection();
    let interval = host.http.call(conn, get("settings/update-interval")).await;
    if let Some(Interval { update_interval }) = interval.and_then(|answer| answer.json())
        && update_interval > 0
    {
        host.state.lock().update_interval = update_interval;
    }
    let integrations = host.http.call(conn, get("hosts/integrations")).await;
    if let Some(Integrations { success: true, integrations }) = integrations.and_then(|answer| answer.json()) {
        let mut state = host.state.lock();
        state.docker = integrations.docker.unwrap_or(state.docker);
        state.compliance = state.compliance.told(integrations.compliance);
    }
    let ping = Call { method: "POST", path: "hosts/ping", query: "", body: Body::Empty };
    host.http.call(conn, ping).await;
}

/// The report of the start, beside the service loop (protocol 3).
pub(super) async fn first_report(process: Arc<Process>) {
    process.report().await;
    if process.host.config.generation == Generation::V2 {
        tokio::time::sleep(process.host.config.timing.first_scheduled_scan).await;
        process.scheduled_scan().await;
    }
}

/// What the first upgrade of a process brings (protocol 3).
pub(super) async fn first_status(process: Arc<Process>) {
    tokio::time::sleep(process.host.config.timing.first_status).await;
    process.integration_status().await;
}

/// The loop: messages and ticks in turn, reports inline (protocol 6-3).
pub(super) async fn serve(process: Arc<Process>, mut messages: mpsc::Receiver<Box<Inbound>>) {
    let api_id = process.host.config.credentials.api_id.as_str();
    let minute = process.host.config.timing.minute;
    let start_ticks = || Ticks::start(api_id, process.host.state.lock().update_interval, minute);
    let mut ticks = start_ticks();
    let mut tick: u32 = 0;
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { return };
                if message.kind() == "settings_update" {
                    if apply_settings(&process, &message) {
                        ticks = start_ticks();
                    }
                } else {
                    act(&process, *message).await;
                }
            }
            () = ticks.next() => {
                tick += 1;
                Box::pin(process.tick(tick)).await;
            }
        }
    }
}

/// True when the interval changed: the ticker starts anew, and no report is sent.
fn apply_settings(process: &Process, message: &Inbound) -> bool {
    let mut state = process.host.state.lock();
    match message.update_interval {
        Some(minutes) if minutes > 0 && minutes != state.update_interval => {
            state.update_interval = minutes;
            true
        }
        _ => false,
    }
}

async fn act(process: &Arc<Process>, message: Inbound) {
    let generation = process.host.config.generation;
    match message.kind() {
        "report_now" => Box::pin(process.report()).await,
        "refresh_integration_status" => {
            let refreshed = process.clone();
            process.spawn(async move { refreshed.integration_status().await });
        }
        "compliance_scan" if message.profile_id.as_deref().is_none_or(message::is_id) => {
            process.spawn(scan::on_demand(process.clone(), message));
        }
        "compliance_scan_cancel" => process.scans.lock().cancel(),
        "set_compliance_mode" if generation == Generation::V1 => {
            let mode = match message.mode.as_deref() {
                Some("disabled") => ComplianceMode::Disabled,
                Some("on-demand") => ComplianceMode::OnDemand,
                Some("enabled") => ComplianceMode::Enabled,
                _ => return,
            };
            process.host.state.lock().compliance = mode;
        }
        "ssh_proxy" => terminals::open(process, message).await,
        "ssh_proxy_input" | "ssh_proxy_resize" | "ssh_proxy_disconnect" => terminals::tell(process, message).await,
        // The rest is read and does nothing visible on these hosts.
        _ => {}
    }
}

impl Process {
    /// Whether a call was answered with 200.
    pub(super) async fn post(&self, path: &str, body: &str) -> bool {
        let call = Call { method: "POST", path, query: "", body: Body::Json(body) };
        let conn = self.host.connection();
        self.host.http.call(conn, call).await.is_some_and(|answer| answer.is_success())
    }

    pub(super) fn record(&self, what: What) {
        self.host.record(what);
    }
}

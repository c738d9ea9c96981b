//! Compliance scans: phases over the socket, the result over HTTP (protocol 1.4, 3).

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Control,
    host::ComplianceMode,
    http::{Body, Call},
    process::Process,
    results::{Results, Scanners},
    service::Message,
};
use crate::{
    generation::Generation,
    log::{ScanOutcome, What},
    message::{self, Inbound, ScanProgress},
    misbehaviour::{Hangup, Misbehaviour},
    recording::bodies,
};

/// The words of a scan that a cancel ended.
const CANCELLED: &str = "scan cancelled or timed out: context canceled";

/// The scans of one process.
#[derive(Debug, Default)]
pub(super) struct Scans {
    running: watch::Sender<u32>,
    /// The one started last, until any of them ends (protocol 1.3): after that a cancel finds none.
    latest: Option<CancellationToken>,
}

impl Scans {
    pub(super) fn cancel(&self) {
        if let Some(latest) = &self.latest {
            latest.cancel();
        }
    }
}

/// A scan that the server asked for.
pub(super) async fn on_demand(process: Arc<Process>, request: Inbound) {
    let profile = request.profile_id.as_deref().unwrap_or("default");
    let generation = process.host.config.generation;
    let mode = process.host.state.lock().compliance;
    if generation == Generation::V2 {
        if mode == ComplianceMode::Disabled {
            process.progress(ScanProgress {
                message: "Compliance scanning is disabled",
                error: "compliance integration is not enabled",
                ..ScanProgress::new("failed", profile)
            });
            return;
        }
        process.wait_for_another_scan().await;
    }
    let mut scan = Running::begin(&process, profile);
    scan.outcome = Box::pin(scan.run(&request)).await;
}

/// One scan; records its end also when the process dies in its middle.
struct Running<'a> {
    process: &'a Arc<Process>,
    profile: &'a str,
    cancel: CancellationToken,
    outcome: ScanOutcome,
}

impl<'a> Running<'a> {
    fn begin(process: &'a Arc<Process>, profile: &'a str) -> Self {
        let cancel = CancellationToken::new();
        {
            let mut scans = process.scans.lock();
            scans.latest = Some(cancel.clone());
            scans.running.send_modify(|running| *running += 1);
        }
        process.record(What::ScanStarted { profile: profile.to_owned() });
        Self { process, profile, cancel, outcome: ScanOutcome::Killed }
    }

    async fn run(&self, request: &Inbound) -> ScanOutcome {
        let process = self.process;
        self.phase("started");
        sleep(process.host.config.timing.scan_setup).await;
        self.phase("evaluating");
        let began = OffsetDateTime::now_utc();
        let scanners = Scanners::chosen(request, process.host.config.docker_bench);
        let error = match self.refusal() {
            Some(error) => Some(error),
            None if scanners == Scanners::default() => None,
            None => self.evaluate().await,
        };
        self.phase("parsing");
        if scanners == Scanners::default() {
            self.phase("completed");
            return ScanOutcome::NoResult;
        }
        self.phase("sending");
        let results = Results { scanners, profile_id: request.profile_id.as_deref(), began, error: error.as_deref() };
        let (body, score) = process.scans_body(&results);
        self.upload(&body, score, error.as_deref()).await
    }

    /// A scan that fails before it ran.
    fn refusal(&self) -> Option<String> {
        let known = &bodies(self.process.host.config.generation).profiles;
        let named = !matches!(self.profile, "default" | "docker-bench");
        if named && !known.iter().any(|profile| profile == self.profile) {
            return Some(format!("profile {} not available for debian", self.profile));
        }
        let habit = self.process.host.state.lock().misbehaviour;
        (habit == Some(Misbehaviour::ScanFails)).then(|| {
            self.process.host.misbehaved(Misbehaviour::ScanFails);
            "failed to run oscap: exit status 1".to_owned()
        })
    }

    /// The scanner's time. Says why when it did not come to its end.
    async fn evaluate(&self) -> Option<String> {
        let half = self.process.host.config.timing.scan / 2;
        let run = async {
            sleep(half).await;
            self.process.misbehave_mid_scan().await;
            sleep(half).await;
        };
        tokio::select! {
            () = self.cancel.cancelled() => Some(CANCELLED.to_owned()),
            () = run => None,
        }
    }

    /// Posts the result. `completed` says only that it was taken, whatever is in it (protocol 1.4).
    async fn upload(&self, body: &str, score: f64, error: Option<&str>) -> ScanOutcome {
        let call = Call { method: "POST", path: "compliance/scans", query: "", body: Body::Json(body) };
        let host = &self.process.host;
        let reason = match host.http.call(host.connection(), call).await {
            Some(answer) if answer.is_success() => {
                self.process.progress(ScanProgress {
                    message: &format!("Scan completed! Score: {score:.1}%"),
                    ..ScanProgress::new("completed", self.profile)
                });
                return match error {
                    None => ScanOutcome::Succeeded,
                    Some(CANCELLED) => ScanOutcome::Cancelled,
                    Some(_) => ScanOutcome::Failed,
                };
            }
            Some(answer) => format!(
                "compliance data request failed with status {}: {}",
                answer.status,
                String::from_utf8_lossy(&answer.body)
            ),
            None => "compliance data request failed: connection refused".to_owned(),
        };
        self.process.progress(ScanProgress { error: &reason, ..ScanProgress::new("failed", self.profile) });
        ScanOutcome::NotAccepted
    }

    fn phase(&self, phase: &str) {
        self.process.progress(ScanProgress::new(phase, self.profile));
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        {
            let mut scans = self.process.scans.lock();
            scans.latest = None;
            scans.running.send_modify(|running| *running -= 1);
        }
        self.process.record(What::ScanEnded { profile: self.profile.to_owned(), outcome: self.outcome });
    }
}

impl Process {
    fn progress(&self, progress: ScanProgress<'_>) {
        if let Ok(text) = message::encode(&progress) {
            self.send(Message { kind: progress.kind.to_owned(), phase: Some(progress.phase.to_owned()), text });
        }
    }

    /// 2.1: a second scan waits for the first, silently, and then runs beside it (protocol 1.3).
    async fn wait_for_another_scan(&self) {
        let mut running = self.scans.lock().running.subscribe();
        let limit = self.host.config.timing.scan_queue;
        let _ = tokio::time::timeout(limit, running.wait_for(|running| *running == 0)).await;
    }

    async fn misbehave_mid_scan(&self) {
        let (habit, order) = {
            let mut state = self.host.state.lock();
            let (habit, order) = match state.misbehaviour {
                Some(habit @ Misbehaviour::DropMidScan) => (habit, Control::HangUp(Hangup::Fin)),
                Some(habit @ Misbehaviour::RestartMidScan) => (habit, Control::Restart),
                _ => return,
            };
            if std::mem::replace(&mut state.mid_scan_done, true) {
                return;
            }
            (habit, order)
        };
        self.host.misbehaved(habit);
        let _ = self.host.control.send(order).await;
    }

    /// Scans by schedule send no phases, only their result (compliance-enabled-start).
    pub(super) async fn scheduled_scan(&self) {
        if self.host.state.lock().compliance != ComplianceMode::Enabled {
            return;
        }
        let began = OffsetDateTime::now_utc();
        sleep(self.host.config.timing.scan).await;
        let (body, _) = self.scans_body(&Results {
            scanners: Scanners { openscap: true, docker_bench: self.host.config.docker_bench },
            profile_id: None,
            began,
            error: None,
        });
        self.post("compliance/scans", &body).await;
    }
}

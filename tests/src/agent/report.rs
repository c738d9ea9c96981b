//! Reports, ticks and integration status: the bodies of the recordings with this host's name in them (protocol 3).

use serde::Deserialize;
use tokio::time::sleep;

use super::{
    host::ComplianceMode,
    http::{Body, Call},
    process::Process,
};
use crate::{
    generation::Generation,
    log::What,
    message,
    recording::{Ordered, bodies},
};

const DOCKER_STATUS: &str =
    r#"{"integration":"docker","enabled":true,"status":"ready","message":"Docker monitoring ready"}"#;

/// Every so many ticks of a 2.1 agent make a full report (protocol 3).
const FULL_TICK: u32 = 24;

/// What the answer to a tick's ping asks for.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Gate {
    #[serde(rename = "hashGate")]
    hash_gate: bool,
    #[serde(rename = "requestFull")]
    request_full: Vec<String>,
}

/// What a tick sends after its ping.
#[derive(Debug, PartialEq)]
enum Update {
    Full,
    Sections(Vec<String>),
    Nothing,
}

impl Gate {
    fn update(self, tick: u32) -> Update {
        match self {
            _ if tick.is_multiple_of(FULL_TICK) => Update::Full,
            Self { hash_gate: false, .. } => Update::Full,
            Self { request_full, .. } if request_full.is_empty() => Update::Nothing,
            Self { request_full, .. } => Update::Sections(request_full),
        }
    }
}

impl Process {
    /// Collects, posts, and looks for a new version.
    pub(super) async fn report(&self) {
        sleep(self.host.config.timing.collect).await;
        self.post_update(Update::Full).await;
    }

    /// A periodic report: 1.4 reports in full, 2.1 pings with hashes first.
    pub(super) async fn tick(&self, number: u32) {
        if self.host.config.generation == Generation::V1 {
            return self.report().await;
        }
        sleep(self.host.config.timing.collect).await;
        let body = message::encode(&bodies(Generation::V2).tick_ping).unwrap_or_default();
        let ping = Call { method: "POST", path: "hosts/ping", query: "", body: Body::Json(&body) };
        let answer = self.host.http.call(self.host.connection(), ping).await;
        let gate: Gate = answer.and_then(|answer| answer.json()).unwrap_or_default();
        self.post_update(gate.update(number)).await;
    }

    async fn post_update(&self, update: Update) {
        if update != Update::Nothing {
            let body = self.update_body(&update);
            if !self.post("hosts/update", &body).await {
                // A report that was not taken leaves out the rest (protocol 3).
                return;
            }
            self.record(What::Reported);
            sleep(self.host.config.timing.after_report).await;
        }
        self.check_version().await;
        if self.host.config.generation == Generation::V1 {
            self.scheduled_scan().await;
        }
    }

    async fn check_version(&self) {
        let query =
            format!("arch=amd64&os=linux&type=go&currentVersion={}", self.host.config.generation.agent_version());
        let call = Call { method: "GET", path: "hosts/agent/version", query: &query, body: Body::None };
        self.host.http.call(self.host.connection(), call).await;
    }

    fn update_body(&self, update: &Update) -> String {
        let config = &self.host.config;
        let recorded = bodies(config.generation);
        let mut body = match update {
            Update::Sections(sections) => {
                // Every field outside its sections is zero there (protocol 3), hostname and ip too.
                let mut body = recorded.partial_update.clone();
                body.set("sections", sections);
                body
            }
            Update::Full | Update::Nothing => {
                let mut body = recorded.update.clone();
                body.set("hostname", &config.credentials.name);
                body.set("ip", &self.host.ip());
                body
            }
        };
        if let Some(packages) = &config.packages {
            body.set("packages", &**packages);
        }
        body.set("machineId", &self.host.machine_id());
        encode(&body)
    }

    /// One POST for each enabled integration.
    pub(super) async fn integration_status(&self) {
        let (docker, compliance) = {
            let state = self.host.state.lock();
            (state.docker, state.compliance != ComplianceMode::Disabled)
        };
        if docker {
            self.post("hosts/integration-status", DOCKER_STATUS).await;
        }
        if compliance {
            sleep(self.host.config.timing.status_check).await;
            let body = encode(&bodies(self.host.config.generation).compliance_status);
            self.post("hosts/integration-status", &body).await;
        }
    }
}

/// The recorded pieces are escaped already, and escaping changes nothing that was.
fn encode(body: &Ordered) -> String {
    message::encode(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_tick_decides_what_is_sent() {
        let gate = |text: &str| serde_json::from_str::<Gate>(text).unwrap();
        // tick: without hashGate full, with a list partial, with an empty list nothing.
        assert_eq!(gate(r#"{"message":"x"}"#).update(1), Update::Full);
        assert_eq!(
            gate(r#"{"hashGate":true,"requestFull":["packages"]}"#).update(2),
            Update::Sections(vec!["packages".into()])
        );
        assert_eq!(gate(r#"{"hashGate":true,"requestFull":[]}"#).update(3), Update::Nothing);
        assert_eq!(gate(r#"{"hashGate":true,"requestFull":[]}"#).update(24), Update::Full);
    }
}

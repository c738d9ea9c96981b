//! `refresh_integration_status`: each enabled integration tells its state (protocol 1.3). Proved by
//! `POST hosts/integration-status`; a host without any has nothing to tell.

use std::time::Duration;

use schemas::{Generation, agent::ServerFrame};
use serde_json::Value;

use super::{KindSpec, PayloadError, Prepared, no_fields, report_silence};
use crate::{
    command::{Command, ComplianceMode, HostFacts},
    deed::{Deed, Sign},
};

pub(super) struct RefreshIntegrationStatus;

impl KindSpec for RefreshIntegrationStatus {
    fn name(&self) -> &'static str {
        "refresh_integration_status"
    }

    fn check(&self, payload: &Value) -> Result<Value, PayloadError> {
        no_fields(payload, self.name())
    }

    fn prepare(&self, _payload: &Value, host: &HostFacts) -> Prepared {
        if host.docker_enabled || host.compliance_mode != ComplianceMode::Disabled {
            Prepared::Frame(ServerFrame::RefreshIntegrationStatus)
        } else {
            Prepared::Nothing("nothing to report: no integration is enabled")
        }
    }

    fn repeatable(&self, _payload: &Value) -> bool {
        true
    }

    fn paced(&self) -> bool {
        true
    }

    fn silence(&self, generation: Generation) -> Duration {
        report_silence(generation)
    }

    fn sign(&self, _command: &Command, deed: &Deed) -> Sign {
        match deed {
            Deed::IntegrationStatus { integration, status } => Sign::Done(format!("{integration} is {status}")),
            _ => Sign::None,
        }
    }
}

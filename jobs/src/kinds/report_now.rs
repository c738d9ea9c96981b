//! `report_now`: a full report (protocol 1.3). Proved by `POST hosts/update`.

use std::time::Duration;

use schemas::{Generation, agent::ServerFrame};
use serde_json::Value;

use super::{KindSpec, PayloadError, Prepared, no_fields, report_silence};
use crate::{
    command::{Command, HostFacts},
    deed::{Deed, Sign},
};

pub(super) struct ReportNow;

impl KindSpec for ReportNow {
    fn name(&self) -> &'static str {
        "report_now"
    }

    fn check(&self, payload: &Value) -> Result<Value, PayloadError> {
        no_fields(payload, self.name())
    }

    fn prepare(&self, _payload: &Value, _host: &HostFacts) -> Prepared {
        Prepared::Frame(ServerFrame::ReportNow)
    }

    fn repeatable(&self, _payload: &Value) -> bool {
        true
    }

    fn paced(&self) -> bool {
        true
    }

    fn quiet(&self) -> bool {
        true
    }

    fn silence(&self, generation: Generation) -> Duration {
        report_silence(generation)
    }

    fn sign(&self, _command: &Command, deed: &Deed) -> Sign {
        match deed {
            Deed::Report => Sign::Done("report stored".to_owned()),
            _ => Sign::None,
        }
    }
}

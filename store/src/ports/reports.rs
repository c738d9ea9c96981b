//! What agents post. Each is stored together with what it means to the host's commands, in one transaction.

use async_trait::async_trait;
use jobs::Deed;
use schemas::report::ReportSummary;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::commands::Applied;
use crate::StoreError;

/// A report: `POST hosts/update`.
#[derive(Debug, Clone)]
pub struct ReportBody {
    /// As it came.
    pub body: Map<String, Value>,
    /// What the host's row keeps; its `sections` say whether the report is partial.
    pub summary: ReportSummary,
}

/// State of one integration: `POST hosts/integration-status`.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredStatus {
    /// `docker`, `compliance`.
    pub integration: String,
    /// As it came.
    pub body: Value,
    /// When.
    pub received_at: i64,
}

/// One result of `POST compliance/scans`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScanRow {
    /// The row.
    pub id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// `openscap`, `docker-bench`.
    pub profile_type: String,
    /// The profile.
    pub profile_name: String,
    /// `completed`, `failed`, `in_progress`.
    pub status: String,
    /// Percent.
    pub score: Option<f64>,
    /// The whole result as it came, with its rules.
    pub body: Value,
    /// When it was stored.
    pub received_at: i64,
}

/// The port.
#[async_trait]
pub trait Reports: Send + Sync {
    /// Stores the latest report (a partial one is laid over it) and the host's summary. Answers packages, updates,
    /// security updates as stored now, and the commands that moved.
    async fn save_report(&self, host_id: Uuid, report: ReportBody) -> Result<([i64; 3], Vec<Applied>), StoreError>;

    /// The latest report as stored.
    async fn report(&self, host_id: Uuid) -> Result<Option<Value>, StoreError>;

    /// Stores an integration's state.
    async fn save_integration_status(
        &self,
        host_id: Uuid,
        integration: &str,
        body: &Value,
        deed: &Deed,
    ) -> Result<Vec<Applied>, StoreError>;

    /// The stored states.
    async fn integration_status(&self, host_id: Uuid) -> Result<Vec<StoredStatus>, StoreError>;

    /// Stores scan results. What is stored already is a post made again, and moves nothing.
    async fn save_scans(&self, host_id: Uuid, scans: &[Value], deed: &Deed) -> Result<Vec<Applied>, StoreError>;

    /// The newest results of a host.
    async fn scans(&self, host_id: Uuid, limit: u32) -> Result<Vec<ScanRow>, StoreError>;
}

//! What agents post, stored with what it means to the host's commands.

use async_trait::async_trait;
use jobs::Deed;
use schemas::report::{PackageFlags, merge_partial};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{
    Conn, Engine, SqlStore,
    commands::observe,
    statement::{get, get_uuid, sql},
};
use crate::{Applied, ReportBody, Reports, ScanRow, StoreError, StoredStatus};

/// Results kept a host; older ones go when a new one comes.
const SCANS_KEPT: i64 = 50;

#[async_trait]
impl<E: Engine> Reports for SqlStore<E> {
    async fn save_report(&self, host_id: Uuid, report: ReportBody) -> Result<([i64; 3], Vec<Applied>), StoreError> {
        // A whole report is made ready before anybody waits for the writer.
        let whole = report.summary.sections.is_empty().then(|| Ready::new(&report.body)).transpose()?;
        let mut work = self.work().await?;
        work.lock([&host_id]).await?;
        let ready = match whole {
            Some(ready) => ready,
            None => {
                let stored = stored_report(&mut work.tx, host_id).await?.unwrap_or_default();
                Ready::new(&merge_partial(stored, report.body, &report.summary.sections))?
            }
        };
        work.tx
            .run(
                sql("INSERT INTO host_reports (host_id, body, received_at) VALUES ($1, $2, $3) \
             ON CONFLICT (host_id) DO UPDATE SET body = excluded.body, received_at = excluded.received_at")
                .bind(host_id.to_string())
                .bind(&ready.text)
                .bind(work.now),
            )
            .await?;
        summarise(&mut work.tx, host_id, &ready, work.now).await?;
        let moved = observe(&mut work, host_id, &[Deed::Report]).await?;
        self.finish(work).await?;
        Ok((ready.counts, moved))
    }

    async fn report(&self, host_id: Uuid) -> Result<Option<Value>, StoreError> {
        let mut reader = self.reader().await?;
        Ok(stored_report(&mut reader, host_id).await?.map(Value::Object))
    }

    async fn save_integration_status(
        &self,
        host_id: Uuid,
        integration: &str,
        body: &Value,
        deed: &Deed,
    ) -> Result<Vec<Applied>, StoreError> {
        let mut work = self.work().await?;
        work.lock([&host_id]).await?;
        work.tx
            .run(
                sql(
                    "INSERT INTO integration_status (host_id, integration, body, received_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (host_id, integration) DO UPDATE SET body = excluded.body, received_at = excluded.received_at",
                )
                .bind(host_id.to_string())
                .bind(integration)
                .bind(body.to_string())
                .bind(work.now),
            )
            .await?;
        let moved = observe(&mut work, host_id, std::slice::from_ref(deed)).await?;
        self.finish(work).await?;
        Ok(moved)
    }

    async fn integration_status(&self, host_id: Uuid) -> Result<Vec<StoredStatus>, StoreError> {
        self.reader().await?.all(sql(
            "SELECT integration, body, received_at FROM integration_status WHERE host_id = $1 ORDER BY integration",
        ).bind(host_id.to_string())).await?
        .iter()
        .map(|row| {
            Ok(StoredStatus {
                integration: get(row, "integration")?,
                body: value(get(row, "body")?)?,
                received_at: get(row, "received_at")?,
            })
        })
        .collect()
    }

    async fn save_scans(&self, host_id: Uuid, scans: &[Value], deed: &Deed) -> Result<Vec<Applied>, StoreError> {
        let mut work = self.work().await?;
        work.lock([&host_id]).await?;
        if are_stored(&mut work.tx, host_id, scans).await? {
            return Ok(Vec::new());
        }
        let text = |scan: &Value, field: &str| scan.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        for scan in scans {
            work.tx.run(sql(
                "INSERT INTO compliance_scans (id, host_id, profile_type, profile_name, status, score, body, received_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            ).bind(Uuid::now_v7().to_string()).bind(host_id.to_string()).bind(text(scan, "profile_type")).bind(text(scan, "profile_name")).bind(text(scan, "status")).bind(scan.get("score").and_then(Value::as_f64)).bind(scan.to_string()).bind(work.now)).await?;
        }
        work.tx
            .run(
                sql("DELETE FROM compliance_scans WHERE host_id = $1 AND id NOT IN \
             (SELECT id FROM compliance_scans WHERE host_id = $1 ORDER BY id DESC LIMIT $2)")
                .bind(host_id.to_string())
                .bind(SCANS_KEPT),
            )
            .await?;
        let moved = observe(&mut work, host_id, std::slice::from_ref(deed)).await?;
        self.finish(work).await?;
        Ok(moved)
    }

    async fn scans(&self, host_id: Uuid, limit: u32) -> Result<Vec<ScanRow>, StoreError> {
        self.reader()
            .await?
            .all(
                sql("SELECT * FROM compliance_scans WHERE host_id = $1 ORDER BY id DESC LIMIT $2")
                    .bind(host_id.to_string())
                    .bind(limit),
            )
            .await?
            .iter()
            .map(|row| {
                Ok(ScanRow {
                    id: get_uuid(row, "id")?,
                    host_id,
                    profile_type: get(row, "profile_type")?,
                    profile_name: get(row, "profile_name")?,
                    status: get(row, "status")?,
                    score: get(row, "score")?,
                    body: value(get(row, "body")?)?,
                    received_at: get(row, "received_at")?,
                })
            })
            .collect()
    }
}

/// A post whose answer got lost is made again (protocol 6-10). It has done what it does, and the host may be about the next
/// scan by now.
async fn are_stored<C: Conn>(tx: &mut C, host_id: Uuid, scans: &[Value]) -> Result<bool, StoreError> {
    for scan in scans {
        // Only a body of the same size is read.
        let body = scan.to_string();
        let stored = tx.optional(sql(
            "SELECT 1 FROM compliance_scans WHERE host_id = $1 AND octet_length(body) = $2 AND body = $3 LIMIT 1",
        ).bind(host_id.to_string()).bind(i64::try_from(body.len()).unwrap_or(i64::MAX)).bind(body)).await?;
        if stored.is_none() {
            return Ok(false);
        }
    }
    Ok(!scans.is_empty())
}

fn value(text: &str) -> Result<Value, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt(format!("a stored body: {e}")))
}

async fn stored_report<C: Conn>(tx: &mut C, host_id: Uuid) -> Result<Option<Map<String, Value>>, StoreError> {
    let row = tx.optional(sql("SELECT body FROM host_reports WHERE host_id = $1").bind(host_id.to_string())).await?;
    let Some(row) = row else { return Ok(None) };
    match value(get(&row, "body")?)? {
        Value::Object(map) => Ok(Some(map)),
        _ => Err(StoreError::Corrupt("a stored report is no object".to_owned())),
    }
}

/// Packages, updates, security updates.
fn count_packages(body: &Map<String, Value>) -> [i64; 3] {
    let packages = body.get("packages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let flag = |p: &Value, name: &str| p.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut counts = [0; 3];
    for package in packages {
        let flags = PackageFlags {
            needs_update: flag(package, "needsUpdate"),
            is_security_update: flag(package, "isSecurityUpdate"),
        };
        counts[0] += 1;
        counts[1] += i64::from(flags.needs_update);
        counts[2] += i64::from(flags.needs_update && flags.is_security_update);
    }
    counts
}

/// A report as it is stored.
struct Ready {
    text: String,
    counts: [i64; 3],
    /// The values of [`SUMMARY`].
    summary: [String; 7],
    needs_reboot: bool,
    agent_version: Option<String>,
}

/// Fields of a report that the host's row keeps as text.
const SUMMARY: [&str; 7] = ["osType", "osVersion", "hostname", "ip", "architecture", "kernelVersion", "rebootReason"];

impl Ready {
    fn new(body: &Map<String, Value>) -> Result<Self, StoreError> {
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self {
            text: serde_json::to_string(body).map_err(|e| StoreError::Corrupt(e.to_string()))?,
            counts: count_packages(body),
            summary: SUMMARY.map(text),
            needs_reboot: body.get("needsReboot").and_then(Value::as_bool).unwrap_or(false),
            agent_version: Some(text("agentVersion")).filter(|v| !v.is_empty()),
        })
    }
}

async fn summarise<C: Conn>(tx: &mut C, host_id: Uuid, ready: &Ready, now: i64) -> Result<(), StoreError> {
    let mut query = sql(
        "UPDATE hosts SET reported_at = $1, last_seen_at = $1, packages = $2, updates = $3, security_updates = $4, \
         needs_reboot = $5, agent_version = COALESCE($6, agent_version), os_type = $7, os_version = $8, hostname = $9, \
         ip = $10, architecture = $11, kernel_version = $12, reboot_reason = $13 WHERE id = $14",
    )
    .bind(now)
    .bind(ready.counts[0])
    .bind(ready.counts[1])
    .bind(ready.counts[2])
    .bind(i64::from(ready.needs_reboot))
    .bind(ready.agent_version.as_deref());
    for text in &ready.summary {
        query = query.bind(text);
    }
    tx.run(query.bind(host_id.to_string())).await.map(drop)
}

//! `POST compliance/scans`: results. They, not the progress `completed`, say how a scan ended (protocol 1.4).

use std::sync::Arc;

use jobs::Deed;
use schemas::{
    scan::{ScanFact, ScanStatus},
    timestamp::parse_rfc3339,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::auth::Authenticated,
    body::{Posted, parsed},
    refusal::Refusal,
    store_held,
};
use crate::App;

/// Longest body. One profile is half a megabyte (protocol 3).
const SCANS_MAX: usize = 10 << 20;

const INVALID: &str = "Invalid payload: expected 'scans' array or 'profile_name'";

/// Results as they came, and what of them decides about commands.
#[derive(Debug, PartialEq)]
struct Results {
    scans: Vec<Value>,
    deed: Deed,
}

/// Stores them.
pub(super) async fn post(
    app: &App,
    who: &Authenticated,
    posted: &mut Posted,
    until: Instant,
) -> Result<Value, Refusal> {
    let host_id = who.host.id;
    app.agents.scans.take(&host_id).map_err(|wait| Refusal::TooManyScans(wait.as_secs() + 1))?;
    let (bytes, room, until) = posted.read_to_hold(SCANS_MAX, &app.agents.hold, until).await?;
    let results = Arc::new(parsed(bytes, read).await?);
    let received = results.scans.len();
    // No results at all prove nothing, not even that a scanner ran.
    if received > 0 {
        store_held(app, until, room, move |app| {
            let results = Arc::clone(&results);
            async move {
                let moved = app.store.save_scans(host_id, &results.scans, &results.deed).await?;
                store::failpoint::hit("result_stored");
                Ok(((), moved))
            }
        })
        .await?;
    }
    Ok(json!({ "message": "Scan results saved successfully", "scans_received": received }))
}

fn read(bytes: &[u8]) -> Result<Results, Refusal> {
    let body: Value = serde_json::from_slice(bytes).map_err(|_| Refusal::Bad("Invalid JSON body"))?;
    let mut scans = scans_of(body).ok_or(Refusal::Bad(INVALID))?;
    let facts = scans.iter_mut().map(fact).collect::<Option<Vec<_>>>().ok_or(Refusal::Bad(INVALID))?;
    Ok(Results { scans, deed: Deed::ScanResults { scans: facts } })
}

/// The results of a body: a list, or the body itself is one, as agents before 1.4 sent it.
fn scans_of(mut body: Value) -> Option<Vec<Value>> {
    match body.get_mut("scans").map(Value::take) {
        Some(Value::Array(scans)) => Some(scans),
        Some(Value::Null) | None if body.get("profile_name").is_some_and(Value::is_string) => {
            body.as_object_mut()?.remove("scans");
            Some(vec![body])
        }
        _ => None,
    }
}

/// What of a result decides about commands; `None` when it is no object. A result that does not say how it ended has
/// ended well; a word that nobody knows says nothing.
fn fact(scan: &mut Value) -> Option<ScanFact> {
    let scan = scan.as_object_mut()?;
    if scan.get("status").is_none_or(|status| status.is_null() || status == "") {
        scan.insert("status".to_owned(), Value::from("completed"));
    }
    let text = |field: &str| scan.get(field).and_then(Value::as_str).unwrap_or_default();
    Some(ScanFact {
        profile_type: text("profile_type").to_owned(),
        profile_name: text("profile_name").to_owned(),
        status: match text("status") {
            "completed" => ScanStatus::Completed,
            "failed" => ScanStatus::Failed,
            _ => ScanStatus::InProgress,
        },
        started_at_ms: parse_rfc3339(text("started_at")),
        error: text("error").to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(body: &Value) -> Vec<ScanFact> {
        match read(body.to_string().as_bytes()).unwrap().deed {
            Deed::ScanResults { scans } => scans,
            other => panic!("{other:?}"),
        }
    }

    fn scan(status: &str, extra: &Value) -> Value {
        let mut scan = json!({
            "profile_name": "level1_server", "profile_type": "openscap", "status": status, "score": 0, "total_rules": 0,
            "passed": 0, "failed": 0, "warnings": 0, "skipped": 0, "not_applicable": 0,
            "started_at": "2026-11-24T23:10:53.089789769Z", "results": null,
        });
        for (field, value) in extra.as_object().unwrap() {
            scan[field] = value.clone();
        }
        scan
    }

    #[test]
    fn a_recorded_failure_keeps_its_reason_and_the_hosts_time() {
        let failed = scan("failed", &json!({"error": "profile no_such_profile not available for debian"}));
        let body =
            json!({"scans": [failed], "os_info": {"family": "debian"}, "hostname": "web-14", "agent_version": "1.4.2"});
        assert_eq!(
            facts(&body),
            [ScanFact {
                profile_type: "openscap".into(),
                profile_name: "level1_server".into(),
                status: ScanStatus::Failed,
                started_at_ms: parse_rfc3339("2026-11-24T23:10:53.089Z"),
                error: "profile no_such_profile not available for debian".into(),
            }]
        );
    }

    #[test]
    fn a_recorded_success_stays_one_though_it_carries_a_warning() {
        let rule = json!({"rule_ref": "r", "title": "t", "status": "fail"});
        let done =
            json!({"completed_at": "2026-11-24T23:13:49Z", "results": [rule], "error": "CPE/platform mismatch: …"});
        let body = json!({"scans": [scan("completed", &done)]});
        assert_eq!(facts(&body)[0].status, ScanStatus::Completed);
        assert_eq!(read(body.to_string().as_bytes()).unwrap().scans[0]["results"][0]["rule_ref"], "r");
    }

    #[test]
    fn what_still_runs_or_is_unknown_says_nothing() {
        let body = json!({"scans": [scan("in_progress", &json!({})), scan("paused", &json!({"started_at": "soon"}))]});
        let facts = facts(&body);
        assert!(facts.iter().all(|f| f.status == ScanStatus::InProgress));
        assert_eq!(facts[1].started_at_ms, None);
    }

    #[test]
    fn a_flat_body_is_one_result() {
        let flat = json!({"profile_name": "Docker Bench Security", "profile_type": "docker-bench", "score": 50, "results": []});
        let read = read(flat.to_string().as_bytes()).unwrap();
        assert_eq!(read.scans.len(), 1);
        assert_eq!(read.scans[0]["status"], "completed");
        let facts = facts(&flat);
        assert_eq!((facts[0].profile_type.as_str(), facts[0].status), ("docker-bench", ScanStatus::Completed));
        assert_eq!(facts[0].started_at_ms, None);
    }

    #[test]
    fn anything_else_is_refused_by_the_protocols_text() {
        for body in [
            "{}",
            "[]",
            "7",
            r#"{"scans":{}}"#,
            r#"{"scans":"x","profile_name":"y"}"#,
            r#"{"scans":[7]}"#,
            r#"{"profile_name":1}"#,
        ] {
            assert_eq!(read(body.as_bytes()), Err(Refusal::Bad(INVALID)), "{body}");
        }
        assert_eq!(read(b"{bad"), Err(Refusal::Bad("Invalid JSON body")));
        assert_eq!(facts(&json!({"scans": []})), []);
    }
}

//! `POST hosts/update`: a report. Full, or (2.1) only the sections that it names: what those are worth the store knows.

use bytes::Bytes;
use schemas::report::{PACKAGES_MAX, ReportSummary};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use store::ReportBody;
use tokio::time::Instant;

use super::{
    super::auth::Authenticated,
    body::{Posted, parsed},
    refusal::Refusal,
    store_held,
};
use crate::App;

/// Longest body (protocol 3).
const REPORT_MAX: usize = 5 << 20;

/// Fields that the host's row keeps and the type each must have, unless it is null or absent.
const STRINGS: [&str; 8] =
    ["osType", "osVersion", "hostname", "ip", "architecture", "agentVersion", "kernelVersion", "rebootReason"];
const BOOLEANS: [&str; 1] = ["needsReboot"];
const LISTS: [&str; 2] = ["packages", "sections"];

/// Errors that an answer names at most.
const ERRORS_SHOWN: usize = 20;

/// Stores it.
pub(super) async fn post(
    app: &App,
    who: &Authenticated,
    posted: &mut Posted,
    until: Instant,
) -> Result<Value, Refusal> {
    let (bytes, room, until) = posted.read_to_hold(REPORT_MAX, &app.agents.hold, until).await?;
    let report = parsed(bytes.clone(), read).await?;
    let processed = report.summary.packages.len();
    let host_id = who.host.id;
    // Each attempt consumes the report. While it waits for the store only its bytes are kept.
    let mut first = Some(report);
    let [_, updates, security] = store_held(app, until, room, move |app| {
        let (report, bytes) = (first.take(), bytes.clone());
        async move {
            let report = match report {
                Some(report) => report,
                None => again(bytes).await?,
            };
            let saved = app.store.save_report(host_id, report).await?;
            store::failpoint::hit("result_stored");
            Ok(saved)
        }
    })
    .await?;
    Ok(json!({
        "message": "Host updated successfully",
        "packagesProcessed": processed,
        "updatesAvailable": updates,
        "securityUpdates": security,
    }))
}

/// What was read once is read again.
async fn again(bytes: Bytes) -> Result<ReportBody, store::StoreError> {
    parsed(bytes, read).await.map_err(|_| store::StoreError::Corrupt("a report in hand".to_owned()))
}

fn read(bytes: &[u8]) -> Result<ReportBody, Refusal> {
    let body: Value = serde_json::from_slice(bytes).map_err(|_| wrong_body("must be JSON"))?;
    let Value::Object(map) = &body else { return Err(wrong_body("must be an object")) };
    let wrong = check(map);
    if !wrong.is_empty() {
        return Err(Refusal::Fields(wrong));
    }
    let summary = ReportSummary::deserialize(&body).map_err(|_| wrong_body("holds a field of a wrong type"))?;
    match body {
        Value::Object(body) => Ok(ReportBody { body, summary }),
        _ => Err(Refusal::Internal),
    }
}

/// Names what is wrong with a report; empty when nothing is.
fn check(report: &Map<String, Value>) -> Vec<Value> {
    let of_type = |field: &&str, fits: fn(&Value) -> bool| report.get(*field).is_none_or(|v| v.is_null() || fits(v));
    let mut wrong = Vec::new();
    for (fields, name, fits) in [
        (&STRINGS[..], "a string", Value::is_string as fn(&Value) -> bool),
        (&BOOLEANS[..], "a boolean", Value::is_boolean),
        (&LISTS[..], "an array", Value::is_array),
    ] {
        let bad = fields.iter().filter(|field| !of_type(field, fits));
        wrong.extend(bad.map(|field| error(field, &format!("must be {name}"))));
    }
    let list = |field: &str| report.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let packages = list("packages");
    if packages.len() > PACKAGES_MAX {
        wrong.push(error("packages", &format!("must not be more than {PACKAGES_MAX}")));
        return wrong;
    }
    for (n, package) in packages.iter().enumerate() {
        let flag = |field: &str| package.get(field).is_none_or(|v| v.is_null() || v.is_boolean());
        if package.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
            wrong.push(error(&format!("packages[{n}].name"), "must be a string that is not empty"));
        }
        for field in ["needsUpdate", "isSecurityUpdate"].into_iter().filter(|field| !flag(field)) {
            wrong.push(error(&format!("packages[{n}].{field}"), "must be a boolean"));
        }
        if wrong.len() >= ERRORS_SHOWN {
            break;
        }
    }
    if !list("sections").iter().all(Value::is_string) {
        wrong.push(error("sections", "must be strings"));
    }
    wrong
}

fn error(path: &str, msg: &str) -> Value {
    json!({ "type": "field", "path": path, "msg": msg, "location": "body" })
}

/// The body as a whole is wrong.
fn wrong_body(msg: &str) -> Refusal {
    Refusal::Fields(vec![error("", msg)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = r#"{"packages":[
        {"name":"base-files","currentVersion":"12.4+deb12u11","availableVersion":"12.4+deb12u15","needsUpdate":true,"isSecurityUpdate":false},
        {"name":"libgcrypt20-dev","currentVersion":"1.10.1-3","availableVersion":"1.10.1-3+deb12u1","needsUpdate":true,"isSecurityUpdate":true},
        {"name":"maven","currentVersion":"3.8.7-1","needsUpdate":false,"isSecurityUpdate":false}],
        "repositories":[],"osType":"Debian GNU/Linux","osVersion":"12 (bookworm)","hostname":"web-14","ip":"192.0.2.14",
        "architecture":"x86_64","agentVersion":"1.4.2","machineId":"00000000-0000-0000-0000-000000000014",
        "kernelVersion":"6.1.0-18-amd64","selinuxStatus":"disabled","systemUptime":"44 minutes","loadAverage":[2.1,1,1],
        "cpuCores":2,"ramInstalled":3.826171875,"swapSize":0,"diskDetails":null,"gatewayIp":"","dnsServers":["192.0.2.53"],
        "networkInterfaces":[],"executionTime":1.583813896,"needsReboot":false}"#;

    const PARTIAL: &str = r#"{"packages":[{"name":"bash","needsUpdate":true,"isSecurityUpdate":false}],"repositories":null,
        "osType":"Debian GNU/Linux","osVersion":"12 (bookworm)","hostname":"","ip":"","architecture":"x86_64",
        "agentVersion":"2.1.4","loadAverage":null,"diskDetails":null,"dnsServers":null,"networkInterfaces":null,
        "executionTime":0,"needsReboot":false,"packageManager":"apt","sections":["packages"],"agentExecutionMs":9896}"#;

    fn errors(body: &Value) -> Vec<String> {
        match read(body.to_string().as_bytes()) {
            Err(Refusal::Fields(errors)) => errors.iter().map(|e| e["path"].as_str().unwrap().to_owned()).collect(),
            Err(other) => panic!("{other:?}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn a_recorded_full_report_is_read_whole() {
        let report = read(FULL.as_bytes()).unwrap();
        assert_eq!(report.summary.packages.len(), 3);
        assert_eq!(report.summary.kernel_version, "6.1.0-18-amd64");
        assert!(report.summary.sections.is_empty());
        assert_eq!(report.body["machineId"], "00000000-0000-0000-0000-000000000014");
        assert_eq!(report.body["packages"][0]["availableVersion"], "12.4+deb12u15");
    }

    #[test]
    fn a_recorded_partial_report_names_its_sections() {
        let report = read(PARTIAL.as_bytes()).unwrap();
        assert_eq!(report.summary.sections, ["packages"]);
        assert_eq!(report.summary.packages.len(), 1);
        assert!(report.summary.hostname.is_empty());
    }

    #[test]
    fn nulls_and_missing_fields_are_fine() {
        assert_eq!(errors(&json!({})), [""; 0]);
        assert_eq!(errors(&json!({"packages": null, "sections": null, "osType": null, "needsReboot": null})), [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(errors(&json!([])), [""]);
        assert_eq!(errors(&json!({"packages": {}})), ["packages"]);
        assert_eq!(
            errors(&json!({"osType": 7, "needsReboot": "no", "sections": [1]})),
            ["osType", "needsReboot", "sections"]
        );
        assert_eq!(
            errors(&json!({"packages": [{"name": "a"}, {"name": ""}, 7, {"name": "b", "needsUpdate": 1}]})),
            ["packages[1].name", "packages[2].name", "packages[3].needsUpdate"]
        );
        assert!(matches!(read(b"{bad"), Err(Refusal::Fields(_))));
    }

    #[test]
    fn packages_are_counted_before_they_are_looked_at() {
        let of = |n: usize| json!({"packages": vec![json!({"name": "a"}); n]});
        assert_eq!(errors(&of(PACKAGES_MAX)), [""; 0]);
        assert_eq!(errors(&of(PACKAGES_MAX + 1)), ["packages"]);
        assert!(errors(&json!({"packages": vec![7; 5_000]})).len() <= ERRORS_SHOWN);
    }
}

//! What of a recorded answer or frame the server's own has to match.

use anyhow::{Context, ensure};
use serde_json::Value;

/// Keys that a recorded server had a reason of its own to send (protocol 3): a gate on hashes is the server's choice, and an
/// integration of which it knows nothing is better left out, since agents obey what they are told.
const OPTIONAL: &[&str] = &["hashGate", "requestFull", "compliance", "docker"];

/// Strings and flags on which agents act, or which an operator reads in the agent's log.
const EQUAL: &[&str] = &["success", "hasUpdate", "error"];

/// Every recorded key is there with a value of the same JSON type.
pub fn check_body(recorded: &Value, real: &Value) -> anyhow::Result<()> {
    let Value::Object(wanted) = recorded else {
        return check_type(recorded, real);
    };
    let real = real.as_object().with_context(|| format!("no object: {real}"))?;
    for (key, wanted) in wanted {
        let Some(found) = real.get(key) else {
            ensure!(OPTIONAL.contains(&key.as_str()), "{key:?} is missing in {}", Value::Object(real.clone()));
            continue;
        };
        check_body(wanted, found).with_context(|| format!("{key:?}"))?;
        if EQUAL.contains(&key.as_str()) {
            ensure!(wanted == found, "{key:?} is {found}, recorded was {wanted}");
        }
    }
    Ok(())
}

fn check_type(recorded: &Value, real: &Value) -> anyhow::Result<()> {
    let kind = |value: &Value| match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    ensure!(kind(recorded) == kind(real), "{real} is no {}", kind(recorded));
    Ok(())
}

/// Whether a frame does what the recorded one did: a recorded null may be anything, since it stands for "not said".
pub fn frame_fits(recorded: &Value, real: &Value) -> bool {
    let Value::Object(wanted) = recorded else {
        return recorded == real;
    };
    wanted.iter().all(|(key, wanted)| wanted.is_null() || real.get(key) == Some(wanted))
}

/// The body and parameters of a command that brings this frame; None when no server of ours sends it.
pub fn command_for(frame: &Value) -> Option<(&'static str, Option<Value>)> {
    let fields = frame.as_object()?;
    match fields.get("type")?.as_str()? {
        "report_now" if fields.len() == 1 => Some(("report_now", None)),
        "refresh_integration_status" if fields.len() == 1 => Some(("refresh_integration_status", None)),
        "settings_update" if fields.len() == 2 => {
            let minutes = fields.get("update_interval")?.as_i64()?;
            is_normal(minutes).then(|| ("settings_update", Some(serde_json::json!({"update_interval": minutes}))))
        }
        "compliance_scan" => {
            // Both scanners off is refused at once, so no frame goes out.
            let off = |name: &str| fields.get(name) == Some(&Value::Bool(false));
            if off("openscap_enabled") && off("docker_bench_enabled") {
                return None;
            }
            let said = |name: &&str| fields.get(*name).is_some_and(|value| !value.is_null());
            let payload = ["profile_type", "profile_id", "enable_remediation", "fetch_remote_resources"]
                .iter()
                .filter(|name| said(name))
                .map(|name| ((*name).to_owned(), fields[*name].clone()))
                .collect();
            Some(("compliance_scan", Some(Value::Object(payload))))
        }
        _ => None,
    }
}

/// Intervals that stay as they are: 5 to 59 in steps of 5, or one of six (protocol 3).
fn is_normal(minutes: i64) -> bool {
    (5..60).contains(&minutes) && minutes % 5 == 0 || [60, 120, 180, 360, 720, 1440].contains(&minutes)
}

#[test]
fn answers_are_compared_by_key_and_type() {
    use serde_json::json;
    let recorded = json!({"success": true, "integrations": {"docker": false}, "hashGate": true, "n": 1});
    check_body(&recorded, &json!({"success": true, "integrations": {"docker": true}, "n": 2, "more": 0})).unwrap();
    for wrong in [
        json!({"success": false, "integrations": {"docker": true}, "n": 1}),
        json!({"success": true, "integrations": {"docker": "no"}, "n": 1}),
        json!({"success": true, "integrations": {}}),
        json!([]),
    ] {
        check_body(&recorded, &wrong).unwrap_err();
    }
}

#[test]
fn frames_that_no_command_brings_are_known() {
    use serde_json::json;
    for frame in [
        json!({"type": "report_now", "update_interval": "60"}),
        json!({"type": "settings_update", "update_interval": 0}),
        json!({"type": "settings_update", "update_interval": 15.5}),
        json!({"type": "settings_update", "update_interval": 100}),
        json!({"type": "compliance_scan", "openscap_enabled": false, "docker_bench_enabled": false}),
        json!({"type": "REPORT_NOW"}),
        json!([]),
    ] {
        assert_eq!(command_for(&frame), None, "{frame}");
    }
    assert_eq!(
        command_for(&json!({"type": "compliance_scan", "profile_type": "openscap", "profile_id": null})),
        Some(("compliance_scan", Some(json!({"profile_type": "openscap"}))))
    );
}

//! `POST hosts/ping`: the agent is alive. 1.4 and the start of 2.1 send no body; a tick of 2.1 sends hashes and metrics.

use schemas::timestamp::rfc3339;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::auth::Authenticated,
    body::{Posted, parsed},
    refusal::Refusal,
};
use crate::App;

/// Longest body. The disks of a Kubernetes node fill far more than the 8 KiB that look enough.
const PING_MAX: usize = 1 << 20;
/// Longest version that is kept.
const VERSION_MAX: usize = 64;

/// Answers it. Never `hashGate`: without `requestFull` to go with it the agent would send nothing more (protocol 3).
pub(super) async fn post(app: &App, who: &Authenticated, posted: &mut Posted) -> Result<Value, Refusal> {
    let bytes = posted.read(PING_MAX).await?;
    let version = parsed(bytes, agent_version).await?;
    app.store.touch_host(who.host.id, version.as_deref()).await?;
    Ok(json!({
        "message": "Ping successful",
        "timestamp": rfc3339(app.store.clock().now_ms()),
        "friendlyName": who.host.name,
    }))
}

/// The version a ping tells, if it tells one.
fn agent_version(body: &[u8]) -> Result<Option<String>, Refusal> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ping {
        #[serde(default)]
        agent_version: Value,
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let ping: Ping = serde_json::from_slice(body).map_err(|_| Refusal::Bad("Invalid JSON body"))?;
    let version = ping.agent_version.as_str().unwrap_or_default();
    Ok((!version.is_empty() && version.len() <= VERSION_MAX).then(|| version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_pings_are_read() {
        let tick = br#"{"hashes":{"packagesHash":"eda1c89d"},"metrics":{"cpuCores":2,"diskDetails":[],"needsReboot":false},"agentVersion":"2.1.4","agentExecutionMs":12289}"#;
        assert_eq!(agent_version(tick), Ok(Some("2.1.4".to_owned())));
        assert_eq!(agent_version(b""), Ok(None));
        assert_eq!(agent_version(b"{}"), Ok(None));
    }

    #[test]
    fn a_version_that_is_none_is_left_out() {
        for body in [r#"{"agentVersion":7}"#, r#"{"agentVersion":null}"#, r#"{"agentVersion":""}"#] {
            assert_eq!(agent_version(body.as_bytes()), Ok(None), "{body}");
        }
        let long = format!(r#"{{"agentVersion":"{}"}}"#, "9".repeat(65));
        assert_eq!(agent_version(long.as_bytes()), Ok(None));
    }

    #[test]
    fn what_is_no_json_object_is_refused() {
        for body in ["{bad", "7", "\"x\""] {
            assert_eq!(agent_version(body.as_bytes()), Err(Refusal::Bad("Invalid JSON body")), "{body}");
        }
    }
}

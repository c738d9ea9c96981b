//! `POST hosts/integration-status`: how an integration does on the host.

use std::sync::Arc;

use jobs::Deed;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    super::auth::Authenticated,
    body::{Posted, parsed},
    refusal::Refusal,
    store_held,
};
use crate::App;

/// Longest body. Each post of an installation repeats all its events so far (protocol 3).
const STATUS_MAX: usize = 1 << 20;
/// Longest name of an integration.
const NAME_MAX: usize = 64;

/// A status as it is stored.
#[derive(Debug, PartialEq)]
struct Status {
    integration: String,
    body: Value,
    deed: Deed,
}

/// Stores it.
pub(super) async fn post(
    app: &App,
    who: &Authenticated,
    posted: &mut Posted,
    until: Instant,
) -> Result<Value, Refusal> {
    let (bytes, room, until) = posted.read_to_hold(STATUS_MAX, &app.agents.hold, until).await?;
    let status = Arc::new(parsed(bytes, read).await?);
    let host_id = who.host.id;
    store_held(app, until, room, move |app| {
        let status = Arc::clone(&status);
        async move {
            let saved = app.store.save_integration_status(host_id, &status.integration, &status.body, &status.deed);
            Ok(((), saved.await?))
        }
    })
    .await?;
    Ok(json!({ "success": true, "message": "Integration status received" }))
}

fn read(bytes: &[u8]) -> Result<Status, Refusal> {
    let body: Value = serde_json::from_slice(bytes).map_err(|_| Refusal::Bad("Invalid JSON body"))?;
    let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let integration = text("integration");
    let named = (1..=NAME_MAX).contains(&integration.len())
        && integration.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !named {
        return Err(Refusal::Bad("integration is required"));
    }
    let deed = Deed::IntegrationStatus { integration: integration.clone(), status: text("status") };
    Ok(Status { integration, body, deed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_status_is_a_deed_and_kept_whole() {
        let body = r#"{"integration":"compliance","enabled":true,"status":"ready","message":"Compliance tools ready","components":{"docker-bench":"unavailable","openscap":"ready","oscap-docker":"unavailable"},"scanner_info":{"openscap_version":"OpenSCAP command line tool (oscap) 1.3.7","available_profiles":[]}}"#;
        let status = read(body.as_bytes()).unwrap();
        assert_eq!(status.integration, "compliance");
        assert_eq!(status.deed, Deed::IntegrationStatus { integration: "compliance".into(), status: "ready".into() });
        assert_eq!(status.body["components"]["openscap"], "ready");
    }

    #[test]
    fn a_status_of_nothing_is_refused() {
        for body in ["[]", "{}", r#"{"integration":7}"#, r#"{"integration":""}"#, r#"{"integration":"a/b"}"#] {
            assert_eq!(read(body.as_bytes()), Err(Refusal::Bad("integration is required")), "{body}");
        }
        assert_eq!(read(b""), Err(Refusal::Bad("Invalid JSON body")));
    }
}

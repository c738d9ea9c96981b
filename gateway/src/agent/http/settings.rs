//! What an agent asks before anything else: how often to report, and which integrations it has.

use jobs::command::{ComplianceMode, HostFacts};
use serde_json::{Map, Value, json};
use store::Host;

use super::{super::auth::Authenticated, refusal::Refusal};
use crate::App;

/// `GET settings/update-interval`.
pub(super) async fn update_interval(app: &App, who: &Authenticated) -> Result<Value, Refusal> {
    // Before the read: a change in between is then answered, and counts as not yet seen.
    app.store.settings_seen(who.host.id).await?;
    let host = host(app, who).await?;
    Ok(json!({ "updateInterval": host.update_interval }))
}

/// `GET hosts/integrations`.
pub(super) async fn integrations(app: &App, who: &Authenticated) -> Result<Value, Refusal> {
    Ok(integrations_of(&host(app, who).await?.facts))
}

async fn host(app: &App, who: &Authenticated) -> Result<Host, Refusal> {
    // Removed since it was authenticated: as unknown as any other.
    app.store.host(who.host.id).await?.ok_or(Refusal::WrongCredentials)
}

/// The agent writes `integrations` into its configuration and obeys it; there only booleans may stand (protocol 3).
///
/// `true` for compliance makes a configured `false` mean scheduled scans, and changes nothing else. So it stands for
/// the mode that has them; on demand, the agent keeps what it has until it is told otherwise by a frame.
fn integrations_of(host: &HostFacts) -> Value {
    let mut integrations = Map::new();
    integrations.insert("docker".to_owned(), Value::Bool(host.docker_enabled));
    match host.compliance_mode {
        ComplianceMode::Disabled => integrations.insert("compliance".to_owned(), Value::Bool(false)),
        ComplianceMode::OnDemand => None,
        ComplianceMode::Enabled => integrations.insert("compliance".to_owned(), Value::Bool(true)),
    };
    json!({
        "success": true,
        "integrations": integrations,
        "compliance_mode": host.compliance_mode.name(),
        "compliance_on_demand_only": host.compliance_mode == ComplianceMode::OnDemand,
        "compliance_openscap_enabled": host.openscap_enabled,
        "compliance_docker_bench_enabled": host.docker_bench_enabled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(mode: ComplianceMode, docker: bool) -> HostFacts {
        HostFacts {
            id: uuid::Uuid::nil(),
            api_id: "patchmon_1414141414141414".into(),
            epoch: 1,
            connected: false,
            generation: None,
            docker_enabled: docker,
            compliance_mode: mode,
            openscap_enabled: true,
            docker_bench_enabled: false,
            update_interval: 60,
        }
    }

    #[test]
    fn integrations_hold_booleans_and_say_what_the_owner_set() {
        for (mode, docker, integrations) in [
            (ComplianceMode::Disabled, false, json!({"docker": false, "compliance": false})),
            (ComplianceMode::Enabled, true, json!({"docker": true, "compliance": true})),
        ] {
            let answer = integrations_of(&facts(mode, docker));
            assert_eq!(answer["success"], true);
            assert_eq!(answer["integrations"], integrations);
            assert_eq!(answer["compliance_mode"], mode.name());
            assert_eq!(answer["compliance_openscap_enabled"], true);
            assert_eq!(answer["compliance_docker_bench_enabled"], false);
        }
    }

    #[test]
    fn on_demand_never_turns_scheduled_scans_on() {
        let answer = integrations_of(&facts(ComplianceMode::OnDemand, false));
        assert_eq!(answer["integrations"], json!({"docker": false}));
        assert_eq!(answer["compliance_mode"], "on-demand");
        assert_eq!(answer["compliance_on_demand_only"], true);
    }
}

//! `GET hosts/agent/version`: is there a newer agent? Not from us: what it runs is the newest.

use axum::{extract::Query, http::Uri};
use serde::Deserialize;
use serde_json::{Value, json};

/// Longest version that is repeated.
const VERSION_MAX: usize = 64;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    #[serde(default)]
    current_version: String,
}

/// Answers with the version that asks.
pub(super) fn get(uri: &Uri) -> Value {
    let asked = Query::<Asked>::try_from_uri(uri).map(|q| q.0.current_version).unwrap_or_default();
    let plain = asked.len() <= VERSION_MAX
        && asked.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+' | b'_'));
    let version = if plain { asked.as_str() } else { "" };
    json!({
        "currentVersion": version,
        "latestVersion": version,
        "hasUpdate": false,
        "autoUpdateDisabled": false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_that_it_is_the_newest() {
        let uri = "/api/v1/hosts/agent/version?arch=amd64&os=linux&type=go&currentVersion=1.4.2".parse().unwrap();
        assert_eq!(
            get(&uri),
            json!({"currentVersion": "1.4.2", "latestVersion": "1.4.2", "hasUpdate": false, "autoUpdateDisabled": false})
        );
    }

    #[test]
    fn what_is_no_version_is_not_repeated() {
        for query in [
            "",
            "?currentVersion=%3Cb%3E",
            "?currentVersion=1&currentVersion=2",
            &format!("?currentVersion={}", "1".repeat(65)),
        ] {
            assert_eq!(get(&format!("/x{query}").parse().unwrap())["hasUpdate"], false);
            assert_eq!(get(&format!("/x{query}").parse().unwrap())["currentVersion"], "", "{query}");
        }
    }
}

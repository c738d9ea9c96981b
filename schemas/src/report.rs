//! `POST hosts/update` and `POST hosts/ping` (protocol 3).

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Most packages a report may name (protocol 3).
pub const PACKAGES_MAX: usize = 10_000;

/// The fields of a report that the host row keeps. Everything else is stored as it came.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportSummary {
    /// `Debian GNU/Linux`, …
    #[serde(deserialize_with = "null_is_default")]
    pub os_type: String,
    /// Its version.
    #[serde(deserialize_with = "null_is_default")]
    pub os_version: String,
    /// The host's own name.
    #[serde(deserialize_with = "null_is_default")]
    pub hostname: String,
    /// Its address.
    #[serde(deserialize_with = "null_is_default")]
    pub ip: String,
    /// `amd64`, …
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    /// Version of the agent.
    #[serde(deserialize_with = "null_is_default")]
    pub agent_version: String,
    /// The running kernel.
    #[serde(deserialize_with = "null_is_default")]
    pub kernel_version: String,
    /// Must the host be rebooted?
    #[serde(deserialize_with = "null_is_default")]
    pub needs_reboot: bool,
    /// Why.
    #[serde(deserialize_with = "null_is_default")]
    pub reboot_reason: String,
    /// The packages, as far as counts need them.
    #[serde(deserialize_with = "null_is_default")]
    pub packages: Vec<PackageFlags>,
    /// A partial update names the sections it carries; every other field is then zero and means nothing.
    #[serde(deserialize_with = "null_is_default")]
    pub sections: Vec<String>,
}

/// What the counts need of a package.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PackageFlags {
    /// An update is available.
    #[serde(deserialize_with = "null_is_default")]
    pub needs_update: bool,
    /// It mends a security fault.
    #[serde(deserialize_with = "null_is_default")]
    pub is_security_update: bool,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Fields of a report that belong to each section a partial update can name (protocol 3).
const SECTIONS: [(&str, &[&str]); 5] = [
    ("packages", &["packages", "packageManager"]),
    ("repos", &["repositories"]),
    ("interfaces", &["networkInterfaces", "gatewayIp", "dnsServers", "ip"]),
    ("hostname", &["hostname"]),
    ("docker", &["docker"]),
];

/// Fields that every report carries truly, partial or not.
const ALWAYS: [&str; 4] = ["agentVersion", "hashes", "agentExecutionMs", "executionTime"];

/// Lays a partial report over the stored one: only the fields of the named sections count (protocol 3).
#[must_use]
pub fn merge_partial(
    mut stored: Map<String, Value>,
    mut partial: Map<String, Value>,
    sections: &[String],
) -> Map<String, Value> {
    let named =
        SECTIONS.iter().filter(|(name, _)| sections.iter().any(|s| s == name)).flat_map(|(_, fields)| fields.iter());
    for field in named.chain(ALWAYS.iter()) {
        match partial.remove(*field) {
            Some(Value::Null) | None => {}
            Some(Value::String(s)) if s.is_empty() => {}
            Some(value) => {
                stored.insert((*field).to_owned(), value);
            }
        }
    }
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_partial_update_changes_only_the_sections_it_names() {
        let Value::Object(stored) = json!({"packages":[{"name":"a"}],"hostname":"web","osType":"Debian"}) else {
            unreachable!()
        };
        let Value::Object(partial) =
            json!({"packages":null,"hostname":"web-2","osType":"","agentVersion":"2.1.4","sections":["hostname"]})
        else {
            unreachable!()
        };
        let merged = merge_partial(stored, partial, &["hostname".to_owned()]);
        assert_eq!(
            Value::Object(merged),
            json!({"packages":[{"name":"a"}],"hostname":"web-2","osType":"Debian","agentVersion":"2.1.4"})
        );
    }

    #[test]
    fn nulls_are_read_as_nothing() {
        let s: ReportSummary =
            serde_json::from_value(json!({"packages":null,"osType":null,"needsReboot":null})).unwrap_or_default();
        assert!(s.packages.is_empty() && s.os_type.is_empty() && !s.needs_reboot);
    }
}

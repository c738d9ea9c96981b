//! Names in the environment: which are ours, which Kubernetes put there, and which are typing errors.

use std::{collections::BTreeMap, ffi::OsString};

use super::{Problems, near::nearest, setting::key_of, settings::SETTINGS};
use crate::client;

pub const PREFIX: &str = "PATCHBAY_";

/// Names the configuration file; read by the command line, not by the table.
pub const CONFIG_FILE: &str = "PATCHBAY_CONFIG";

/// Keeps the variables that the table knows, and notes a problem for each of ours that nothing knows.
pub fn known_names(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Problems,
) -> BTreeMap<String, OsString> {
    let mut known = BTreeMap::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        if SETTINGS.iter().any(|setting| setting.name == name) {
            known.insert(name.to_owned(), value);
        } else if name.starts_with(PREFIX) && !is_accepted(name, &value.to_string_lossy()) {
            problems.add(format!("{name} is not a setting; {}", suggestion(name)));
        }
    }
    known
}

/// "did you mean …?", for a variable or a key of the file.
pub fn suggestion(name: &str) -> String {
    let keys: Vec<String> = SETTINGS.iter().map(super::setting::Setting::key).collect();
    let is_variable = name.starts_with(PREFIX);
    let near = nearest(&key_of(name), keys.iter().map(String::as_str));
    let near = near.and_then(|near| SETTINGS.iter().find(|setting| setting.key() == near));
    match near {
        Some(setting) if is_variable => format!("did you mean {}?", setting.name),
        Some(setting) => format!("did you mean {}?", setting.key()),
        None => "`patchbay config` lists all of them".to_owned(),
    }
}

fn is_accepted(name: &str, value: &str) -> bool {
    let for_tests = name.starts_with("PATCHBAY_TEST_") || name == "PATCHBAY_FAILPOINT";
    let for_clients = [client::CREDENTIALS, client::PASSWORD].contains(&name);
    name == CONFIG_FILE || for_clients || (for_tests && cfg!(debug_assertions)) || is_service_link(name, value)
}

/// What the kubelet injects for every Service of the namespace (`enableServiceLinks`): beside one called `patchbay` or
/// `patchbay-…` these names begin with our prefix.
fn is_service_link(name: &str, value: &str) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
    let is_link = PROTOCOLS.iter().any(|protocol| {
        let scheme = value.strip_prefix(&protocol.to_ascii_lowercase());
        scheme.is_some_and(|rest| rest.starts_with("://"))
    });
    let has_port_part = name.match_indices("_PORT_").any(|(at, part)| {
        let mut parts = name[at + part.len()..].split('_');
        let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        number
            && parts.next().is_some_and(|protocol| PROTOCOLS.contains(&protocol))
            && matches!(parts.next(), None | Some("PROTO" | "PORT" | "ADDR"))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_link)
        || has_port_part
}

//! The recordings in `wire/`, compiled in: the simulator takes its bodies from them, and the tests compare with them.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::{Deserialize, Serialize, de::MapAccess, ser::SerializeMap};
use serde_json::{Value, value::RawValue};

use crate::{generation::Generation, message};

macro_rules! recordings {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../wire/", $name, ".jsonl")))),*]
    };
}

/// Those that the simulator itself needs.
const COMPILED_IN: &[(&str, &str)] = recordings![
    "1.4-startup",
    "2.1-startup",
    "1.4-startup-compliance",
    "2.1-startup-compliance",
    "1.4-compliance-scan",
    "2.1-compliance-scan",
    "1.4-compliance-scan-edges",
    "2.1-compliance-scan-edges",
    "2.1-tick",
];

/// One line of a recording.
#[derive(Debug, Clone)]
pub struct Line(pub Value);

impl Line {
    /// http, agent→server, server→agent or note.
    pub fn direction(&self) -> &str {
        self.0["dir"].as_str().unwrap_or_default()
    }

    /// The payload of an agent's message of this `type`.
    pub fn message_of(&self, kind: &str) -> Option<Value> {
        let payload = &self.0["payload"];
        (self.direction() == "agent→server" && payload["type"] == kind).then(|| payload.clone())
    }

    /// The size of a message on the wire.
    pub fn bytes(&self) -> Option<u64> {
        self.0["bytes"].as_u64()
    }
}

/// The lines of one compiled-in recording, empty if there is none of that name.
pub fn lines(name: &str) -> Vec<Line> {
    text_of(name).lines().filter_map(|line| serde_json::from_str(line).ok().map(Line)).collect()
}

fn text_of(name: &str) -> &'static str {
    COMPILED_IN.iter().find_map(|(known, text)| (*known == name).then_some(*text)).unwrap_or_default()
}

/// A JSON object whose keys keep their order: bodies go out as the agents write them.
#[derive(Debug, Clone, Default)]
pub struct Ordered(Vec<(String, Box<RawValue>)>);

impl Ordered {
    /// Replaces a value where the key is, or adds it at the end.
    pub fn set(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        let Ok(value) = serde_json::value::to_raw_value(value) else {
            return;
        };
        match self.0.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key.to_owned(), value)),
        }
    }

    /// Leaves a key out.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// The text of a value.
    pub fn get(&self, key: &str) -> Option<&RawValue> {
        self.0.iter().find_map(|(name, value)| (name == key).then_some(&**value))
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Ordered;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Ordered(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

impl Serialize for Ordered {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The recorded bodies of one generation.
#[derive(Debug, Default)]
pub struct Bodies {
    /// `POST hosts/update`, full.
    pub update: Ordered,
    /// `POST hosts/update` with `sections` (2.1 only).
    pub partial_update: Ordered,
    /// `POST hosts/ping` of a tick (2.1 only).
    pub tick_ping: Ordered,
    /// `POST hosts/integration-status` for compliance.
    pub compliance_status: Ordered,
    /// `POST compliance/scans` that went well.
    pub scans: Ordered,
    /// The one scan in it.
    pub scan: Ordered,
    /// A scan that did not go well.
    pub failed_scan: Ordered,
    /// Profiles that a scan can name; others end in a failed result.
    pub profiles: Vec<String>,
}

/// The bodies that agents of this generation send.
pub fn bodies(generation: Generation) -> &'static Bodies {
    static BODIES: LazyLock<[Bodies; 2]> = LazyLock::new(|| [Generation::V1, Generation::V2].map(read_bodies));
    match generation {
        Generation::V1 => &BODIES[0],
        Generation::V2 => &BODIES[1],
    }
}

fn read_bodies(generation: Generation) -> Bodies {
    let name = generation.name();
    let scans = posted(&format!("{name}-compliance-scan"), "/compliance/scans", |_| true);
    let failed = posted(&format!("{name}-compliance-scan-edges"), "/compliance/scans", |body| {
        body.contains(r#""status":"failed""#)
    });
    let compliance_status = posted(&format!("{name}-startup-compliance"), "/hosts/integration-status", |_| true);
    let mut profiles = vec!["level1_server".to_owned(), "level2_server".to_owned()];
    profiles.extend(profile_ids(&compliance_status));
    let tick = |partial: bool| posted("2.1-tick", "/hosts/update", |body| body.contains(r#""sections""#) == partial);
    Bodies {
        update: posted(&format!("{name}-startup"), "/hosts/update", |_| true),
        partial_update: match generation {
            Generation::V1 => Ordered::default(),
            Generation::V2 => tick(true),
        },
        tick_ping: match generation {
            Generation::V1 => Ordered::default(),
            Generation::V2 => posted("2.1-tick", "/hosts/ping", |_| true),
        },
        scan: first_scan(&scans),
        failed_scan: first_scan(&failed),
        scans,
        compliance_status,
        profiles,
    }
}

/// A list of `count` packages for a report: the recorded ones, and then the same with a number behind their names.
pub fn packages(generation: Generation, count: usize) -> Option<Box<RawValue>> {
    let recorded: Vec<Ordered> =
        bodies(generation).update.get("packages").and_then(|packages| serde_json::from_str(packages.get()).ok())?;
    let list: Vec<Ordered> = (0..count)
        .map(|index| {
            let mut package = recorded[index % recorded.len()].clone();
            let round = index / recorded.len();
            if round > 0
                && let Some(name) = package.get("name")
            {
                let name = format!("{}-{round}", name.get().trim_matches('"'));
                package.set("name", &name);
            }
            package
        })
        .collect();
    serde_json::value::to_raw_value(&list).ok()
}

/// The first body posted to `path` that fits, without spaces, its order kept.
fn posted(recording: &str, path: &str, fits: impl Fn(&str) -> bool) -> Ordered {
    #[derive(Deserialize)]
    struct Posted<'a> {
        #[serde(default)]
        path: String,
        #[serde(borrow, default)]
        body: Option<&'a RawValue>,
    }
    text_of(recording)
        .lines()
        .filter_map(|line| serde_json::from_str::<Posted<'_>>(line).ok())
        .filter(|call| call.path.ends_with(path))
        .filter_map(|call| call.body)
        .map(|body| message::escape(&compact(body.get())))
        .find(|body| fits(body))
        .and_then(|body| serde_json::from_str(&body).ok())
        .unwrap_or_default()
}

fn first_scan(body: &Ordered) -> Ordered {
    body.get("scans")
        .and_then(|scans| serde_json::from_str::<Vec<Ordered>>(scans.get()).ok())
        .and_then(|scans| scans.into_iter().next())
        .unwrap_or_default()
}

fn profile_ids(status: &Ordered) -> Vec<String> {
    #[derive(Deserialize)]
    struct Scanner {
        available_profiles: Vec<BTreeMap<String, Value>>,
    }
    status
        .get("scanner_info")
        .and_then(|info| serde_json::from_str::<Scanner>(info.get()).ok())
        .map(|scanner| scanner.available_profiles)
        .unwrap_or_default()
        .iter()
        .filter_map(|profile| Some(profile.get("id")?.as_str()?.to_owned()))
        .collect()
}

/// Takes the spaces between JSON tokens out.
fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_string = character == '"';
        }
        compact.push(character);
    }
    compact
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_body_is_found_in_the_recordings() {
        for generation in [Generation::V1, Generation::V2] {
            let bodies = bodies(generation);
            for body in [&bodies.update, &bodies.compliance_status, &bodies.scans, &bodies.scan, &bodies.failed_scan] {
                assert!(!body.0.is_empty(), "{generation:?}");
            }
            assert_eq!(bodies.failed_scan.get("results").unwrap().get(), "null");
            assert_eq!(bodies.scan.get("status").unwrap().get(), "\"completed\"");
            assert!(bodies.profiles.len() > 2);
        }
        assert!(bodies(Generation::V2).partial_update.get("sections").is_some());
        assert!(bodies(Generation::V2).tick_ping.get("hashes").is_some());
    }

    #[test]
    fn bodies_keep_the_order_of_the_wire() {
        let update = serde_json::to_string(&bodies(Generation::V1).update).unwrap();
        assert!(update.starts_with(r#"{"packages":[{"name":"base-files","currentVersion":"#));
        assert!(update.ends_with(r#""needsReboot":false}"#));
    }

    #[test]
    fn a_longer_list_of_packages_has_no_name_twice() {
        let list = packages(Generation::V2, 50).unwrap();
        let list: Vec<Value> = serde_json::from_str(list.get()).unwrap();
        let names: std::collections::BTreeSet<_> =
            list.iter().map(|package| package["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 50);
    }

    #[test]
    fn compact_leaves_strings_alone() {
        assert_eq!(compact(r#"{ "a b": "c \" d\\" , "e": [1, 2] }"#), r#"{"a b":"c \" d\\","e":[1,2]}"#);
    }
}

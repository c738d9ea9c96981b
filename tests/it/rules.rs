//! The dependency rules of ARCHITECTURE.md, read from the manifests and the sources: who may depend on whom inside the
//! house, and which folder alone names an outside crate. What is tested first is that the checker sees violations.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

mod code;

use code::code_of;

/// `schemas ← jobs ← store ← gateway, worker ← src`, and `schemas ← bus ← gateway, worker`.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("jobs", &["schemas"]),
    ("bus", &["schemas"]),
    ("store", &["schemas", "jobs"]),
    ("gateway", &["schemas", "jobs", "bus", "store"]),
    ("worker", &["schemas", "jobs", "bus", "store"]),
    ("patchbay", &["schemas", "jobs", "bus", "store", "gateway", "worker"]),
    ("tests", &["schemas", "jobs", "bus", "store", "gateway", "worker"]),
];

/// An outside crate that only some of us may use.
struct Owned {
    /// As in a manifest.
    crates: &'static [&'static str],
    /// Whose manifests may list it.
    packages: &'static [&'static str],
    /// Where sources may name it: a folder ends in `/`.
    places: &'static [&'static str],
}

const OWNED: &[Owned] = &[
    Owned {
        crates: &["fastwebsockets"],
        packages: &["gateway", "tests"],
        // The benchmark's floor is that library with nothing behind it.
        places: &["gateway/src/socket/", "gateway/src/socket.rs", "tests/src/bin/echo.rs"],
    },
    Owned {
        crates: &["russh"],
        packages: &["gateway", "tests"],
        // A scripted agent opens shells as real ones do; the other end is OpenSSH.
        places: &["gateway/src/terminal/ssh/", "gateway/src/terminal/ssh.rs", "tests/src/agent/shell.rs"],
    },
    Owned { crates: &["async-nats"], packages: &["bus"], places: &["bus/"] },
    Owned { crates: &["sqlx"], packages: &["store", "tests"], places: &["store/", "tests/"] },
    Owned {
        crates: &["apalis", "apalis-core", "apalis-sql", "apalis-sqlite", "apalis-postgres"],
        packages: &["store", "worker"],
        places: &["store/src/sqlite/queue.rs", "store/src/postgres/queue.rs", "worker/"],
    },
    // Everybody has spans and figures; where they go is decided in one place.
    Owned { crates: &["opentelemetry-otlp", "tracing-subscriber"], packages: &["patchbay"], places: &["src/"] },
    // The two ends of a wire must not share one library's mistakes.
    Owned {
        crates: &["tokio-tungstenite", "tungstenite"],
        packages: &["tests", "patchbay"],
        places: &["tests/", "src/"],
    },
    // Only the gateway knows a socket; the suites play its peers.
    Owned {
        crates: &["axum", "axum-extra", "hyper", "hyper-util", "tower", "tower-http"],
        packages: &["gateway", "tests"],
        places: &["gateway/", "tests/"],
    },
    // Types only, and pure: neither schemas nor jobs can wait, read a file or open a socket.
    Owned {
        crates: &["tokio", "tokio-util"],
        packages: &["bus", "store", "gateway", "worker", "patchbay", "tests"],
        places: &["bus/", "store/", "gateway/", "worker/", "src/", "tests/"],
    },
];

/// A feature that would bring a second implementation of what we have.
const FORBIDDEN_FEATURES: &[(&str, &str)] = &[("axum", "ws")];

/// The folders that hold our sources.
const SOURCES: &[&str] = &["bus", "gateway", "jobs", "schemas", "src", "store", "tests", "worker"];

/// One manifest.
#[derive(Debug)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Default)]
struct Dependency {
    name: String,
    renamed: bool,
    features: Vec<String>,
}

fn manifest_violations(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = MAY_DEPEND_ON.iter().find(|(one, _)| *one == name) else {
        return vec![format!("{name} is a crate that no rule knows")];
    };
    let mut violations = Vec::new();
    for dependency in &package.dependencies {
        let on = dependency.name.as_str();
        let is_ours = MAY_DEPEND_ON.iter().any(|(one, _)| *one == on);
        if is_ours && !allowed.contains(&on) {
            violations.push(format!("{name} may not depend on {on}"));
        }
        if let Some(owned) = OWNED.iter().find(|owned| owned.crates.contains(&on)) {
            if !owned.packages.contains(&name) {
                violations.push(format!("{name} may not depend on {on}: only {} may", owned.packages.join(", ")));
            }
            if dependency.renamed {
                violations.push(format!("{name} renames {on}, which hides it from this test"));
            }
        }
        for (_, feature) in FORBIDDEN_FEATURES.iter().filter(|(one, _)| *one == on) {
            if dependency.features.iter().any(|one| one == feature) {
                violations.push(format!("{name} switches on {on}/{feature}"));
            }
        }
    }
    violations
}

/// `path` is relative to the workspace.
fn source_violations(path: &str, text: &str) -> Vec<String> {
    let code = code_of(text);
    let words: Vec<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut violations = Vec::new();
    for owned in OWNED {
        let is_place = |place: &&str| if place.ends_with('/') { path.starts_with(*place) } else { path == *place };
        if owned.places.iter().any(is_place) {
            continue;
        }
        for name in owned.crates {
            if words.contains(&name.replace('-', "_").as_str()) {
                violations.push(format!("{path} names {name}: only {} may", owned.places.join(", ")));
            }
        }
    }
    violations
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the workspace")
}

fn cargo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs")
}

fn packages() -> Vec<Package> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let dependency = |value: &Value| Dependency {
        name: text(&value["name"]),
        renamed: !value["rename"].is_null(),
        features: list(&value["features"]).iter().map(text).collect(),
    };
    let package = |value: &Value| Package {
        name: text(&value["name"]),
        dependencies: list(&value["dependencies"]).iter().map(dependency).collect(),
    };
    list(&metadata["packages"]).iter().map(package).collect()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let hidden_or_built = path.file_name().is_some_and(|name| name == "target" || name == "node_modules");
        if path.is_dir() && !hidden_or_built {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_manifest_keeps_the_rules() {
    let packages = packages();
    assert_eq!(packages.len(), MAY_DEPEND_ON.len(), "a rule for each crate, a crate for each rule");
    let violations: Vec<String> = packages.iter().flat_map(manifest_violations).collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn every_source_keeps_the_rules() {
    let mut files = Vec::new();
    SOURCES.iter().for_each(|folder| rust_files(&root().join(folder), &mut files));
    assert!(files.len() > 20, "only {} sources found", files.len());
    let violations: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
            source_violations(&path, &fs::read_to_string(file).expect("UTF-8"))
        })
        .collect();
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Two providers of cryptography in one process: whoever asks rustls for the default one panics.
#[test]
fn ring_is_not_in_the_tree() {
    let output = cargo(&["tree", "--workspace", "--invert", "ring"]);
    let (tree, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(tree.trim().is_empty(), "\n{tree}");
    let not_there = said.contains("did not match any packages") || said.contains("nothing to print");
    assert!(not_there, "cargo tree says something else: {said}");
}

fn package(name: &str, dependencies: &[&str]) -> Package {
    let dependency = |name: &&str| Dependency { name: (*name).to_owned(), ..Dependency::default() };
    Package { name: name.to_owned(), dependencies: dependencies.iter().map(dependency).collect() }
}

#[test]
fn an_edge_against_the_arrow_is_seen() {
    for (name, on) in [
        ("gateway", "worker"),
        ("worker", "gateway"),
        ("schemas", "jobs"),
        ("jobs", "store"),
        ("jobs", "bus"),
        ("bus", "jobs"),
        ("bus", "store"),
        ("store", "bus"),
        ("store", "gateway"),
        ("worker", "patchbay"),
        ("gateway", "tests"),
    ] {
        let violations = manifest_violations(&package(name, &["serde", on]));
        assert_eq!(violations, [format!("{name} may not depend on {on}")]);
    }
    assert!(manifest_violations(&package("gateway", &["schemas", "jobs", "bus", "store", "axum"])).is_empty());
    assert_eq!(manifest_violations(&package("helpers", &[])).len(), 1);
}

#[test]
fn a_crate_in_the_wrong_manifest_is_seen() {
    for (name, on) in [
        ("worker", "fastwebsockets"),
        ("patchbay", "russh"),
        ("gateway", "async-nats"),
        ("gateway", "sqlx"),
        ("gateway", "apalis-sqlite"),
        ("tests", "apalis"),
        ("gateway", "tokio-tungstenite"),
        ("worker", "axum"),
        ("jobs", "tokio"),
    ] {
        assert_eq!(manifest_violations(&package(name, &[on])).len(), 1, "{name} → {on}");
    }
    let mut hidden = package("store", &["sqlx"]);
    hidden.dependencies[0].renamed = true;
    assert_eq!(manifest_violations(&hidden).len(), 1);
    let mut second_library = package("gateway", &["axum"]);
    second_library.dependencies[0].features = vec!["json".to_owned(), "ws".to_owned()];
    assert_eq!(manifest_violations(&second_library), ["gateway switches on axum/ws"]);
}

#[test]
fn a_crate_named_in_the_wrong_place_is_seen() {
    for (path, text) in [
        ("gateway/src/agent/ws.rs", "use fastwebsockets::Frame;"),
        ("tests/src/socket/mod.rs", "use fastwebsockets::Frame;"),
        ("gateway/src/sockets.rs", "use fastwebsockets::Frame;"),
        ("gateway/src/terminal/mod.rs", "fn f() { russh::client::connect(); }"),
        ("worker/src/lib.rs", "use ::async_nats as nats;"),
        ("gateway/src/api.rs", "#[derive(sqlx::FromRow)] struct Row;"),
        ("store/src/sqlite/hosts.rs", "use {apalis_sqlite::queries, serde::Serialize};"),
        ("tests/it/main.rs", "pub(crate) use apalis\n    ::prelude::*;"),
        ("gateway/src/socket/mod.rs", "extern crate tokio_tungstenite;"),
        ("jobs/src/lib.rs", "let quote = '\"'; tokio::spawn(f); let s = \"\";"),
        ("jobs/src/lib.rs", "fn f<'a>(x: &'a str) { tokio::spawn(f) }"),
        ("jobs/src/lib.rs", "/* a /* nested */ one */ tokio::spawn(f)"),
        ("jobs/src/lib.rs", "let r = r#\"one \" quote\"#; tokio::spawn(f)"),
        ("src/serve.rs", "use axum::Router;"),
    ] {
        assert_eq!(source_violations(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn the_right_place_comments_and_strings_may_name_it() {
    for (path, text) in [
        ("gateway/src/socket/mod.rs", "use fastwebsockets::Frame;"),
        ("gateway/src/terminal/ssh/mod.rs", "use russh::client;"),
        ("bus/src/nats.rs", "use async_nats::Client;"),
        ("store/src/sqlite/queue.rs", "use apalis_sqlite::queries; use sqlx::Row;"),
        ("worker/src/lib.rs", "use apalis::prelude::*;"),
        ("tests/it/store.rs", "use sqlx::Row;"),
        ("src/terminal.rs", "use tokio_tungstenite::connect_async;"),
        ("jobs/src/lib.rs", "//! No tokio here.\n/* nor sqlx */ const NAME: &str = \"apalis \\\" sqlx\";"),
        (
            "jobs/src/lib.rs",
            "const A: &str = r\"tokio\"; const B: &[u8] = br##\"sqlx\"# axum\"##; const C: char = '\\'';",
        ),
        ("jobs/src/lib.rs", "let for_tokio_later = tokio_name; my_sqlx();"),
    ] {
        assert!(source_violations(path, text).is_empty(), "{path}: {text}");
    }
}

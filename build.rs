//! Tells the binary which commit it is built from: `PATCHBAY_COMMIT` where it is given, as an image's build has no
//! repository, otherwise what git says.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=PATCHBAY_COMMIT");
    // Absent files would run this at every build.
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let given = std::env::var("PATCHBAY_COMMIT").ok().filter(|commit| !commit.is_empty());
    match given.or_else(of_git) {
        Some(commit) => println!("cargo::rustc-env=PATCHBAY_VERSION={version} ({commit})"),
        None => println!("cargo::rustc-env=PATCHBAY_VERSION={version}"),
    }
}

fn of_git() -> Option<String> {
    let asked = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(asked.stdout).ok()?.trim().to_owned();
    (asked.status.success() && !commit.is_empty()).then_some(commit)
}

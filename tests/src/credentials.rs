//! A host's identity, and the file it is kept in between two runs.

use std::{
    fmt,
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// What `patchbay host add NAME --json` and `POST /hosts` answer: one host and its key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The host's id in the server's store.
    pub id: String,
    /// Its name there.
    pub name: String,
    /// What it calls itself: `patchmon_` and 16 hex digits (protocol 1.1).
    pub api_id: String,
    /// 64 hex digits.
    pub api_key: String,
}

impl fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("api_id", &self.api_id)
            .finish_non_exhaustive()
    }
}

/// Reads a file of JSON lines, one host a line. Other fields and empty lines are ignored.
pub fn load(path: &Path) -> anyhow::Result<Vec<Credentials>> {
    let file = std::fs::File::open(path).with_context(|| format!("{}", path.display()))?;
    let mut hosts = Vec::new();
    for (index, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("{}", path.display()))?;
        if line.trim().is_empty() {
            continue;
        }
        let host =
            serde_json::from_str(&line).with_context(|| format!("{}, line {}: no host", path.display(), index + 1))?;
        hosts.push(host);
    }
    Ok(hosts)
}

/// Writes the file anew, readable by its owner only.
pub fn save(path: &Path, hosts: &[Credentials]) -> anyhow::Result<()> {
    // Beside it first, so that a full disk or Ctrl-C never leaves half a file of keys.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = Path::new(&draft);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(draft)
        .with_context(|| format!("{}", draft.display()))?;
    let mut file = BufWriter::new(file);
    for host in hosts {
        serde_json::to_writer(&mut file, host)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    std::fs::rename(draft, path).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn hosts_are_kept_for_the_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts.jsonl");
        let hosts = vec![Credentials {
            id: "1".into(),
            name: "web-1".into(),
            api_id: "patchmon_0123456789abcdef".into(),
            api_key: "00".repeat(32),
        }];
        save(&path, &hosts).unwrap();
        save(&path, &hosts).unwrap();
        assert_eq!(load(&path).unwrap(), hosts);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{hosts:?}").contains("0000"));
    }
}

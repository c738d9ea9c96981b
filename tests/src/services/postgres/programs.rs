//! Where the machine has its PostgreSQL, and as whom it runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};

/// Debian keeps each major version in a folder of its own, outside of PATH.
const VERSIONS: &str = "/usr/lib/postgresql";
/// `initdb` and `postgres` refuse root. The package brings this user.
const USER: &str = "postgres";

/// The folder of one version's programs.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    /// Whom to become, when this is root.
    owner: Option<(u32, u32)>,
}

impl Programs {
    /// The newest version that is installed.
    pub fn find() -> anyhow::Result<Self> {
        let folder = debian().or_else(in_path).context("it is not installed: run `scripts/setup services`")?;
        let owner = match rustix::process::geteuid().is_root() {
            true => Some((id("-u")?, id("-g")?)),
            false => None,
        };
        Ok(Self { folder, owner })
    }

    /// User and group that the server's files must belong to, where those are not our own.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// `initdb` or `postgres`, as a user that it accepts.
    pub fn server_program(&self, name: &str) -> Command {
        let program = self.folder.join(name);
        let Some((user, group)) = self.owner else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command
            .args([format!("--reuid={user}"), format!("--regid={group}")])
            .args(["--clear-groups", "--"])
            .arg(program);
        command
    }

    /// The client.
    pub fn psql(&self) -> PathBuf {
        self.folder.join("psql")
    }
}

fn debian() -> Option<PathBuf> {
    let version = |folder: &Path| folder.file_name()?.to_str()?.parse::<u32>().ok();
    let folders = fs::read_dir(VERSIONS).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let complete = folders.filter(|folder| is_complete(&folder.join("bin")));
    Some(complete.max_by_key(|folder| version(folder))?.join("bin"))
}

fn in_path() -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| is_complete(folder))
}

fn is_complete(folder: &Path) -> bool {
    ["initdb", "postgres", "psql"].iter().all(|program| folder.join(program).is_file())
}

/// The user's or the group's number.
fn id(which: &str) -> anyhow::Result<u32> {
    let asked = Command::new("id").args([which, USER]).output().context("id")?;
    if !asked.status.success() {
        bail!("root may not run it, and there is no user {USER}");
    }
    Ok(String::from_utf8(asked.stdout)?.trim().parse()?)
}

//! A user of this machine that lives as long as its server.

use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::Signal;

use super::send;

/// Names carry the process that made them: what it left behind is known by that.
const PREFIX: &str = "patchbay-test-";
/// Other processes make users, too, one at a time.
const LOCKED: Duration = Duration::from_secs(60);
/// What SIGKILL takes, on a busy machine.
const KILLED: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(50);

/// No colours and no history; the prompt is what tests wait for.
const PROFILE: &str = "export PS1='$ ' LANG=C.UTF-8\nunset HISTFILE\n";

/// Of this process one at a time.
static DATABASE: Mutex<()> = Mutex::new(());

/// A user. Dropped, all that runs as him is killed, and he is removed.
pub struct Account {
    name: String,
    password: String,
    home: PathBuf,
    id: u32,
}

/// One process that runs as the user.
pub struct Process {
    pub id: u32,
    pub name: String,
}

impl Account {
    /// Makes one with a home and a password, and removes those whose processes are gone.
    pub fn create(folder: &Path) -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let _one = DATABASE.lock().expect("lock");
        remove_leftovers();
        let name = format!("{PREFIX}{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let password = format!("{:032x}", rand::random::<u128>());
        let home = folder.join("home");
        fs::create_dir(&home)?;
        fs::write(home.join(".bash_profile"), PROFILE)?;
        let mut useradd = Command::new("/usr/sbin/useradd");
        useradd.args(["--no-create-home", "--no-user-group", "--no-log-init", "--shell", "/bin/bash", "--home-dir"]);
        run(useradd.arg(&home).arg(&name), "")?;
        let (id, group) = ids(&name).context("useradd made no user")?;
        let account = Self { name, password, home, id };
        chown(&account.home, Some(id), Some(group))?;
        run(&mut Command::new("/usr/sbin/chpasswd"), &format!("{}:{}\n", account.name, account.password))?;
        Ok(account)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    /// What runs as him.
    pub fn processes(&self) -> Vec<Process> {
        processes(self.id)
    }

    pub fn kill_processes(&self) {
        kill_processes(self.id);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _one = DATABASE.lock();
        remove(&self.name, self.id);
    }
}

fn processes(user: u32) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let process = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let is_his = entry.metadata().ok()?.uid() == user;
        // `12 (sshd) S 1 …`
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, state) = stat.split_once('(')?.1.rsplit_once(") ")?;
        // What nobody has waited for yet does nothing more.
        (is_his && !state.starts_with(['Z', 'X'])).then(|| Process { id, name: name.to_owned() })
    };
    entries.filter_map(|entry| process(entry.ok()?)).collect()
}

/// Returns when they are gone: the next user may get the same number.
fn kill_processes(user: u32) {
    let deadline = Instant::now() + KILLED;
    loop {
        let alive = processes(user);
        if alive.is_empty() || Instant::now() >= deadline {
            return;
        }
        alive.iter().for_each(|process| send(process.id, Signal::KILL));
        thread::sleep(Duration::from_millis(2));
    }
}

fn remove(name: &str, id: u32) {
    kill_processes(id);
    // Forced: it would count him as logged in.
    let _ = run(Command::new("/usr/sbin/userdel").args(["--force", name]), "");
}

/// Users of processes that were killed, with their watchers.
fn remove_leftovers() {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    for line in users.lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok())) else { continue };
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            remove(name, id);
        }
    }
}

/// His number and that of his group.
fn ids(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Runs a program that changes the users, again while somebody else does.
fn run(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let deadline = Instant::now() + LOCKED;
    loop {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| program.clone())?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let done = child.wait_with_output()?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr);
        if !said.contains("lock") || Instant::now() >= deadline {
            bail!("{program}: {}", said.trim_end());
        }
        thread::sleep(AGAIN);
    }
}

//! One process of a town: a gateway or a worker, which can be killed, frozen and started again on the same address.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tests::internal;
use tokio::time::{Instant, sleep};

use crate::harness::{Logs, PASSWORD, binary, own_address};

/// Far above what a start takes, for machines that are busy.
const READY: Duration = Duration::from_secs(60);

/// Dropping it kills the process.
pub struct Part {
    pub name: String,
    role: &'static str,
    address: std::net::Ipv4Addr,
    env: Vec<(String, String)>,
    folder: TempDir,
    process: Option<Child>,
    logs: Logs,
}

impl Part {
    /// An address and a folder, but no process yet.
    pub fn prepare(role: &'static str, number: usize, env: Vec<(String, String)>) -> Self {
        Self {
            name: format!("{role} {}", number + 1),
            role,
            address: own_address(),
            env,
            folder: tempfile::tempdir().unwrap(),
            process: None,
            logs: Logs::default(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}:3001", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((self.address, 3001))
    }

    fn internal_url(&self) -> String {
        format!("http://{}:3002", self.address)
    }

    /// Sets a variable for the next start.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "{} still runs", self.name);
        let mut command = Command::new(binary());
        command
            .env_clear()
            .arg(self.role)
            .env("PATCHBAY_DATA_DIR", self.folder.path())
            .env("PATCHBAY_LISTEN", format!("{}:3001", self.address))
            .env("PATCHBAY_INTERNAL_LISTEN", format!("{}:3002", self.address))
            .env("PATCHBAY_ADMIN_PASSWORD", PASSWORD)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir(self.folder.path());
        let mut child = command.spawn().unwrap();
        self.logs.follow(child.stdout.take().unwrap());
        self.logs.follow(child.stderr.take().unwrap());
        self.process = Some(child);
    }

    /// Waits until it says that it is ready. One that has ended, because what it needs was not there for ten seconds, is
    /// started again, as a supervisor would.
    pub async fn ready(&mut self) {
        let deadline = Instant::now() + READY;
        while !matches!(internal::readyz(&self.internal_url()).await, Ok(200)) {
            assert!(Instant::now() < deadline, "{} is not ready\n{}", self.name, self.logs.tail());
            if let Some(process) = &mut self.process
                && process.try_wait().unwrap().is_some()
            {
                self.process = None;
                self.spawn();
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL. Returns when it is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// SIGSTOP, or SIGCONT.
    pub fn set_frozen(&self, frozen: bool) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, if frozen { Signal::STOP } else { Signal::CONT }).unwrap();
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What of its memory is in RAM, in KiB.
    pub fn rss(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }

    /// Its last lines, when a test fails.
    pub fn tail(&self) -> String {
        format!("--- {}\n{}", self.name, self.logs.tail())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

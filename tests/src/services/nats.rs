//! A real nats-server that can be killed, started again on the same address, stopped in its tracks, and given another
//! configuration.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PORT: u16 = 4222;
const READY: Duration = Duration::from_secs(20);
/// Addresses that may be somebody else's.
const ATTEMPTS: u8 = 10;

/// A server. Dropping it kills it.
pub struct NatsServer {
    dir: TempDir,
    address: SocketAddr,
    child: Mutex<Option<Running>>,
}

/// A process, and a watcher that ends it when this one is gone: what lives in a static is never dropped.
struct Running {
    server: Child,
    watcher: Child,
}

impl Running {
    fn new(server: Child, folder: &Path) -> Self {
        let watcher = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$1\"; rm -rf \"$2\"", "watcher", &server.id().to_string()])
            .arg(folder)
            // Ours to the end; nobody writes into it.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh starts");
        Self { server, watcher }
    }

    /// kill -9; its folder stays.
    fn end(mut self) {
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl NatsServer {
    /// One that lets everybody do everything.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// One with more in its configuration.
    pub fn start_with(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { dir, address: own_address(), child: Mutex::default() };
        server.configure(config);
        for _ in 0..ATTEMPTS {
            if server.try_start() {
                return server;
            }
            server.address = own_address();
        }
        panic!("nats-server does not start:\n{}", server.log());
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a login.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// A place for files that belong to it.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Its process, for reading its memory from /proc.
    pub fn pid(&self) -> Option<u32> {
        self.child.lock().expect("lock").as_ref().map(|running| running.server.id())
    }

    /// What it wrote into its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("nats.log")).unwrap_or_default()
    }

    /// The configuration of its next start.
    pub fn configure(&self, config: &str) {
        fs::write(self.folder().join("nats.conf"), config).expect("a configuration file");
    }

    /// kill -9.
    pub fn kill(&self) {
        if let Some(running) = self.child.lock().expect("lock").take() {
            running.end();
        }
    }

    /// Starts it again on the same address.
    pub fn start_again(&self) {
        let running = self.child.lock().expect("lock").is_some();
        assert!(running || self.try_start(), "nats-server does not start again:\n{}", self.log());
    }

    /// Kills it, or starts it again.
    pub fn set_away(&self, away: bool) {
        if away { self.kill() } else { self.start_again() }
    }

    /// SIGSTOP, or SIGCONT.
    pub fn set_frozen(&self, frozen: bool) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(pid.expect("it runs"), signal).expect("a signal");
    }

    /// False when it ended by itself: somebody else has its address.
    fn try_start(&self) -> bool {
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(self.folder().join("nats.conf"))
            .arg("--log")
            .arg(self.folder().join("nats.log"))
            .args(["--addr", &self.address.ip().to_string(), "--port", &PORT.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in the terminal is for the test, which kills it.
            .process_group(0);
        let mut child = command.spawn().expect("nats-server starts");
        let deadline = Instant::now() + READY;
        loop {
            if child.try_wait().expect("a child").is_some() {
                return false;
            }
            if greets(self.address) {
                *self.child.lock().expect("lock") = Some(Running::new(child, self.folder()));
                return true;
            }
            assert!(Instant::now() < deadline, "nats-server is not ready:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// NATS speaks first.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(1))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"INFO "
}

/// Debian puts it where only root looks.
fn binary() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/bin")]);
    let found = folders.map(|folder| folder.join("nats-server")).find(|file| file.is_file());
    found.expect("nats-server is not installed: run scripts/setup services")
}

/// 127.20.0.0 to 127.99.255.255: by process and by server, below those of the servers under test.
pub(super) fn own_address() -> SocketAddr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 20 + number % 80, high, low.clamp(1, 254)), PORT))
}

//! A real OpenSSH server with a user of its own: Debian's sshd, a temp dir, a loopback address. It needs root, for the
//! user and for sshd itself.
//!
//! A watcher ends the server, removes the user and the folder as soon as this process is gone, however that came.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

mod account;
mod keys;
#[cfg(test)]
mod tests;

use account::Account;
use keys::KeyPairs;
pub use keys::{Algorithm, Format, KeyKind, PASSPHRASE};

const SSHD: &str = "/usr/sbin/sshd";
/// sshd shuts its children up in here, and the system makes it only at boot.
const EMPTY_FOLDER: &str = "/run/sshd";
const PORT: u16 = 2222;
const READY: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(10);
/// Addresses that may be somebody else's.
const ATTEMPTS: u8 = 10;

/// How a server lets people in. Keys pass in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// By password, without PAM.
    Password,
    /// PAM asks for the password (keyboard-interactive), and nothing takes it unasked.
    Questions,
    /// By password, and with nothing but what was usual ten years ago: ssh-rsa, group14-sha1, aes128-cbc, hmac-sha1.
    Legacy,
}

impl Variant {
    fn settings(self) -> &'static str {
        match self {
            Self::Password => "UsePAM no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n",
            Self::Questions => "UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication yes\n",
            Self::Legacy => {
                "UsePAM no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\n\
                 HostKeyAlgorithms ssh-rsa\nPubkeyAcceptedAlgorithms ssh-rsa\nKexAlgorithms diffie-hellman-group14-sha1\n\
                 Ciphers aes128-cbc\nMACs hmac-sha1\n"
            }
        }
    }

    /// The host key that a client takes which prefers none.
    fn host_key(self) -> &'static str {
        if self == Self::Legacy { "rsa" } else { "ed25519" }
    }
}

/// A server. Dropping it ends it, all sessions, and its user.
pub struct OpenSsh {
    variant: Variant,
    address: SocketAddr,
    account: Account,
    key_pairs: KeyPairs,
    child: Mutex<Option<Running>>,
    // Last: the others use it until they are gone.
    dir: TempDir,
}

/// The listener, and the watcher.
struct Running {
    server: Child,
    watcher: Child,
}

impl OpenSsh {
    /// Starts one.
    ///
    /// # Panics
    /// As [`OpenSsh::try_start`] fails.
    pub fn start(variant: Variant) -> Self {
        Self::try_start(variant, "").unwrap_or_else(|error| panic!("OpenSSH: {error:#}"))
    }

    /// Starts one with more lines in its sshd_config, which win over ours.
    ///
    /// # Errors
    /// When it is not installed, when this is not root, or when it does not start, with what it said.
    pub fn try_start(variant: Variant, settings: &str) -> anyhow::Result<Self> {
        ensure!(Path::new(SSHD).is_file(), "it is not installed: run `scripts/setup services`");
        ensure!(rustix::process::geteuid().is_root(), "sshd and its users need root: run these tests as root");
        make_folder(Path::new(EMPTY_FOLDER))?;
        let dir = tempfile::Builder::new().prefix("patchbay-sshd-").tempdir()?;
        // Its user has to get to his home.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let account = Account::create(dir.path())?;
        let key_pairs = KeyPairs::new(dir.path());
        let mut server = Self { variant, address: own_address(), account, key_pairs, child: Mutex::default(), dir };
        server.make_host_keys()?;
        fs::write(server.folder().join("authorized_keys"), "")?;
        for _ in 0..ATTEMPTS {
            server.configure(settings)?;
            if server.try_run()? {
                return Ok(server);
            }
            server.address = own_address();
        }
        bail!("sshd does not start:\n{}", server.log())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may log in.
    pub fn user(&self) -> &str {
        self.account.name()
    }

    /// With what, unless by key.
    pub fn password(&self) -> &str {
        self.account.password()
    }

    /// His home, where tests may leave files.
    pub fn home(&self) -> PathBuf {
        self.account.home().to_owned()
    }

    /// The text of a private key that is let in. Those with [`KeyKind::encrypted`] open with [`PASSPHRASE`].
    ///
    /// # Panics
    /// When ssh-keygen does not make it.
    pub fn key(&self, kind: KeyKind) -> String {
        self.key_pairs.text(kind).unwrap_or_else(|error| panic!("{kind:?}: {error:#}"))
    }

    /// The fingerprint of the host key that clients see, such as `SHA256:…`.
    ///
    /// # Panics
    /// When ssh-keygen does not tell.
    pub fn fingerprint(&self) -> String {
        let file = self.host_key_file(self.variant.host_key());
        keys::fingerprint(&file).unwrap_or_else(|error| panic!("{}: {error:#}", file.display()))
    }

    /// What it wrote into its log so far, debug lines left out.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder().join("sshd.log")).unwrap_or_default()
    }

    /// How many are logged in.
    pub fn sessions(&self) -> usize {
        // One process a session runs as the user and is called so; the shell is its child.
        self.account.processes().iter().filter(|process| process.name == "sshd").count()
    }

    /// Waits until so many are logged in.
    ///
    /// # Panics
    /// When that does not come within 20 s.
    pub async fn wait_sessions(&self, count: usize) {
        let deadline = Instant::now() + READY;
        while self.sessions() != count {
            assert!(Instant::now() < deadline, "{} sessions, not {count}:\n{}", self.sessions(), self.log());
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Ends all sessions as a host that fails: SIGKILL to all that runs as the user. New ones are let in.
    pub fn end_sessions(&self) {
        self.account.kill_processes();
    }

    /// SIGSTOP or SIGCONT to the server and all sessions: a host that says nothing more.
    ///
    /// # Panics
    /// When the server does not run.
    pub fn set_frozen(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let running = self.child.lock().expect("lock");
        let server = running.as_ref().expect("it runs").server.id();
        let sessions = self.account.processes().into_iter().map(|process| process.id);
        for process in [server].into_iter().chain(children(server)).chain(sessions) {
            send(process, signal);
        }
    }

    /// Ends the server and all sessions.
    pub fn stop(&self) {
        if let Some(running) = self.child.lock().expect("lock").take() {
            running.end();
        }
        self.account.kill_processes();
    }

    /// Starts it again on its address, as the same host.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_again(&self) {
        let started = self.try_run().unwrap_or_else(|error| panic!("OpenSSH: {error:#}"));
        assert!(started, "sshd does not start again:\n{}", self.log());
    }

    /// Ends it and starts it again on its address with new host keys: another host, or somebody in between.
    ///
    /// # Panics
    /// As [`OpenSsh::start_again`].
    pub fn change_host_keys(&self) {
        self.stop();
        self.make_host_keys().unwrap_or_else(|error| panic!("{error:#}"));
        self.start_again();
    }

    fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn host_key_file(&self, algorithm: &str) -> PathBuf {
        self.folder().join(format!("host_{algorithm}"))
    }

    fn make_host_keys(&self) -> anyhow::Result<()> {
        ["ed25519", "rsa"].iter().try_for_each(|algorithm| keys::generate(algorithm, &self.host_key_file(algorithm)))
    }

    fn configure(&self, settings: &str) -> anyhow::Result<()> {
        let folder = self.folder().display();
        let config = format!(
            "{settings}\nListenAddress {}\nHostKey {folder}/host_ed25519\nHostKey {folder}/host_rsa\n\
             AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nLogLevel VERBOSE\n{}\
             PubkeyAuthentication yes\nPermitRootLogin no\nAllowUsers {}\nStrictModes no\nUseDNS no\nPrintMotd no\n\
             PrintLastLog no\nX11Forwarding no\nMaxStartups 500\nMaxSessions 100\nMaxAuthTries 10\n",
            self.address,
            self.variant.settings(),
            self.account.name(),
        );
        fs::write(self.folder().join("sshd_config"), config).context("sshd_config")
    }

    /// False when it ended by itself: somebody else has its address, or the configuration is wrong.
    fn try_run(&self) -> anyhow::Result<bool> {
        let mut command = Command::new(SSHD);
        command
            .args(["-D", "-e", "-f"])
            .arg(self.folder().join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::options().append(true).create(true).open(self.folder().join("sshd.log"))?)
            // Ctrl-C in the terminal is for the test, which ends it.
            .process_group(0);
        let mut server = command.spawn().context(SSHD)?;
        let deadline = Instant::now() + READY;
        loop {
            if server.try_wait()?.is_some() {
                return Ok(false);
            }
            if greets(self.address) {
                break;
            }
            if Instant::now() >= deadline {
                let _ = server.kill();
                let _ = server.wait();
                bail!("sshd is not ready:\n{}", self.log());
            }
            thread::sleep(AGAIN);
        }
        *self.child.lock().expect("lock") = Some(Running::new(server, self.folder(), &self.account)?);
        Ok(true)
    }
}

impl Drop for OpenSsh {
    fn drop(&mut self) {
        self.stop();
        // The user goes with his account.
    }
}

impl Running {
    fn new(server: Child, folder: &Path, account: &Account) -> anyhow::Result<Self> {
        let watcher = Command::new("sh")
            .args(["-c", include_str!("openssh/watcher.sh"), "watcher", &server.id().to_string()])
            .args([account.name(), &account.id().to_string()])
            .arg(folder)
            // Ours to the end; nobody writes into it.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("sh")?;
        Ok(Self { server, watcher })
    }

    fn end(mut self) {
        let _ = self.watcher.kill();
        let _ = self.watcher.wait();
        // Those that are not logged in yet outlive it.
        let connections = children(self.server.id());
        let _ = self.server.kill();
        let _ = self.server.wait();
        connections.into_iter().for_each(|process| send(process, Signal::KILL));
    }
}

/// The processes that a process has started and that still run.
fn children(process: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn send(process: u32, signal: Signal) {
    if let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(process, signal);
    }
}

/// SSH servers speak first.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let mut greeting = [0; 8];
    stream.set_read_timeout(Some(READY)).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"SSH-2.0-"
        // Said goodbye to properly, it logs no reset.
        && stream.write_all(b"SSH-2.0-ready\r\n").is_ok()
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    if !path.is_dir() {
        fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// 127.20.0.0 to 127.99.255.255: by process and by server, so that a restart finds its port free.
fn own_address() -> SocketAddr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 20 + number % 80, high, low.clamp(1, 254)), PORT))
}

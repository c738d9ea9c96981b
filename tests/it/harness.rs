//! The real `patchbay`, started in a data dir of its own: what every suite in here begins with.
//!
//! `PATCHBAY_TEST_ON=split` has the same suites run on a gateway and a worker of their own, over a real NATS and a real
//! PostgreSQL, instead of one process on SQLite and its own bus. What is about the one process alone says so
//! ([`Server::embedded`]).
//!
//! Each server gets a loopback address of its own, so that suites run side by side, and the same one again after a
//! restart, so that agents find it.

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tests::{
    admin::Admin,
    credentials::Credentials,
    fleet::{Fleet, Recipe},
    log::FrameLog,
    server::Server as Target,
};

mod split;

use split::Split;

/// The password of `admin` on every server of a test.
pub const PASSWORD: &str = "plain-words-for-a-test-7";

const READY: Duration = Duration::from_secs(30);

/// Do servers of this run have a gateway and a worker of their own, over NATS and PostgreSQL?
pub fn is_spread() -> bool {
    split::wanted()
}

/// A server process. Dropping it kills it; when the test is failing, its last log lines are shown.
pub struct Server {
    data_dir: TempDir,
    address: Ipv4Addr,
    env: Vec<(String, String)>,
    process: Option<Child>,
    /// What a server that is spread out has beside its gateway.
    split: Option<Split>,
    /// A gateway beside another server's, whose worker works for it too.
    beside: bool,
    logs: Logs,
}

impl Server {
    /// Starts one with nothing special about it, and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more in its environment.
    pub async fn start_with(env: &[(&str, &str)]) -> Self {
        let mut server = Self::prepare(env);
        server.restart().await;
        server
    }

    /// A data dir and an address, but no process yet.
    pub fn prepare(env: &[(&str, &str)]) -> Self {
        if split::wanted() { Self::spread_out(env) } else { Self::embedded(env) }
    }

    /// The same, always spread out.
    pub fn spread_out(env: &[(&str, &str)]) -> Self {
        let mut server = Self::embedded(env);
        server.split = Some(Split::prepare());
        server
    }

    /// The same, always as one process.
    pub fn embedded(env: &[(&str, &str)]) -> Self {
        Self {
            data_dir: tempfile::tempdir().unwrap(),
            address: own_address(),
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            process: None,
            split: None,
            beside: false,
            logs: Logs::default(),
        }
    }

    /// Another gateway on the database and the bus of one that is spread out, with an address of its own. Started.
    pub async fn second_gateway(&self) -> Self {
        let env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut server = Self::embedded(&env);
        server.split = Some(self.split.as_ref().expect("it is one process").beside());
        server.beside = true;
        server.restart().await;
        server
    }

    /// Is it spread out?
    pub fn is_split(&self) -> bool {
        self.split.is_some()
    }

    /// The database of one that is spread out.
    pub fn postgres_url(&self) -> Option<String> {
        self.split.as_ref().map(Split::database_url)
    }

    /// The bus of those that are spread out.
    pub fn bus_address() -> SocketAddr {
        Split::bus_address()
    }

    /// Starts the process on the same data dir and address, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.spawn();
        self.ready(READY).await;
        if self.split.is_some() && !self.beside {
            self.worker_ready().await;
        }
    }

    /// Starts the process and does not wait.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "it still runs");
        let role = if self.split.is_some() { &["gateway"][..] } else { &[] };
        self.process = Some(self.launch(role, "3002"));
        if !self.beside && self.split.as_ref().is_some_and(|split| split.worker.is_none()) {
            let worker = self.launch(&["worker"], "3003");
            self.split.as_mut().unwrap().worker = Some(worker);
        }
    }

    fn launch(&self, role: &[&str], internal: &str) -> Child {
        let mut command = self.command();
        command.args(role).env("PATCHBAY_INTERNAL_LISTEN", format!("{}:{internal}", self.address));
        // Set by a test, it counts for all.
        if let Some((_, own)) = self.env.iter().find(|(name, _)| name == "PATCHBAY_INTERNAL_LISTEN") {
            command.env("PATCHBAY_INTERNAL_LISTEN", own);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.logs.follow(child.stdout.take().unwrap());
        self.logs.follow(child.stderr.take().unwrap());
        child
    }

    /// SIGTERM to the worker of one that is spread out, and its end in order.
    pub async fn stop_worker(&mut self) {
        let mut worker = self.split.as_mut().and_then(|split| split.worker.take()).expect("no worker");
        kill_process(Pid::from_child(&worker), Signal::TERM).unwrap();
        let deadline = Instant::now() + READY;
        let status = loop {
            if let Some(status) = worker.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the worker does not end\n{}", self.logs.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(status.code(), Some(0), "{}", self.logs.tail());
    }

    /// Another worker for one that is spread out.
    pub async fn start_worker(&mut self) {
        let worker = self.launch(&["worker"], "3003");
        self.split.as_mut().expect("it is one process").worker = Some(worker);
        self.worker_ready().await;
    }

    async fn worker_ready(&self) {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().unwrap();
        let (url, deadline) = (format!("http://{}:3003/readyz", self.address), Instant::now() + READY);
        while !matches!(client.get(&url).send().await, Ok(answer) if answer.status().is_success()) {
            assert!(Instant::now() < deadline, "no worker\n{}", self.logs.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The binary with this server's environment: for admin commands, or starts that must fail.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PATCHBAY_DATA_DIR", self.data_dir.path())
            .env("PATCHBAY_LISTEN", format!("{}:3001", self.address))
            .env("PATCHBAY_INTERNAL_LISTEN", format!("{}:3002", self.address))
            .env("PATCHBAY_ADMIN_PASSWORD", PASSWORD)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned()))
            .envs(self.split.iter().flat_map(Split::env))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .current_dir(self.data_dir.path());
        command
    }

    /// Sets a variable for the next start; None takes it away.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.env.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.env.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Waits until `/readyz` says yes; fails the test when the process ends first.
    pub async fn ready(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).build().unwrap();
        let url = format!("{}/readyz", self.internal_url());
        loop {
            if let Ok(answer) = client.get(&url).send().await
                && answer.status().is_success()
            {
                return;
            }
            if let Some(status) = self.exit_status() {
                panic!("patchbay ended before it was ready: {status}\n{}", self.logs.tail());
            }
            assert!(Instant::now() < deadline, "not ready within {timeout:?}\n{}", self.logs.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The agents' and the API's URL, without `/api`.
    pub fn url(&self) -> String {
        format!("http://{}:3001", self.address)
    }

    /// `/livez`, `/readyz`, `/metrics`.
    pub fn internal_url(&self) -> String {
        format!("http://{}:3002", self.address)
    }

    /// Where its store, secret and socket are.
    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    /// The secret that its sessions are signed with.
    pub fn secret(&self) -> String {
        match &self.split {
            Some(split) => split.secret(),
            None => std::fs::read_to_string(self.data_dir().join("secret")).unwrap(),
        }
    }

    /// What a simulated agent dials.
    pub fn target(&self) -> Target {
        Target::parse(&self.url()).unwrap()
    }

    /// A client that has logged in as admin.
    pub async fn admin(&self) -> Admin {
        Admin::login(&self.url(), "admin", PASSWORD).await.unwrap()
    }

    /// New hosts `PREFIX-1` and so on, made over the API.
    pub async fn add_hosts(&self, prefix: &str, count: usize) -> Vec<Credentials> {
        let names: Vec<_> = (1..=count).map(|number| format!("{prefix}-{number}")).collect();
        self.admin().await.add_hosts(&names).await.unwrap()
    }

    /// Simulated agents for these hosts, with a log in memory.
    pub fn fleet(&self, recipe: &Recipe, hosts: &[Credentials]) -> Fleet {
        Fleet::start(self.target(), recipe.agents(hosts), None, FrameLog::in_memory())
    }

    /// SIGKILL, now. Returns when the process is gone.
    pub fn kill(&mut self) {
        let worker = self.split.as_mut().and_then(|split| split.worker.take());
        for mut process in self.process.take().into_iter().chain(worker) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// kill -9 of the worker of a server that is spread out: the gateway goes on alone.
    pub fn kill_worker(&mut self) {
        if let Some(mut worker) = self.split.as_mut().and_then(|split| split.worker.take()) {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self, timeout: Duration) -> ExitStatus {
        self.terminate();
        self.wait_exit(timeout).await
    }

    /// SIGTERM, and does not wait.
    pub fn terminate(&self) {
        let process = self.process.as_ref().expect("it does not run");
        for process in std::iter::once(process).chain(self.split.iter().filter_map(|split| split.worker.as_ref())) {
            let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
        }
    }

    /// Waits until the process ended by itself, as at a failpoint. Then [`Server::restart`] starts it again.
    pub async fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exit_status() {
                // Of one that is spread out the other part dies too, so that the next start is one of all.
                self.kill();
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {timeout:?}\n{}", self.logs.tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The status if it has ended.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        let worker = self.split.as_mut().and_then(|split| split.worker.as_mut());
        let ended = |process: &mut Child| match process.try_wait() {
            Ok(status) => status,
            Err(_) => Some(ExitStatus::from_raw(-1)),
        };
        ended(self.process.as_mut()?).or_else(|| ended(worker?))
    }

    /// The process, for reading its memory from /proc.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// What it has logged, over all starts.
    pub fn logs(&self) -> Vec<String> {
        self.logs.lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a line of the log contains this.
    pub async fn wait_log(&self, text: &str, timeout: Duration) -> String {
        let (logs, text) = (self.logs.clone(), text.to_owned());
        tokio::task::spawn_blocking(move || logs.wait(&text, timeout)).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the last lines of {}:\n{}", self.url(), self.logs.tail());
        }
    }
}

/// Beside this test's own executable, where cargo builds all of the workspace: target/<profile>/patchbay.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PATCHBAY_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join("patchbay");
    assert!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    path
}

/// 127.100.0.0 to 127.227.255.255: by process and by server, so that nobody meets another one's port.
pub fn own_address() -> Ipv4Addr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + number % 128, high, low.clamp(1, 254))
}

/// The lines that a process printed.
#[derive(Clone, Default)]
pub struct Logs {
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Logs {
    pub fn follow(&self, stream: impl Read + Send + 'static) {
        let lines = self.lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                lines.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                lines.1.notify_all();
            }
        });
    }

    fn wait(&self, text: &str, timeout: Duration) -> String {
        let lines = self.lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |lines: &[String]| lines.iter().find(|line| line.contains(text)).cloned();
        let (lines, _) = self.lines.1.wait_timeout_while(lines, timeout, |lines| find(lines).is_none()).unwrap();
        find(&lines).unwrap_or_else(|| panic!("no {text:?} in the log within {timeout:?}\n{}", tail(&lines)))
    }

    pub fn tail(&self) -> String {
        tail(&self.lines.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn tail(lines: &[String]) -> String {
    lines[lines.len().saturating_sub(60)..].join("\n")
}

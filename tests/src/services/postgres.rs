//! A PostgreSQL server of our own: the machine's programs, a temp dir, a loopback address.
//!
//! Suites share one server a process ([`Postgres::shared`]) and take a database each; who wants to kill it starts one of
//! their own ([`Postgres::start_own`]). Either way a keeper (`keeper.sh`) stands between this process and the server: it
//! ends the server and removes the folder as soon as this process is gone, however that came.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Write},
    net::Ipv4Addr,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tokio::sync::OnceCell;

mod access;
mod programs;

use access::Access;
pub use access::Database;
use programs::Programs;

const PORT: u16 = 5432;
/// Recovery after a kill included, on a busy machine.
const START: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);
const LOG_LINES: usize = 60;

/// What of a power cut the server survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: no fsync. For suites that never stop the server.
    None,
    /// Everything, as in production. For faults and benchmarks.
    Full,
}

impl Durability {
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::None => &["fsync=off", "synchronous_commit=off", "full_page_writes=off"],
            Self::Full => &[],
        }
    }
}

/// A server that runs, unless it was killed or stopped. Dropping it ends it and removes its folder.
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    home: PathBuf,
    durability: Durability,
    access: Arc<Access>,
    databases: AtomicU32,
    running: Option<Running>,
}

impl Postgres {
    /// The server that all tests of this process share: quick, and never stopped.
    ///
    /// # Panics
    /// When there is no PostgreSQL, or it does not start, with what it said.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::start_own(Durability::None)).await
    }

    /// A server for one test alone, which may take it away.
    ///
    /// # Panics
    /// As [`Postgres::shared`].
    pub async fn start_own(durability: Durability) -> Self {
        blocking(move || Self::start(durability)).await.unwrap_or_else(|error| panic!("PostgreSQL: {error:#}"))
    }

    fn start(durability: Durability) -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let folder = tempfile::Builder::new().prefix("patchbay-postgres-").tempdir()?;
        if let Some((user, group)) = programs.owner() {
            chown(folder.path(), Some(user), Some(group))?;
        }
        let access = Access::new(programs.psql(), own_address(), PORT);
        initdb(&programs, folder.path(), access.password())?;
        let running = Running::start(&programs, folder.path(), &access, durability)?;
        access.prepare()?;
        let (home, access) = (folder.keep(), Arc::new(access));
        Ok(Self { programs, home, durability, access, databases: AtomicU32::new(0), running: Some(running) })
    }

    /// An empty database with hstore, owned by a role that is no superuser, as production has it.
    ///
    /// # Panics
    /// When the server does not make one.
    pub async fn database(&self) -> Database {
        self.create("template1").await
    }

    /// The same without hstore, and its owner may not add it.
    ///
    /// # Panics
    /// As [`Postgres::database`].
    pub async fn database_without_hstore(&self) -> Database {
        self.create("template0").await
    }

    async fn create(&self, template: &'static str) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        let access = self.access.clone();
        blocking(move || Database::create(access, name, template))
            .await
            .unwrap_or_else(|error| panic!("a database of PostgreSQL: {error:#}"))
    }

    /// Cuts the connections that a condition on `pg_stat_activity` picks, such as `query LIKE 'LISTEN%'`, and counts them.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn terminate_backends(&self, condition: &str) -> usize {
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND ({condition})"
        );
        let access = self.access.clone();
        let counted = blocking(move || access.superuser("postgres", &sql)).await;
        let counted = counted.unwrap_or_else(|error| panic!("{condition}: {error:#}"));
        counted.parse().unwrap_or_else(|_| panic!("no number: {counted:?}"))
    }

    /// SIGKILL to the server and to all it has forked, as when the machine fails. Returns when it is gone.
    pub fn kill(&mut self) {
        // A backend that outlives the postmaster would go on committing while clients believe the server away.
        if let Some(running) = self.running.take() {
            running.end("KILL");
        }
    }

    /// A fast shutdown: clients are cut off, nothing is lost. Returns when it is gone.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end("INT");
        }
    }

    /// Starts it again on the same address and data. Returns when it takes connections.
    ///
    /// # Panics
    /// When it still runs, or does not start.
    pub async fn restart(&mut self) {
        assert!(self.running.is_none(), "it still runs");
        let (programs, home, durability) = (self.programs.clone(), self.home.clone(), self.durability);
        let access = self.access.clone();
        let started = blocking(move || {
            let deadline = Instant::now() + START;
            loop {
                // A killed backend may still hold the shared memory for a moment: then the start is refused.
                match Running::start(&programs, &home, &access, durability) {
                    Err(_) if Instant::now() < deadline => thread::sleep(AGAIN),
                    started => return started,
                }
            }
        });
        self.running = Some(started.await.unwrap_or_else(|error| panic!("PostgreSQL: {error:#}")));
    }

    /// The folder that holds its data.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The postmaster's process, for reading its memory from /proc.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.server)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.running.take());
        // The keeper has done so, unless the server was killed before.
        let _ = fs::remove_dir_all(&self.home);
    }
}

fn initdb(programs: &Programs, home: &Path, password: &str) -> anyhow::Result<()> {
    let secret = home.join("password");
    fs::write(&secret, password)?;
    if let Some((user, group)) = programs.owner() {
        chown(&secret, Some(user), Some(group))?;
    }
    let made = programs
        .server_program("initdb")
        .args(["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
        .arg(format!("--pwfile={}", secret.display()))
        .arg("-D")
        .arg(home.join("data"))
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .context("initdb")?;
    if !made.status.success() {
        bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
    }
    Ok(())
}

/// The server's process and the keeper between it and us.
#[derive(Debug)]
struct Running {
    keeper: Child,
    /// Closed without an order, the keeper ends the server and removes the folder.
    orders: Option<ChildStdin>,
    server: u32,
}

impl Running {
    fn start(programs: &Programs, home: &Path, access: &Access, durability: Durability) -> anyhow::Result<Self> {
        let mut arguments = vec![format!("listen_addresses={}", access.address()), format!("port={}", access.port())];
        // Many suites with a pool each, on a machine that has other things to do.
        arguments.extend(["unix_socket_directories=", "max_connections=400", "shared_buffers=64MB"].map(str::to_owned));
        arguments.extend(durability.settings().iter().map(|setting| (*setting).to_owned()));
        let server = programs.server_program("postgres");
        let mut keeper = Command::new("sh");
        keeper.args(["-c", include_str!("postgres/keeper.sh"), "keeper"]).arg(home);
        keeper.arg(server.get_program()).args(server.get_args()).arg("-D").arg(home.join("data"));
        keeper.args(arguments.iter().flat_map(|setting| ["-c", setting]));
        keeper.env("LC_ALL", "C").current_dir("/");
        let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let said = keeper.stderr.take().context("no stderr")?;
        let orders = keeper.stdin.take();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let log = thread::Builder::new().name("postgres log".to_owned()).spawn(move || follow(said, &ready))?;
        match is_ready.recv_timeout(START) {
            Ok(server) => Ok(Self { keeper, orders, server }),
            Err(reason) => {
                end(&mut keeper, orders, "INT");
                let last = Vec::from(log.join().unwrap_or_default());
                bail!("it is not ready ({reason}):\n{}", last.join("\n"));
            }
        }
    }

    /// Sends the server this signal, and waits until the keeper says that it is gone.
    fn end(mut self, signal: &str) {
        end(&mut self.keeper, self.orders.take(), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Without an order the keeper ends the server and removes the folder.
        self.orders = None;
        let _ = self.keeper.wait();
    }
}

fn end(keeper: &mut Child, orders: Option<ChildStdin>, signal: &str) {
    if let Some(mut orders) = orders {
        let _ = writeln!(orders, "{signal}");
    }
    let _ = keeper.wait();
}

/// Reads what the keeper and the server say to its end, and tells once that the server takes connections. Gives the last
/// lines.
fn follow(said: ChildStderr, ready: &mpsc::SyncSender<u32>) -> VecDeque<String> {
    let mut last = VecDeque::new();
    let mut lines = BufReader::new(said).lines().map_while(Result::ok);
    // The keeper's own first line.
    let server = lines.next().and_then(|line| line.parse().ok());
    for line in lines {
        if let Some(server) = server
            && line.contains("database system is ready to accept connections")
        {
            let _ = ready.try_send(server);
        }
        if last.len() == LOG_LINES {
            last.pop_front();
        }
        last.push_back(line);
    }
    last
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| panic!("{error}"))
}

/// 127.64.0.0 to 127.95.255.255: by process and by server, so that nobody meets another one's port, and a restart finds
/// it free.
fn own_address() -> Ipv4Addr {
    static STARTED: AtomicU8 = AtomicU8::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + number % 32, high, low.clamp(1, 254))
}

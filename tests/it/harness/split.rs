//! A server that is spread out: what its parts share, and its worker.

use std::{
    net::SocketAddr,
    process::Child,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use tests::services::{
    nats::NatsServer,
    postgres::{Database, Postgres},
};

/// One for all tests of this process, each with a prefix of its own.
static NATS: LazyLock<NatsServer> = LazyLock::new(NatsServer::start);

/// Are the suites to run on it?
pub fn wanted() -> bool {
    match std::env::var("PATCHBAY_TEST_ON") {
        Err(_) => false,
        Ok(on) if on == "split" => true,
        Ok(on) => panic!("PATCHBAY_TEST_ON is {on:?}; there is only split"),
    }
}

/// The parts of one server.
pub struct Split {
    database: Arc<Database>,
    prefix: String,
    pub worker: Option<Child>,
}

impl Split {
    /// A database and a part of the bus, but no process yet.
    pub fn prepare() -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("server-{}", SERVERS.fetch_add(1, Ordering::Relaxed));
        // The harness is asked from within a runtime, which must not be blocked.
        let made = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Postgres::shared().await.database().await })
        });
        Self { database: Arc::new(made.join().expect("a database")), prefix, worker: None }
    }

    /// The same database and the same part of the bus, for another gateway.
    pub fn beside(&self) -> Self {
        Self { database: Arc::clone(&self.database), prefix: self.prefix.clone(), worker: None }
    }

    pub fn bus_address() -> SocketAddr {
        NATS.address()
    }

    pub fn database_url(&self) -> String {
        self.database.superuser_url()
    }

    /// What its sessions are signed with.
    pub fn secret(&self) -> String {
        format!("a-secret-that-all-parts-of-one-server-share-{}", self.prefix)
    }

    /// What all parts are told.
    pub fn env(&self) -> Vec<(String, String)> {
        let all = [
            ("DATABASE_URL", self.database.url()),
            ("PATCHBAY_BUS_URL", NATS.url()),
            ("PATCHBAY_BUS_PREFIX", self.prefix.clone()),
            ("PATCHBAY_SECRET", self.secret()),
            ("PATCHBAY_DB_CONNECTIONS", "6".to_owned()),
            ("PATCHBAY_DRAIN_SECS", "0".to_owned()),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

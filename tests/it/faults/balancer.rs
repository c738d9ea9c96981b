//! What stands in front of the gateways: agents dial one address, and each connection goes to the next gateway that takes
//! it. One that its health checks have found dead gets none.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::copy,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

const DIAL: Duration = Duration::from_secs(1);

struct Backend {
    address: SocketAddr,
    out: AtomicBool,
    open: AtomicUsize,
    dialled: AtomicUsize,
}

/// Dropping it breaks all connections.
pub struct Balancer {
    address: SocketAddr,
    backends: Arc<[Backend]>,
    accepting: JoinHandle<()>,
}

impl Balancer {
    pub async fn start(targets: impl IntoIterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let backend = |address| Backend {
            address,
            out: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            dialled: AtomicUsize::new(0),
        };
        let backends: Arc<[Backend]> = targets.into_iter().map(backend).collect();
        let shared = backends.clone();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for turn in 0.. {
                let Ok((client, _)) = listener.accept().await else { continue };
                while connections.try_join_next().is_some() {}
                let backends = shared.clone();
                connections.spawn(async move { pass(client, &backends, turn).await });
            }
        });
        Self { address, backends, accepting }
    }

    /// What agents dial.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What health checks have found.
    pub fn set_out(&self, gateway: usize, out: bool) {
        self.backends[gateway].out.store(out, Relaxed);
    }

    /// Connections that a gateway has now.
    pub fn open(&self, gateway: usize) -> usize {
        self.backends[gateway].open.load(Relaxed)
    }

    /// Connections that a gateway was given since the start.
    pub fn dialled(&self, gateway: usize) -> usize {
        self.backends[gateway].dialled.load(Relaxed)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut client: TcpStream, backends: &[Backend], turn: usize) {
    for step in 0..backends.len() {
        let backend = &backends[(turn + step) % backends.len()];
        if backend.out.load(Relaxed) {
            continue;
        }
        let Ok(Ok(mut gateway)) = timeout(DIAL, TcpStream::connect(backend.address)).await else { continue };
        let _ = (client.set_nodelay(true), gateway.set_nodelay(true));
        backend.dialled.fetch_add(1, Relaxed);
        let _open = Open::count(backend);
        let ((mut from_client, mut to_client), (mut from_gateway, mut to_gateway)) = (client.split(), gateway.split());
        // Whoever ends first ends both: a frozen gateway would keep the other half for ever.
        tokio::select! {
            _ = copy(&mut from_client, &mut to_gateway) => {}
            _ = copy(&mut from_gateway, &mut to_client) => {}
        }
        return;
    }
}

struct Open<'a>(&'a Backend);

impl<'a> Open<'a> {
    fn count(backend: &'a Backend) -> Self {
        backend.open.fetch_add(1, Relaxed);
        Self(backend)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

//! A network that can be made to fail: silently, so that connections stay open and nothing passes, or openly, so that all
//! connections break and new ones go nowhere.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Everything passes, what was held back first.
    Sound,
    /// Nothing passes, and nobody is told.
    Silent,
    /// Connections break.
    Cut,
}

/// Passes connections on to one address. Dropping it breaks them.
pub struct Proxy {
    address: SocketAddr,
    network: watch::Sender<Network>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// One in front of `target`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let network = watch::Sender::new(Network::Sound);
        let seen = network.subscribe();
        let accepting = tokio::spawn(async move {
            // Dropped with this task, and all connections with it.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let mut cut = seen.clone();
                let passing = pass(client, target, seen.clone());
                connections.spawn(async move {
                    tokio::select! {
                        biased;
                        _ = cut.wait_for(|network| *network == Network::Cut) => {}
                        () = passing => {}
                    }
                });
            }
        });
        Ok(Self { address, network, accepting })
    }

    /// Where to connect instead.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the network does this.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(client: TcpStream, target: SocketAddr, mut network: watch::Receiver<Network>) {
    // A new connection says nothing either.
    if network.wait_for(|network| *network == Network::Sound).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let (client, server) = (client.into_split(), server.into_split());
    tokio::select! {
        () = one_way(client.0, server.1, network.clone()) => {}
        () = one_way(server.0, client.1, network) => {}
    }
}

async fn one_way<R, W>(mut from: R, mut to: W, mut network: watch::Receiver<Network>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let passes = network.wait_for(|network| *network == Network::Sound).await.is_ok();
        if !passes || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

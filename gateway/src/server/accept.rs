//! The accept loop. Every connection is bounded: TLS handshake, headers, idle time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{route::Route, tls::Certificate};
use crate::api::{Health, client::Peer};

/// How long a TLS handshake may take.
const TLS_WAIT: Duration = Duration::from_secs(10);
/// How long the head of a request may take; also how long a connection may wait for its next request. Agents leave one
/// connection open a report (protocol 3).
const HEAD_WAIT: Duration = Duration::from_secs(30);
/// Connections beyond those of agents: HTTP calls under way, browsers.
const EXTRA_CONNECTIONS: usize = 4_096;
/// How long requests under way may take once the process ends.
const GRACE: Duration = Duration::from_secs(3);
/// Bytes that a peer does not acknowledge for so long end its connection, in milliseconds: a stream of events has no
/// other way to see that nobody is there.
const UNACKNOWLEDGED_MS: u32 = 60_000;
/// Connections whose first request is not answered yet. A fleet comes back all at once: beyond this they wait in the
/// kernel's queue, where they cost nothing, instead of each in buffers of ours.
const YOUNG: usize = 512;
/// How long one may count as young; a client that sends nothing must not keep others out.
const YOUNG_FOR: Duration = Duration::from_millis(500);
/// Pause after an accept that failed: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What an accept loop needs of its process.
#[derive(Clone)]
pub struct Process {
    /// Cancelled when the process must end.
    pub stopping: CancellationToken,
    /// Connections are its tasks.
    pub tasks: TaskTracker,
    /// Told when the loop ends too early.
    pub health: Arc<Health>,
    /// Most connections that are expected to stay.
    pub max_connections: usize,
}

/// Accepts until the process ends.
pub async fn run<R: Route>(process: Process, listener: TcpListener, tls: Option<Arc<Certificate>>, routes: R) {
    let deaf = Deaf(process.clone());
    let places = Arc::new(Semaphore::new(process.max_connections + EXTRA_CONNECTIONS));
    let young = Arc::new(Semaphore::new(YOUNG));
    loop {
        let accepted = tokio::select! {
            biased;
            () = process.stopping.cancelled() => break,
            accepted = accept(&listener, &places, &young) => accepted,
        };
        let Accepted { stream, address, place, young } = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (stopping, routes, tls) = (process.stopping.clone(), routes.clone(), tls.clone());
        process.tasks.spawn(async move {
            let peer = Peer { address, tls: tls.is_some() };
            let young = Young(Arc::new(Mutex::new(Some(young))));
            match tls {
                None => serve(&stopping, TokioIo::new(stream), peer, routes, young).await,
                Some(certificate) => match timeout(TLS_WAIT, certificate.accept(stream)).await {
                    Ok(Ok(stream)) => Box::pin(serve(&stopping, TokioIo::new(stream), peer, routes, young)).await,
                    Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                    Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
                },
            }
            drop(place);
        });
    }
    drop(deaf);
}

/// Tells `/livez` when the loop ends although nobody asked it to, by a panic for instance.
struct Deaf(Process);

impl Drop for Deaf {
    fn drop(&mut self) {
        if !self.0.stopping.is_cancelled() {
            self.0.health.accept_loop_died();
        }
    }
}

/// A connection that has a place.
struct Accepted {
    stream: TcpStream,
    address: SocketAddr,
    place: OwnedSemaphorePermit,
    young: OwnedSemaphorePermit,
}

/// The place of a young connection, given up once.
#[derive(Clone)]
struct Young(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Young {
    fn counts(&self) -> bool {
        self.0.lock().is_some()
    }

    fn grown_up(&self) {
        drop(self.0.lock().take());
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>, young: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let young = Arc::clone(young).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // Neither may end the loop: the client may be gone already.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
    Ok(Accepted { stream, address, place, young })
}

async fn serve<S, R>(stopping: &CancellationToken, io: TokioIo<S>, peer: Peer, routes: R, young: Young)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Route,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (routes, young) = (routes.clone(), young.clone());
        async move {
            let response: Response<Body> = routes.call(request.map(Body::new), peer).await;
            young.grown_up();
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(64 << 10)
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = sleep(YOUNG_FOR), if young.counts() => young.grown_up(),
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                break timeout(GRACE, connection).await.unwrap_or(Ok(()));
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(address = %peer.address, %error, "connection ended");
    }
}

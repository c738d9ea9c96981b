//! The accept loop. Every connection is bounded: TLS handshake, headers, idle time.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{route::Route, tls::Certificate};
use crate::{App, api::client::Peer};

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
/// Pause after an accept that failed: out of descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the process ends.
pub async fn run<R: Route>(app: App, listener: TcpListener, tls: Option<Arc<Certificate>>, routes: R) {
    let deaf = Deaf(app.clone());
    let places = Arc::new(Semaphore::new(app.settings.max_connections + EXTRA_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = app.stopping.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let (stream, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (app, routes, tls) = (app.clone(), routes.clone(), tls.clone());
        let tasks = app.tasks.clone();
        tasks.spawn(async move {
            let peer = Peer { address, tls: tls.is_some() };
            match tls {
                None => serve(&app, TokioIo::new(stream), peer, routes).await,
                Some(certificate) => match timeout(TLS_WAIT, certificate.accept(stream)).await {
                    Ok(Ok(stream)) => Box::pin(serve(&app, TokioIo::new(stream), peer, routes)).await,
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
struct Deaf(App);

impl Drop for Deaf {
    fn drop(&mut self) {
        if !self.0.stopping.is_cancelled() {
            self.0.api.health.accept_loop_died();
        }
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // Neither may end the loop: the client may be gone already.
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNACKNOWLEDGED_MS);
    Ok((stream, address, place))
}

async fn serve<S, R>(app: &App, io: TokioIo<S>, peer: Peer, routes: R)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Route,
{
    let service = service_fn(|request: Request<Incoming>| {
        let routes = routes.clone();
        async move {
            let response: Response<Body> = routes.call(request.map(Body::new), peer).await;
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
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = app.stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(address = %peer.address, %error, "connection ended");
    }
}

//! Upgrades: every WebSocket of a gateway comes through [`upgrade`].
//!
//! In this order (why: ARCHITECTURE.md, "Presence"): authenticate, subscribe, 101, socket in hand, epoch and wake in
//! one transaction, claim, greet. A client that dies before its socket is there has replaced nobody.

use std::{net::IpAddr, time::Duration};

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use bus::{MAILBOX, Subscribe, Subscription};
use fastwebsockets::upgrade::UpgradeFut;
use hyper_util::rt::TokioIo;
use schemas::subject;
use serde_json::json;
use store::{Connect, Connected};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::{
    agent_session::{AgentSession, Identity, REVOKED},
    connection,
    session::Effect,
};
use crate::{
    App,
    agent::{Authenticated, Reject, authenticate},
    api::{
        client::{Peer, client_address, is_secure},
        edge::Served,
    },
    presence::{Admission, Held, Holding},
};

/// What hyper hands over, plain or TLS.
type Stream = TokioIo<hyper::upgrade::Upgraded>;

/// How long the bus may take to confirm a subscription.
const SUBSCRIBE_WAIT: Duration = Duration::from_secs(2);
/// How long the client may take to switch protocols after our 101.
const SWITCH_WAIT: Duration = Duration::from_secs(10);
/// How long a whole authentication may take.
const AUTHENTICATE_WAIT: Duration = Duration::from_secs(15);

/// Does this request ask for a WebSocket?
#[must_use]
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    fastwebsockets::upgrade::is_upgrade_request(request)
}

/// What RFC 6455 (4.1, 4.2.1) wants of the request and the library does not look at.
fn is_malformed<B>(request: &Request<B>) -> Option<&'static str> {
    // Sixteen bytes in base64.
    let is_key = |key: &[u8]| {
        let (digits, end) = key.split_at_checked(22).unwrap_or_default();
        end == b"==" && digits.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    };
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    if request.method() != Method::GET {
        Some("A WebSocket is asked for by GET")
    } else if key.is_some_and(|key| !is_key(key)) {
        Some("Sec-WebSocket-Key is not 16 bytes in base64")
    } else {
        None
    }
}

/// Routes an upgrade. The path has been brought into its plain form.
pub async fn upgrade(app: &App, peer: &Peer, request: Request<Body>) -> Response {
    if let Some(why) = is_malformed(&request) {
        return reject(StatusCode::BAD_REQUEST, why, None);
    }
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    let response = match segments[..] {
        ["api", _, "agents", "ws"] => {
            let mut response = agent(app, peer, request).await;
            response.extensions_mut().insert(Served("/api/{version}/agents/ws"));
            response
        }
        ["api", _, "ssh-terminal", host_id] => terminal(app, peer, request, host_id).await,
        ["api", _, "ssh-terminal"] => terminal(app, peer, request, "").await,
        [first, ..] if first.starts_with("bullboard") => super::dashboard::upgrade(app, peer, request).await,
        [] => reject(StatusCode::BAD_REQUEST, "Missing path", None),
        _ => reject(StatusCode::NOT_FOUND, "Not found", None),
    };
    without_keep_alive(response)
}

async fn terminal(app: &App, peer: &Peer, request: Request<Body>, host_id: &str) -> Response {
    let mut response = super::terminal::upgrade(app, peer, request, host_id).await;
    response.extensions_mut().insert(Served("/api/{version}/ssh-terminal/{host_id}"));
    response
}

/// A refused client has nothing more to ask on this connection.
fn without_keep_alive(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn reject(status: StatusCode, error: &str, retry_after_secs: Option<u64>) -> Response {
    let mut response = (status, Json(json!({ "error": error }))).into_response();
    if let Some(secs) = retry_after_secs {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

fn away(app: &App, outcome: &'static str, error: &str) -> Response {
    app.metrics.upgrade(outcome);
    // A little different for each, so that those refused together do not come back together.
    reject(StatusCode::SERVICE_UNAVAILABLE, error, Some(2 + u64::from(rand::random::<u8>() % 8)))
}

async fn agent(app: &App, peer: &Peer, mut request: Request<Body>) -> Response {
    let began = Instant::now();
    if app.draining.is_cancelled() {
        return away(app, "draining", "The server is draining");
    }
    let Some(admission) = app.presence.admit(app.settings.max_connections) else {
        return away(app, "full", "The server holds as many agents as it may");
    };
    let client = client_address(&app.settings, peer, request.headers());
    let asked = Asked { client, secure: is_secure(&app.settings, peer, request.headers()), began };
    let who = match timeout(AUTHENTICATE_WAIT, authenticate(app, request.headers(), client)).await {
        Ok(Ok(who)) => who,
        Ok(Err(refused)) => return refuse(app, refused, client),
        Err(_) => return away(app, "store_unavailable", "Authentication takes too long"),
    };
    let blocked_ms = who.host.flapping_until - app.store.clock().now_ms();
    if blocked_ms > 0 {
        app.metrics.upgrade("flapping");
        let secs = u64::try_from(blocked_ms / 1000 + 1).unwrap_or(60);
        return reject(StatusCode::TOO_MANY_REQUESTS, "Several machines use this api_id", Some(secs));
    }
    let pattern = subject::agent_all(&who.api_id);
    let subscribed = timeout(SUBSCRIBE_WAIT, app.bus.subscribe(&pattern, Subscribe::all(MAILBOX)));
    let Ok(Ok(mailbox)) = subscribed.await else {
        return away(app, "bus_unavailable", "The message bus is away");
    };
    let (response, switched) = match fastwebsockets::upgrade::upgrade(&mut request) {
        Ok(pair) => pair,
        Err(error) => {
            app.metrics.upgrade("bad_request");
            return reject(StatusCode::BAD_REQUEST, &error.to_string(), None);
        }
    };
    app.metrics.upgrade("accepted");
    let task = serve(app.clone(), switched, mailbox, who, admission, asked);
    app.sockets.spawn(task);
    response.map(Body::new)
}

fn refuse(app: &App, refused: Reject, client: IpAddr) -> Response {
    let (outcome, error) = match refused {
        Reject::Missing => ("missing_credentials", "Missing or invalid credentials"),
        Reject::Invalid => ("invalid_credentials", "Invalid credentials"),
        Reject::TooMany { .. } => ("rate_limited", "Too many failed attempts"),
        Reject::Busy => ("pool_full", "Too many authentications at once"),
        Reject::Unavailable => ("store_unavailable", "The store is unavailable"),
    };
    app.metrics.upgrade(outcome);
    tracing::info!(%client, outcome, "agent refused");
    reject(refused.status(), error, refused.retry_after_secs())
}

/// From the 101 to the last byte: one task an agent. How it gets in is boxed: a connection lives for months, and should
/// not keep the room of its first seconds.
fn serve(
    app: App,
    switched: UpgradeFut,
    mut mailbox: Subscription,
    who: Authenticated,
    admission: Admission,
    asked: Asked,
) -> impl Future<Output = ()> + Send {
    let entering = Box::pin(enter(app.clone(), switched, who, asked));
    async move {
        let mut entered = entering.await;
        // Used where it lies: what is moved takes its room twice.
        let Some(held) = &mut entered else { return };
        let secure = held.session.me().secure;
        app.metrics.agent_connected(secure, 1);
        let ended = connection::run(&app, &mut held.stream, &mut held.session, &mut mailbox, &mut held.effects).await;
        app.metrics.agent_connected(secure, -1);
        let (host_id, epoch) = (held.session.me().host_id, held.session.me().epoch);
        drop(entered.take());
        drop(mailbox);
        app.metrics.closed(ended.code);
        app.presence.left(host_id, epoch).await;
        drop(admission);
        tracing::info!(%host_id, epoch, code = ended.code, reason = ended.reason, "agent disconnected");
    }
}

/// Who asked for an upgrade, how and when.
struct Asked {
    client: IpAddr,
    secure: bool,
    began: Instant,
}

/// A connection that is its host's newest. Dropped in this order.
struct Entered {
    _holding: Holding,
    stream: Stream,
    session: AgentSession,
    /// What the session begins with.
    effects: Vec<Effect>,
}

/// Waits for the socket and makes it its host's newest. `None`: it came to nothing.
async fn enter(app: App, switched: UpgradeFut, who: Authenticated, asked: Asked) -> Option<Entered> {
    let Asked { client, secure, began } = asked;
    let Ok(Ok(socket)) = timeout(SWITCH_WAIT, switched).await else {
        // Gone before its socket was there: it has replaced nobody.
        tracing::debug!(api_id = %who.api_id, "client went away during the upgrade");
        return None;
    };
    // The frames are read by a reader of our own, straight from the stream that hyper hands over.
    let mut stream: Stream = socket.into_inner();
    let Authenticated { host, api_id } = who;
    let host_id = host.id;
    let key_version = host.key_version;
    let connect = Connect { host_id, key_version, secure, gateway_id: app.gateway_id };
    let (epoch, orphans) = match app.presence.connect(connect).await {
        Some(Connected::Epoch { epoch, replaced, flapping, terminals }) => {
            let host = host.name;
            if flapping {
                tracing::warn!(%api_id, host, "several machines seem to share this api_id: newcomers are refused for a minute");
                app.metrics.flapping();
            }
            tracing::info!(%api_id, %host_id, host, epoch, secure, replaced, %client, "agent connected");
            (epoch, terminals)
        }
        Some(Connected::Refused) => {
            goodbye(&mut stream, REVOKED, "credentials are no longer valid").await;
            return None;
        }
        None => {
            goodbye(&mut stream, 1013, "try again later").await;
            return None;
        }
    };
    let connection = Uuid::now_v7();
    let held = Held { api_id: api_id.clone(), epoch, connection, key_version, secure };
    let holding = app.presence.hold(host_id, held);
    let me = Identity {
        host_id,
        api_id,
        connection,
        gateway: app.gateway_id,
        epoch,
        secure,
        since_ms: app.store.clock().now_ms(),
    };
    let mut effects = Vec::with_capacity(2);
    let mut session = AgentSession::new(me, Instant::now(), &mut effects);
    effects.insert(0, session.claim());
    session.close_orphans(orphans, Instant::now(), &mut effects);
    app.metrics.handshake(began.elapsed());
    Some(Entered { _holding: holding, stream, session, effects })
}

/// A close frame to a socket that no session will hold.
async fn goodbye(stream: &mut Stream, code: u16, reason: &str) {
    use tokio::io::AsyncWriteExt;
    let mut buffer = Vec::new();
    let frame = fastwebsockets::Frame::close(code, reason.as_bytes()).write(&mut buffer).to_vec();
    let _ = timeout(Duration::from_secs(2), async {
        stream.write_all(&frame).await?;
        stream.flush().await?;
        stream.shutdown().await
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room<F: Future>(_: impl FnOnce(App, UpgradeFut, Subscription, Authenticated, Admission, Asked) -> F) -> usize {
        size_of::<F>()
    }

    /// With what the runtime adds, a task fits into one block of 1 KiB of the allocator. One byte more would cost 256.
    #[test]
    fn a_connection_takes_less_than_a_kilobyte() {
        assert!(room(serve) <= 896, "{} bytes", room(serve));
    }
}

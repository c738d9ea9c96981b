//! One client's stream. It ends by itself: when we drain, when its session does, and when that cannot be told.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        watch,
    },
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{NEEDS, filter::Filter, ring::Found};
use crate::{
    App,
    api::{body::Query, error::ApiError, revocation::Revocation, session, session::Caller},
    metrics::Metrics,
};

/// How often the session is looked at again.
const RECHECK: Duration = Duration::from_secs(60);

/// Bursts are written together: nothing waits longer for it.
const GATHER: Duration = Duration::from_millis(10);

/// `GET /events`.
///
/// # Errors
/// 400 for a filter that cannot be, 503 when there are too many streams.
pub async fn get(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, ApiError> {
    let filter = Filter::read(query)?;
    if app.draining.is_cancelled() {
        return Err(ApiError::Busy("The server is draining"));
    }
    let place =
        Arc::clone(&app.api.events.places).try_acquire_owned().map_err(|_| ApiError::Busy("Too many event streams"))?;
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().to_owned());
    let reader = Reader::new(app, caller, filter, last.as_deref(), place);
    let blocks = stream::unfold(reader, |mut reader| async move {
        let block = reader.next().await?;
        Some((Ok::<_, Infallible>(block), reader))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache, no-store"),
        // A proxy in front must not collect what is meant to be seen at once.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(blocks)).into_response())
}

/// Counts a stream while it lives.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: Arc<Metrics>) -> Self {
        metrics.sse_clients(1);
        Self(metrics)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sse_clients(-1);
    }
}

struct Reader {
    app: App,
    session_id: Uuid,
    user_id: Uuid,
    filter: Filter,
    position: u64,
    /// Written before anything else.
    first: Option<Bytes>,
    changed: watch::Receiver<u64>,
    revoked: broadcast::Receiver<Revocation>,
    ended: bool,
    recheck_at: Instant,
    heartbeat_at: Instant,
    _counted: Counted,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    fn new(app: App, caller: Caller, filter: Filter, last: Option<&str>, place: OwnedSemaphorePermit) -> Self {
        let log = &app.api.events;
        let changed = log.next.subscribe();
        let newest = *changed.borrow();
        // A position of 0 is outside every window.
        let position = last.map_or(newest, |id| log.position_behind(id).unwrap_or(0));
        // Spread, so that the clients of a gateway that went away do not come back all at once.
        let retry_ms: u32 = rand::random_range(1_000..5_000);
        let first = match last {
            None => format!("retry: {retry_ms}\nid: {}\n\n", log.id_before(position)),
            Some(_) => format!("retry: {retry_ms}\n\n"),
        };
        Self {
            session_id: caller.session_id,
            user_id: caller.account.id,
            filter,
            position,
            first: Some(first.into()),
            changed,
            revoked: app.api.revocations.subscribe(),
            ended: false,
            // At once: what was revoked between authentication and subscription was heard by nobody.
            recheck_at: Instant::now(),
            heartbeat_at: next_heartbeat(),
            _counted: Counted::new(Arc::clone(&log.metrics)),
            _place: place,
            app,
        }
    }

    /// The next blocks; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            if self.app.draining.is_cancelled() || self.app.stopping.is_cancelled() || !self.still_allowed().await {
                return None;
            }
            if let Some(blocks) = self.read() {
                self.heartbeat_at = next_heartbeat();
                return Some(blocks);
            }
            tokio::select! {
                () = self.app.draining.cancelled() => return None,
                () = self.app.stopping.cancelled() => return None,
                changed = self.changed.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(GATHER).await;
                }
                revoked = self.revoked.recv() => self.hear(revoked),
                () = sleep_until(self.recheck_at) => {}
                () = sleep_until(self.heartbeat_at) => {
                    self.heartbeat_at = next_heartbeat();
                    // With an id, so that a client whose filter lets little through still resumes inside the window.
                    let id = self.app.api.events.id_before(self.position);
                    return Some(format!(": heartbeat\nid: {id}\n\n").into());
                }
            }
        }
    }

    /// What is there to read, as far as the filter lets it through.
    fn read(&mut self) -> Option<Bytes> {
        loop {
            self.changed.mark_unchanged();
            match self.app.api.events.read(self.position) {
                Found::Reset(position) => {
                    self.position = position;
                    let id = self.app.api.events.id_before(position);
                    return Some(format!("id: {id}\nevent: reset\ndata: {{}}\n\n").into());
                }
                Found::Entries(_, position) if position == self.position => return None,
                Found::Entries(entries, position) => {
                    self.position = position;
                    let mut blocks = BytesMut::new();
                    for entry in entries.iter().filter(|entry| self.filter.wants(entry)) {
                        blocks.extend_from_slice(&entry.text);
                    }
                    if !blocks.is_empty() {
                        return Some(blocks.freeze());
                    }
                }
            }
        }
    }

    /// Is the session still one? Revocations end it at once; now and then, and where one may concern it, the store is
    /// asked.
    async fn still_allowed(&mut self) -> bool {
        loop {
            match self.revoked.try_recv() {
                Ok(revocation) => self.hear(Ok(revocation)),
                Err(TryRecvError::Lagged(n)) => self.hear(Err(RecvError::Lagged(n))),
                Err(TryRecvError::Closed) => self.hear(Err(RecvError::Closed)),
                Err(TryRecvError::Empty) => break,
            }
        }
        if !self.ended && Instant::now() >= self.recheck_at {
            self.recheck_at = Instant::now() + RECHECK;
            self.ended = match session::live(&self.app, self.session_id, false).await {
                Ok(caller) => !caller.account.role.may(NEEDS),
                Err(ApiError::Unauthorized { .. }) => true,
                // The store is away and says neither: what was allowed a minute ago goes on.
                Err(_) => false,
            };
        }
        !self.ended
    }

    fn hear(&mut self, revoked: Result<Revocation, RecvError>) {
        match revoked {
            Ok(Revocation::Session(id)) => self.ended |= id == self.session_id,
            Ok(Revocation::User(id)) => self.ended |= id == self.user_id,
            Ok(Revocation::Host(_) | Revocation::Key(_)) => {}
            Ok(Revocation::Role | Revocation::Any) | Err(RecvError::Lagged(_)) => self.recheck_at = Instant::now(),
            Err(RecvError::Closed) => self.ended = true,
        }
    }
}

fn next_heartbeat() -> Instant {
    Instant::now() + Duration::from_millis(rand::random_range(15_000..25_000))
}

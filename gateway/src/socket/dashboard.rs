//! The dashboard's upgrade: who it is and whose page, a place, and someone who watches over the session; only then the 101.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderMap, Request},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::Fuse};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    connection,
    dashboard_session::{DashboardSession, Mail},
    session::Mailbox,
};
use crate::{
    App,
    api::{ApiError, allowance::Allowance, client::Peer},
    dashboard::{self, Entry, Place},
};

/// How long finding out who it is may take.
const ENTER_WAIT: Duration = Duration::from_secs(10);
/// How long the client may take to switch protocols after our 101.
const SWITCH_WAIT: Duration = Duration::from_secs(10);

/// Answers an upgrade of `/bullboard*`.
pub async fn upgrade(app: &App, peer: &Peer, mut request: Request<Body>) -> Response {
    let (entry, place) = match admit(app, peer, request.headers()).await {
        Ok(admitted) => admitted,
        Err(refused) => return refused.into_response(),
    };
    let (response, switched) = match fastwebsockets::upgrade::upgrade(&mut request) {
        Ok(pair) => pair,
        Err(error) => return ApiError::bad(error.to_string()).into_response(),
    };
    app.sockets.spawn(serve(app.clone(), switched, entry, place));
    response.map(Body::new)
}

async fn admit(app: &App, peer: &Peer, headers: &HeaderMap) -> Result<(Entry, Place), ApiError> {
    if app.draining.is_cancelled() {
        return Err(ApiError::Busy("The server is draining"));
    }
    let entered = timeout(ENTER_WAIT, dashboard::enter_socket(app, peer, headers)).await;
    let entry = entered.unwrap_or(Err(ApiError::Busy("Authentication takes too long")))?;
    // Only who may look takes a place.
    let place = app.dashboards.place(entry.session_id).ok_or(ApiError::Busy("Too many dashboards are open"))?;
    Ok((entry, place))
}

async fn serve(app: App, switched: fastwebsockets::upgrade::UpgradeFut, entry: Entry, place: Place) {
    let Ok(Ok(socket)) = timeout(SWITCH_WAIT, switched).await else { return };
    let mut stream: TokioIo<hyper::upgrade::Upgraded> = socket.into_inner();
    let user = entry.username.clone();
    tracing::info!(user, session_id = %entry.session_id, "a dashboard was opened");
    app.metrics.dashboards(1);
    let mut letters = Letters::new(app.dashboards.join(), entry.watch(&app));
    let gap = Duration::from_millis(25_000 + u64::from(rand::random::<u16>()) % 5_000);
    let mut session = DashboardSession::new(Instant::now(), gap);
    let mut effects = Vec::new();
    let ended = Box::pin(connection::run(&app, &mut stream, &mut session, &mut letters, &mut effects)).await;
    app.metrics.dashboards(-1);
    tracing::info!(user, code = ended.code, reason = ended.reason, "a dashboard was closed");
    drop(place);
}

/// What comes to a dashboard: the newest snapshot, whenever it has read the last one, and its end.
struct Letters {
    status: watch::Receiver<Arc<str>>,
    /// Waits for a change of `status`, with a receiver of its own.
    changed: Option<Waiting<Option<watch::Receiver<Arc<str>>>>>,
    ended: Fuse<Waiting<()>>,
}

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Letters {
    fn new(status: watch::Receiver<Arc<str>>, allowance: Allowance) -> Self {
        let ended: Waiting<()> = Box::pin(async move {
            let _ = allowance.ended().await;
        });
        Self { status, changed: None, ended: ended.fuse() }
    }
}

impl Mailbox for Letters {
    type Mail = Mail;

    fn poll_next(&mut self, ready: bool, cx: &mut Context<'_>) -> Poll<Option<Mail>> {
        if self.ended.poll_unpin(cx).is_ready() {
            return Poll::Ready(Some(Mail::Ended));
        }
        if !ready {
            return Poll::Pending;
        }
        let changed = self.changed.get_or_insert_with(|| {
            let mut status = self.status.clone();
            Box::pin(async move { status.changed().await.ok().map(|()| status) })
        });
        let Some(mut status) = ready!(changed.poll_unpin(cx)) else { return Poll::Ready(None) };
        // Seen only when it is taken: until then newer ones replace it.
        let newest = Arc::clone(&status.borrow_and_update());
        self.status = status;
        self.changed = None;
        Poll::Ready(Some(Mail::Status(newest)))
    }

    fn try_next(&mut self) -> Option<Mail> {
        None
    }
}

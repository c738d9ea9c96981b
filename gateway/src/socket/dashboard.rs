//! The dashboard's upgrade: who it is and whose page, a place, and someone who watches over the session; only then the 101.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Request},
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
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
    dashboard::{self, Entry},
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

async fn admit(app: &App, peer: &Peer, headers: &HeaderMap) -> Result<(Entry, OwnedSemaphorePermit), ApiError> {
    if app.draining.is_cancelled() {
        return Err(ApiError::Busy("The server is draining"));
    }
    let entered = timeout(ENTER_WAIT, dashboard::enter_socket(app, peer, headers)).await;
    let entry = entered.unwrap_or(Err(ApiError::Busy("Authentication takes too long")))?;
    // Only who may look takes a place.
    let place = app.dashboards.place().ok_or(ApiError::Busy("Too many dashboards are open"))?;
    Ok((entry, place))
}

async fn serve(app: App, switched: fastwebsockets::upgrade::UpgradeFut, entry: Entry, place: OwnedSemaphorePermit) {
    let Ok(Ok(socket)) = timeout(SWITCH_WAIT, switched).await else { return };
    let mut stream: TokioIo<hyper::upgrade::Upgraded> = socket.into_inner();
    let user = entry.username.clone();
    tracing::info!(user, session_id = %entry.session_id, "a dashboard was opened");
    app.metrics.dashboards(1);
    let mut letters = Letters { status: app.dashboards.join(), allowance: entry.watch(&app) };
    let gap = Duration::from_millis(25_000 + u64::from(rand::random::<u16>()) % 5_000);
    let mut session = DashboardSession::new(Instant::now(), gap);
    let ended = Box::pin(connection::run(&app, &mut stream, &mut session, &mut letters, Vec::new())).await;
    app.metrics.dashboards(-1);
    tracing::info!(user, code = ended.code, reason = ended.reason, "a dashboard was closed");
    drop(place);
}

/// What comes to a dashboard: the newest snapshot, whenever it has read the last one, and its end.
struct Letters {
    status: watch::Receiver<Arc<str>>,
    allowance: Allowance,
}

impl Mailbox for Letters {
    type Mail = Mail;

    async fn next(&mut self, ready: bool) -> Option<Mail> {
        tokio::select! {
            biased;
            () = self.allowance.ended() => Some(Mail::Ended),
            // Seen only when it is taken: until then newer ones replace it.
            changed = self.status.changed(), if ready => {
                changed.ok()?;
                Some(Mail::Status(Arc::clone(&self.status.borrow_and_update())))
            }
        }
    }

    fn try_next(&mut self) -> Option<Mail> {
        None
    }
}

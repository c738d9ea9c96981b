//! A terminal's upgrade: who it is and for which host, a place, and someone who watches over the session; only then the
//! 101.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    http::{Request, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::Fuse};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, PollSender};

use super::{
    connection,
    session::Mailbox,
    terminal_session::{Mail, Opener, Port, TerminalSession, Times},
};
use crate::{
    App,
    api::{ApiError, allowance::Allowance, client::Peer},
    terminal::{
        Place,
        entry::{self, Entry, Refused},
        message::Connect,
        shell::{Carried, Stop},
        spool::{Item, SPOOL_MAX, Spool, SpoolWriter},
        who::Who,
    },
};

/// How long finding out who it is may take.
const ENTER_WAIT: Duration = Duration::from_secs(10);
/// How long the client may take to switch protocols after our 101.
const SWITCH_WAIT: Duration = Duration::from_secs(10);
/// How long a shell waits for the end of the one before it to be stored.
const BEFORE_WAIT: Duration = Duration::from_secs(5);
/// Input that waits for the shell, in pieces of up to 8 KiB.
const INPUT: usize = 16;
/// Output in one message, in bytes.
const PIECE: usize = 16 << 10;
/// Output that comes within so long of the last goes together.
const GATHER: Duration = Duration::from_millis(3);

/// Answers an upgrade of `/api/{version}/ssh-terminal/{host}`.
pub async fn upgrade(app: &App, peer: &Peer, mut request: Request<Body>, host_id: &str) -> Response {
    // A body cannot be shared between threads; there is none.
    let (parts, body) = request.into_parts();
    let admitted = timeout(ENTER_WAIT, admit(app, peer, &parts, host_id)).await;
    request = Request::from_parts(parts, body);
    let (entry, place) = match admitted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(refused)) => return refuse(app, refused),
        Err(_) => return refuse(app, Refused::Trouble(ApiError::Busy("Authentication takes too long"))),
    };
    let (response, switched) = match fastwebsockets::upgrade::upgrade(&mut request) {
        Ok(pair) => pair,
        Err(error) => return ApiError::bad(error.to_string()).into_response(),
    };
    app.metrics.terminal_upgrade("accepted");
    app.sockets.spawn(serve(app.clone(), switched, entry, place));
    response.map(Body::new)
}

fn refuse(app: &App, refused: Refused) -> Response {
    match refused {
        Refused::With(status, error) => {
            app.metrics.terminal_upgrade(match status {
                StatusCode::FORBIDDEN => "denied",
                StatusCode::NOT_FOUND => "no_host",
                _ => "unauthorized",
            });
            (status, Json(json!({ "error": error }))).into_response()
        }
        Refused::Trouble(error) => {
            app.metrics.terminal_upgrade("unavailable");
            error.into_response()
        }
    }
}

async fn admit(app: &App, peer: &Peer, request: &Parts, host_id: &str) -> Result<(Entry, Place), Refused> {
    if app.draining.is_cancelled() {
        return Err(Refused::Trouble(ApiError::Busy("The server is draining")));
    }
    if host_id.is_empty() {
        return Err(Refused::With(StatusCode::BAD_REQUEST, "Host ID required"));
    }
    // Before the ticket, which is good for one try.
    let place = app.terminals.place();
    let place = place.ok_or(Refused::Trouble(ApiError::Busy("Too many terminals are open on this gateway")))?;
    Ok((entry::enter(app, peer, request, host_id).await?, place))
}

async fn serve(app: App, switched: fastwebsockets::upgrade::UpgradeFut, entry: Entry, place: Place) {
    let Ok(Ok(socket)) = timeout(SWITCH_WAIT, switched).await else { return };
    let mut stream: TokioIo<hyper::upgrade::Upgraded> = socket.into_inner();
    let spool = Spool::new(SPOOL_MAX);
    let mut letters = Letters::new(Arc::clone(&spool), entry.watch(&app));
    let opener = Shells { app: app.clone(), who: Arc::clone(&entry.who), spool, before: None };
    let settings = &app.settings.terminals;
    let times = Times { idle: settings.idle, most: settings.most };
    let gap = Duration::from_millis(25_000 + u64::from(rand::random::<u16>()) % 5_000);
    let mut session = TerminalSession::new(opener, times, Instant::now(), gap);
    let mut effects = Vec::new();
    let ended = Box::pin(connection::run(&app, &mut stream, &mut session, &mut letters, &mut effects)).await;
    tracing::debug!(
        user = entry.who.username,
        code = ended.code,
        reason = ended.reason,
        "a terminal's socket is closed"
    );
    drop(place);
}

/// Opens shells for one socket.
struct Shells {
    app: App,
    who: Arc<Who>,
    spool: Arc<Spool>,
    /// The last one is over, and that is stored: until then it counts as open.
    before: Option<CancellationToken>,
}

impl Opener for Shells {
    fn open(&mut self, connect: Connect) -> Port {
        let (input, typed) = mpsc::channel(INPUT);
        let stop = Stop::default();
        let writer: SpoolWriter = self.spool.writer();
        let carried = Carried::new(self.app.clone(), Arc::clone(&self.who), typed, stop.clone(), writer);
        let over = CancellationToken::new();
        let before = self.before.replace(over.clone());
        self.app.sockets.spawn(async move {
            let _over = over.drop_guard();
            if let Some(before) = before {
                // A store that takes longer refuses the next one with its own words.
                let _ = timeout(BEFORE_WAIT, before.cancelled()).await;
            }
            carried.run(connect).await;
        });
        Port { input: PollSender::new(input), stop }
    }

    fn typed(&mut self) {
        self.who.types();
        self.spool.expect();
    }

    fn progressed(&mut self) {
        self.spool.progressed();
    }

    fn hurry(&mut self) {
        self.spool.hurry();
    }

    fn left(&mut self) {
        self.spool.clear();
    }
}

/// What comes to a terminal: what its shell tells, gathered a little, and its end.
struct Letters {
    spool: Arc<Spool>,
    /// Output that follows the last so soon waits until then for more.
    due: Pin<Box<Sleep>>,
    ended: Fuse<Pin<Box<dyn Future<Output = &'static str> + Send>>>,
}

impl Letters {
    fn new(spool: Arc<Spool>, allowance: Allowance) -> Self {
        let ended: Pin<Box<dyn Future<Output = &'static str> + Send>> =
            Box::pin(async move { allowance.ended().await });
        Self { spool, due: Box::pin(sleep_until(Instant::now())), ended: ended.fuse() }
    }
}

impl Mailbox for Letters {
    type Mail = Mail;

    fn poll_next(&mut self, ready: bool, cx: &mut Context<'_>) -> Poll<Option<Mail>> {
        if let Poll::Ready(why) = self.ended.poll_unpin(cx) {
            return Poll::Ready(Some(Mail::Revoked(why)));
        }
        if !ready {
            return Poll::Pending;
        }
        let hurries = self.spool.expected() || self.spool.urgent() || self.spool.waiting() >= PIECE;
        if !hurries && self.due.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.spool.poll_take(PIECE, cx).map(|item| {
            if matches!(item, Item::Output(_)) {
                self.due.as_mut().reset(Instant::now() + GATHER);
            }
            Some(Mail::Item(item))
        })
    }

    fn try_next(&mut self) -> Option<Mail> {
        None
    }
}

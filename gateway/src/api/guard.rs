//! Before a handler: whose page, who, and whether the route's row lets them. The one place where access is decided.

use std::time::Duration;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use store::NewAudit;
use tokio::time::timeout;

use super::{
    client::{Peer, client_address},
    edge::Served,
    error::ApiError,
    origin::{Page, page},
    route::{Access, Route},
    session::{Credential, authenticate, no_token},
};
use crate::App;

/// How long an answer may take. Streams have answered once they have begun.
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Runs a handler, if it may.
pub async fn guard(State((app, route)): State<(App, &'static Route)>, request: Request, next: Next) -> Response {
    let answered = timeout(ANSWER_TIME, async {
        match admit(&app, route, request).await {
            Ok(request) => next.run(request).await,
            Err(refused) => refused.into_response(),
        }
    });
    let mut response = match answered.await {
        Ok(response) => response,
        Err(_) => ApiError::Busy("The request took too long").into_response(),
    };
    response.extensions_mut().insert(Served(route.path));
    response
}

async fn admit(app: &App, route: &Route, mut request: Request) -> Result<Request, ApiError> {
    let credential = match route.access {
        Access::Public => None,
        _ => Some(Credential::of(request.headers()).ok_or_else(no_token)?),
    };
    if route.verb.is_unsafe() {
        let from = page(&app.settings, &Peer::of(request.extensions()), request.headers());
        let refused = match &credential {
            // No browser adds it by itself.
            Some(Credential::Bearer(_)) => false,
            Some(Credential::Cookie(_)) => from != Page::Ours,
            // Else a foreign page could log its visitor in as somebody else.
            None => from == Page::Foreign,
        };
        if refused {
            return Err(ApiError::ForeignPage);
        }
    }
    if let Some(credential) = credential {
        let caller = authenticate(app, &credential, route.activity).await?;
        if let Some(lacking) = route.access.lacks(&caller.account.role) {
            if let Some(event) = route.denied {
                let address = client_address(&app.settings, &Peer::of(request.extensions()), request.headers());
                let entry = NewAudit {
                    event,
                    user_id: Some(caller.account.id),
                    username: Some(caller.account.username),
                    address: address.to_string(),
                    reason: Some(format!("the role lacks {}", lacking.name())),
                    ..NewAudit::default()
                };
                app.store.audit(&entry).await?;
            }
            return Err(ApiError::Forbidden(lacking));
        }
        request.extensions_mut().insert(caller);
    }
    Ok(request)
}

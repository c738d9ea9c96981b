//! Which handler a request belongs to: upgrades, agents' calls, the API.

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, Uri, uri::PathAndQuery},
};
use tower::ServiceExt;
use tracing::Instrument as _;

use super::story::Story;
use crate::{
    App, agent,
    api::{self, client::Peer},
    socket,
};

/// One listener's routes.
pub trait Route: Clone + Send + Sync + 'static {
    /// Answers a request.
    fn call(&self, request: Request<Body>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// What agents and clients reach.
#[derive(Clone)]
pub struct Public {
    app: App,
    api: Router,
}

impl Public {
    pub fn new(app: &App) -> Self {
        Self { app: app.clone(), api: api::router(app.clone()) }
    }
}

impl Public {
    async fn answer(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        let mut response = if socket::is_upgrade(&request) {
            Box::pin(socket::upgrade(&self.app, &peer, request)).await
        } else if agent::handles(request.method(), request.uri().path()) {
            Box::pin(agent::handle(self.app.clone(), request)).await
        } else {
            return answer(&self.api, request).await;
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            api::harden(response.headers_mut());
        }
        response
    }
}

impl Route for Public {
    async fn call(&self, mut request: Request<Body>, peer: Peer) -> Response<Body> {
        if let Some(plain) = plain_uri(request.uri()) {
            *request.uri_mut() = plain;
        }
        request.extensions_mut().insert(peer);
        let story = Story::begin(&request);
        let response = self.answer(request, peer).instrument(story.span.clone()).await;
        story.end(&response, &self.app.metrics);
        response
    }
}

/// Probes and metrics.
#[derive(Clone)]
pub struct Internal {
    routes: Router,
}

impl Internal {
    pub fn new(probes: api::Probes) -> Self {
        Self { routes: api::internal_router(probes) }
    }
}

impl Route for Internal {
    async fn call(&self, mut request: Request<Body>, peer: Peer) -> Response<Body> {
        request.extensions_mut().insert(peer);
        answer(&self.routes, request).await
    }
}

async fn answer(router: &Router, request: Request<Body>) -> Response<Body> {
    match Box::pin(router.clone().oneshot(request)).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Agents send `//api/…` when their server's address ends in a slash, and keep a path prefix that it has (protocol
/// 1.1): leading slashes are collapsed, and what stands before an agent's own path is cut off. `None`: plain already.
fn plain_uri(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let mut plain = path;
    if path.starts_with("//") {
        plain = &path[path.len() - path.trim_start_matches('/').len() - 1..];
    }
    if !plain.starts_with("/api/")
        && let Some(at) = plain.find("/api/")
        && (agent::is_agent_path(&plain[at..]) || plain[at..].ends_with("/agents/ws"))
    {
        plain = &plain[at..];
    }
    if plain.len() == path.len() {
        return None;
    }
    let text = match uri.query() {
        Some(query) => format!("{plain}?{query}"),
        None => plain.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &str) -> String {
        let uri: Uri = path.parse().expect("uri");
        plain_uri(&uri).unwrap_or(uri).to_string()
    }

    #[test]
    fn slashes_are_collapsed_and_prefixes_cut_for_agents_only() {
        assert_eq!(plain("//api/v1/hosts/ping"), "/api/v1/hosts/ping");
        assert_eq!(plain("///api/v1/agents/ws?x=1"), "/api/v1/agents/ws?x=1");
        assert_eq!(plain("/patchmon/api/v1/agents/ws"), "/api/v1/agents/ws");
        assert_eq!(plain("/api/v2/agents/ws"), "/api/v2/agents/ws");
        assert_eq!(plain("/x/api/v1/auth/me"), "/x/api/v1/auth/me");
        assert_eq!(plain("/"), "/");
    }
}

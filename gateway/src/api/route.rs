//! What a route is: method, path, who may, what it is for. A handler is only ever reached through one.

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{MethodFilter, MethodRouter},
};
use store::{Permission, Role};
use utoipa::{
    ToSchema,
    openapi::{RefOr, Schema},
};

use super::guard::guard;
use crate::App;

/// The methods that routes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Reads. HEAD is a GET without its body.
    Get,
    /// Makes, or does.
    Post,
    /// Replaces.
    Put,
    /// Removes.
    Delete,
}

impl Verb {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    /// Does it change something? Then a browser's word for the page is asked for.
    #[must_use]
    pub const fn is_unsafe(self) -> bool {
        !matches!(self, Self::Get)
    }

    const fn filter(self) -> MethodFilter {
        match self {
            Self::Get => MethodFilter::GET,
            Self::Post => MethodFilter::POST,
            Self::Put => MethodFilter::PUT,
            Self::Delete => MethodFilter::DELETE,
        }
    }
}

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody.
    Public,
    /// Every user.
    Login,
    /// Users whose role has it.
    Needs(Permission),
    /// Users whose role has one of them; the handler looks closer.
    NeedsAny(&'static [Permission]),
}

impl Access {
    /// What the role lacks, if it may not.
    #[must_use]
    pub fn lacks(self, role: &Role) -> Option<Permission> {
        match self {
            Self::Public | Self::Login => None,
            Self::Needs(permission) => (!role.may(permission)).then_some(permission),
            Self::NeedsAny(any) if any.iter().any(|permission| role.may(*permission)) => None,
            Self::NeedsAny(any) => any.first().copied(),
        }
    }
}

/// Schemas by name, which the document lists.
pub(super) type Schemas = Vec<(String, RefOr<Schema>)>;

/// Gives a body's schema, and adds those it refers to.
pub(super) type Shape = fn(&mut Schemas) -> RefOr<Schema>;

fn shape<T: ToSchema>(named: &mut Schemas) -> RefOr<Schema> {
    T::schemas(named);
    T::schema()
}

/// A route.
pub struct Route {
    /// Its method.
    pub verb: Verb,
    /// The whole path, parameters in braces.
    pub path: &'static str,
    /// Who may.
    pub access: Access,
    /// Does a request count as activity of its session?
    pub activity: bool,
    /// What the audit log calls it when somebody may not.
    pub denied: Option<&'static str>,
    pub(super) summary: &'static str,
    pub(super) query: &'static [&'static str],
    pub(super) body: Option<Shape>,
    pub(super) answers: &'static [u16],
    pub(super) answer: Option<Shape>,
    pub(super) stream: bool,
    handler: fn(MethodFilter) -> MethodRouter<App>,
}

impl Route {
    pub(super) const fn new(
        verb: Verb,
        path: &'static str,
        access: Access,
        summary: &'static str,
        handler: fn(MethodFilter) -> MethodRouter<App>,
    ) -> Self {
        Self {
            verb,
            path,
            access,
            activity: true,
            denied: None,
            summary,
            query: &[],
            body: None,
            answers: &[200],
            answer: None,
            stream: false,
            handler,
        }
    }

    /// Parameters of its query.
    pub(super) const fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }

    /// A refusal is written into the audit log, as this.
    pub(super) const fn denied_as(mut self, event: &'static str) -> Self {
        self.denied = Some(event);
        self
    }

    /// Its body.
    pub(super) const fn takes<T: ToSchema>(mut self) -> Self {
        self.body = Some(shape::<T>);
        self
    }

    /// Its answer.
    pub(super) const fn gives<T: ToSchema>(mut self) -> Self {
        self.answer = Some(shape::<T>);
        self
    }

    /// The statuses that carry its answer; 200 alone unless this is said.
    pub(super) const fn statuses(mut self, statuses: &'static [u16]) -> Self {
        self.answers = statuses;
        self
    }

    /// It answers with events without end, and is no sign that somebody is there.
    pub(super) const fn streams(mut self) -> Self {
        self.stream = true;
        self.activity = false;
        self
    }

    /// Puts it behind its guard into the router.
    pub(super) fn mount(&'static self, router: Router<App>, app: &App) -> Router<App> {
        let guarded = (self.handler)(self.verb.filter()).route_layer(from_fn_with_state((app.clone(), self), guard));
        router.route(self.path, guarded)
    }
}

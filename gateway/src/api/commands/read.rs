//! `GET /commands` and `GET /commands/{id}`.

use axum::{Json as Answer, extract::State};
use jobs::{Kind, State as CommandState, view::view};
use serde_json::Value;
use store::ListFilter;

use crate::{
    App,
    api::{
        body::{CommandId, NO_COMMAND, Query},
        error::ApiError,
        page::Page,
    },
};

/// Newest first.
///
/// # Errors
/// 400 for a query that cannot be, 503.
pub async fn list(State(app): State<App>, mut query: Query) -> Result<Answer<Page<Value>>, ApiError> {
    let (limit, cursor) = (query.limit()?, query.cursor()?);
    let filter = ListFilter {
        batch_id: query.uuid("batch_id")?,
        host_id: query.uuid("host_id")?,
        state: query.read("state", "a state of a command", CommandState::of_name)?,
        kind: query.read("kind", "a kind of command", Kind::of_name)?,
    };
    query.end()?;
    let page = app.store.list_commands(&filter, cursor.as_deref(), limit).await?;
    Ok(Answer(Page::of(page, |command| view(&command))))
}

/// One command.
///
/// # Errors
/// 404, 503.
pub async fn get(State(app): State<App>, CommandId(id): CommandId) -> Result<Answer<Value>, ApiError> {
    let command = app.store.command(id).await?.ok_or(ApiError::NotFound(NO_COMMAND))?;
    Ok(Answer(view(&command)))
}

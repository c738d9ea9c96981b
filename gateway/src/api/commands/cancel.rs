//! `POST /commands/{id}/cancel`.

use axum::{Json as Answer, extract::State, http::StatusCode};
use jobs::{Command, Event, State as CommandState, Step, view::view};
use serde_json::Value;

use super::may_ask;
use crate::{
    App,
    api::{
        body::{CommandId, NO_COMMAND},
        error::ApiError,
        session::Caller,
    },
    facts::announce_on,
};

/// Calls a command off: what is not sent yet ends at once, a scan under way is asked to stop.
///
/// # Errors
/// 403 by the kind, 404, 503. 409, with the row, is an answer.
pub async fn cancel(
    State(app): State<App>,
    caller: Caller,
    CommandId(id): CommandId,
) -> Result<(StatusCode, Answer<Value>), ApiError> {
    let command = app.store.command(id).await?.ok_or(ApiError::NotFound(NO_COMMAND))?;
    may_ask(&caller.account, command.kind)?;
    let applied = app.store.apply(&[(id, Event::Cancel)]).await?;
    announce_on(app.bus.as_ref(), &applied).await;
    let applied = applied.into_iter().next().ok_or(ApiError::NotFound(NO_COMMAND))?;
    if applied.step.changed {
        caller.noted("called off a command", id);
    }
    Ok((status(&applied.command, &applied.step), Answer(view(&applied.command))))
}

/// 202: it ends, or was asked to. 200: it had been cancelled before. 409: it cannot be called off any more.
fn status(now: &Command, step: &Step) -> StatusCode {
    let can_still_stop = now.state == CommandState::Sending || now.kind.spec().cancel_frame().is_some();
    match now.state {
        CommandState::Cancelled if step.moved => StatusCode::ACCEPTED,
        CommandState::Cancelled => StatusCode::OK,
        _ if !now.is_final() && now.cancel_requested_at.is_some() && can_still_stop => StatusCode::ACCEPTED,
        _ => StatusCode::CONFLICT,
    }
}

#[cfg(test)]
mod tests {
    use jobs::{
        Kind,
        command::{ComplianceMode, HostFacts, Notes, Times},
    };
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn cancelled(kind: Kind, state: CommandState) -> (StatusCode, StatusCode) {
        let host = HostFacts {
            id: Uuid::nil(),
            api_id: "a".into(),
            epoch: 1,
            connected: true,
            generation: None,
            docker_enabled: false,
            compliance_mode: ComplianceMode::OnDemand,
            openscap_enabled: true,
            docker_bench_enabled: false,
            update_interval: 60,
        };
        let mut command = Command {
            id: Uuid::now_v7(),
            host_id: host.id,
            kind,
            payload: json!({}),
            state,
            attempt: 1,
            losses: 0,
            refusals: 0,
            asked_epoch: 1,
            held_epoch: None,
            not_before: 0,
            expires_at: 1_000_000,
            next_check_at: Some(5_000),
            cancel_requested_at: None,
            last_sign_at: None,
            returned_at: None,
            times: Times::default(),
            evidence: None,
            error: None,
            notes: Notes::default(),
            requested_by: "u".into(),
            batch_id: Uuid::nil(),
            traceparent: None,
        };
        let mut again = || {
            let step = jobs::life::apply(&mut command, &host, &Event::Cancel, 1_000);
            status(&command, &step)
        };
        (again(), again())
    }

    #[test]
    fn what_a_cancel_answers_by_kind_and_state() {
        use CommandState::{Cancelled, Delivered, Queued, Running, Sending, Sent, Succeeded, Waiting};
        const AT_ONCE: (StatusCode, StatusCode) = (StatusCode::ACCEPTED, StatusCode::OK);
        const ASKED: (StatusCode, StatusCode) = (StatusCode::ACCEPTED, StatusCode::ACCEPTED);
        const TOO_LATE: (StatusCode, StatusCode) = (StatusCode::CONFLICT, StatusCode::CONFLICT);
        for kind in Kind::ALL {
            assert_eq!(cancelled(kind, Queued), AT_ONCE, "{kind:?}");
            assert_eq!(cancelled(kind, Waiting), AT_ONCE, "{kind:?}");
            assert_eq!(cancelled(kind, Sending), ASKED, "{kind:?}");
            assert_eq!(cancelled(kind, Cancelled), (StatusCode::OK, StatusCode::OK), "{kind:?}");
            assert_eq!(cancelled(kind, Succeeded), TOO_LATE, "{kind:?}");
        }
        for state in [Sent, Delivered, Running] {
            assert_eq!(cancelled(Kind::ComplianceScan, state), ASKED, "{state:?}");
        }
        for state in [Sent, Delivered] {
            assert_eq!(cancelled(Kind::ReportNow, state), TOO_LATE, "{state:?}");
        }
    }
}

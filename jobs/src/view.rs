//! A command as the API and events show it: one object. Times are RFC 3339 UTC with milliseconds.

use schemas::{
    event::{Event, EventKind, Order},
    timestamp::rfc3339,
};
use serde_json::{Map, Value, json};

use crate::{
    command::{Command, Evidence},
    state::State,
};

/// The row as one object. `<state>_at` is there for every state the command was in; a state entered more than once
/// shows the last time.
#[must_use]
pub fn view(command: &Command) -> Value {
    let time = |at: Option<i64>| at.map_or(Value::Null, |ms| rfc3339(ms).into());
    let mut row = Map::new();
    row.insert("id".into(), json!(command.id));
    row.insert("host_id".into(), json!(command.host_id));
    row.insert("kind".into(), command.kind.name().into());
    row.insert("state".into(), command.state.name().into());
    row.insert("attempt".into(), command.attempt.into());
    row.insert("final".into(), command.is_final().into());
    row.insert("evidence".into(), command.evidence.as_ref().map_or(Value::Null, evidence));
    row.insert("error".into(), json!(command.error));
    row.insert("payload".into(), command.payload.clone());
    row.insert("requested_by".into(), command.requested_by.as_str().into());
    row.insert("batch_id".into(), json!(command.batch_id));
    row.insert("created_at".into(), time(created_at(command)));
    row.insert("expires_at".into(), time(Some(command.expires_at)));
    row.insert("cancel_requested_at".into(), time(command.cancel_requested_at));
    for state in State::ALL {
        if let Some(at) = command.times.at(state) {
            row.insert(format!("{}_at", state.name()), rfc3339(at).into());
        }
    }
    Value::Object(row)
}

/// The news that it moved, for whoever listens.
#[must_use]
pub fn event(command: &Command) -> Option<Event> {
    Some(Event {
        host_id: command.host_id,
        kind: EventKind::Command,
        data: serde_json::value::to_raw_value(&view(command)).ok()?,
        order: Some(order(command)),
    })
}

/// Moves are told apart by their time; within a millisecond by how far they lead.
fn order(command: &Command) -> Order {
    let far = State::ALL.iter().position(|state| *state == command.state).unwrap_or(0);
    let at = command.times.at(command.state).unwrap_or(0);
    Order { of: command.id, n: at * 16 + i64::try_from(far).unwrap_or(0) }
}

/// When it was made: a UUIDv7 begins with that. Milliseconds since the Unix epoch.
#[must_use]
pub fn created_at(command: &Command) -> Option<i64> {
    let (secs, nanos) = command.id.get_timestamp()?.to_unix();
    i64::try_from(secs).ok().map(|secs| secs * 1_000 + i64::from(nanos / 1_000_000))
}

fn evidence(evidence: &Evidence) -> Value {
    let mut shown = json!({"deed": evidence.deed, "at": rfc3339(evidence.at), "detail": evidence.detail});
    if let Some(late) = &evidence.late {
        shown["late"] = self::evidence(late);
    }
    shown
}

#[cfg(test)]
mod tests {
    use uuid::{NoContext, Timestamp, Uuid};

    use super::*;
    use crate::{
        command::{Notes, Times},
        kinds::Kind,
    };

    const MADE: i64 = 1_767_225_600_123;

    fn command() -> Command {
        let made = Timestamp::from_unix(NoContext, 1_767_225_600, 123_000_000);
        let mut times = Times::default();
        times.enter(State::Queued, MADE);
        times.enter(State::Succeeded, MADE + 2_000);
        Command {
            id: Uuid::new_v7(made),
            host_id: Uuid::nil(),
            kind: Kind::ReportNow,
            payload: json!({}),
            state: State::Succeeded,
            attempt: 1,
            losses: 0,
            refusals: 0,
            asked_epoch: 4,
            held_epoch: Some(4),
            not_before: 0,
            expires_at: MADE + 86_400_000,
            next_check_at: None,
            cancel_requested_at: None,
            last_sign_at: None,
            returned_at: None,
            times,
            evidence: Some(Evidence { deed: "hosts/update".into(), at: MADE + 2_000, detail: None, late: None }),
            error: None,
            notes: Notes::default(),
            requested_by: "admin".into(),
            batch_id: Uuid::nil(),
            traceparent: None,
        }
    }

    #[test]
    fn a_row_shows_the_states_it_was_in_and_no_others() {
        let row = view(&command());
        assert_eq!(row["state"], "succeeded");
        assert_eq!(row["final"], true);
        assert_eq!(row["created_at"], "2026-01-01T00:00:00.123Z");
        assert_eq!(row["queued_at"], "2026-01-01T00:00:00.123Z");
        assert_eq!(row["succeeded_at"], "2026-01-01T00:00:02.123Z");
        assert_eq!(row["evidence"], json!({"deed": "hosts/update", "at": "2026-01-01T00:00:02.123Z", "detail": null}));
        assert!(row.get("sent_at").is_none() && row.get("notes").is_none() && row.get("asked_epoch").is_none());
    }

    #[test]
    fn a_late_deed_is_shown_inside_the_evidence() {
        let mut row = command();
        let late = Evidence { deed: "compliance/scans".into(), at: MADE, detail: Some("failed".into()), late: None };
        row.evidence.as_mut().unwrap().late = Some(Box::new(late));
        assert_eq!(view(&row)["evidence"]["late"]["detail"], "failed");
    }
}

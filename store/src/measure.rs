//! What the store shows of itself: a span for each statement of a traced request, and how long commands took.

use std::{sync::LazyLock, time::Duration};

use jobs::{Kind, State};
use opentelemetry::{Context, KeyValue, metrics::Histogram, trace::TraceContextExt as _};
use tracing::Span;
use uuid::Uuid;

/// Seconds: from a frame that is read at once to a scan, and to an agent that comes back tomorrow.
const BOUNDARIES: [f64; 14] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 21_600.0, 43_200.0, 86_400.0];

static DURATION: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    opentelemetry::global::meter("patchbay.store")
        .f64_histogram("patchbay.command.duration")
        .with_unit("s")
        .with_description("From asking to the end, by kind and how it ended")
        .with_boundaries(BOUNDARIES.to_vec())
        .build()
});

/// A command has ended.
pub fn ended(id: Uuid, kind: Kind, state: State, at_ms: i64) {
    // The id says when it was made.
    let Some((secs, nanos)) = id.get_timestamp().map(|at| at.to_unix()) else { return };
    let asked_ms = i64::try_from(secs * 1_000 + u64::from(nanos) / 1_000_000).unwrap_or(at_ms);
    let took = Duration::from_millis(u64::try_from(at_ms - asked_ms).unwrap_or(0));
    let labels = [KeyValue::new("kind", kind.name()), KeyValue::new("state", state.name())];
    DURATION.record(took.as_secs_f64(), &labels);
}

/// The span of a statement (OpenTelemetry's semantic conventions for databases). Only within a traced request: what the
/// sweep asks every second tells no story.
pub fn statement(system: &'static str, text: &str) -> Span {
    if !Context::map_current(Context::has_active_span) {
        return Span::none();
    }
    let (operation, summary) = summary(text);
    tracing::info_span!(
        target: "trace",
        "sql",
        otel.name = summary,
        otel.kind = "client",
        db.system.name = system,
        db.operation.name = operation,
        // Values are never part of it.
        db.query.text = text,
    )
}

/// The operation, and with it the table.
fn summary(text: &str) -> (&str, String) {
    let mut words = text.split_whitespace();
    let operation = words.next().unwrap_or_default();
    let table = match operation {
        "UPDATE" => words.next(),
        "INSERT" => words.nth(1),
        _ => words.skip_while(|word| *word != "FROM").nth(1),
    };
    (operation, table.map_or_else(|| operation.to_owned(), |table| format!("{operation} {table}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_named_by_what_it_does_to_which_table() {
        for (text, name) in [
            ("SELECT id, name FROM hosts WHERE id = $1", "SELECT hosts"),
            ("UPDATE commands SET state = $1", "UPDATE commands"),
            ("INSERT INTO commands (id) VALUES ($1)", "INSERT commands"),
            ("DELETE FROM tickets WHERE id = $1", "DELETE tickets"),
            ("COMMIT", "COMMIT"),
        ] {
            assert_eq!(summary(text).1, name);
        }
    }
}

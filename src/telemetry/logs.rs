//! Lines of the log: the trace and the span that they belong to, and no flood of what the exporter complains of.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use opentelemetry::{Context, trace::TraceContextExt as _};
use parking_lot::Mutex;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Between two lines that say the same: the exporter says it of every batch that it cannot deliver.
const EXPORTER_SAYS: Duration = Duration::from_secs(60);

/// A format that also says which trace an event belongs to.
pub struct Traced<F> {
    pub inner: F,
    /// One JSON object a line.
    pub json: bool,
}

impl<S, N, F> FormatEvent<S, N> for Traced<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let ids = Context::map_current(|context| {
            let span = context.span();
            let span = span.span_context();
            span.is_valid().then(|| (span.trace_id(), span.span_id()))
        });
        let Some((trace_id, span_id)) = ids else {
            return self.inner.format_event(ctx, writer, event);
        };
        let mut line = String::new();
        let mut buffer = Writer::new(&mut line);
        self.inner.format_event(ctx, buffer.by_ref(), event)?;
        let line = line.trim_end_matches('\n');
        match line.strip_suffix('}').filter(|_| self.json) {
            Some(open) => writeln!(writer, "{open},\"trace_id\":\"{trace_id}\",\"span_id\":\"{span_id}\"}}"),
            None => writeln!(writer, "{line} trace_id={trace_id} span_id={span_id}"),
        }
    }
}

/// Lets the exporter say each of its sentences once a minute, and everybody else speak as they like.
pub struct Thinned {
    /// When each may be said again.
    again: Mutex<HashMap<&'static str, Instant>>,
}

impl Thinned {
    pub fn new() -> Self {
        Self { again: Mutex::default() }
    }

    pub fn passes(&self, metadata: &Metadata<'_>) -> bool {
        if !metadata.target().starts_with("opentelemetry") {
            return true;
        }
        let now = Instant::now();
        let mut again = self.again.lock();
        // As many as the library has: its events' names are in its code.
        let next = again.entry(metadata.name()).or_insert(now);
        if now < *next {
            return false;
        }
        *next = now + EXPORTER_SAYS;
        true
    }
}

//! Lines of the log: the trace and the span that they belong to, and no flood of what the exporter complains of.

use std::{
    fmt,
    sync::atomic::{AtomicI64, Ordering},
    time::Instant,
};

use opentelemetry::{Context, trace::TraceContextExt as _};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Seconds between two lines of what the exporter says: it says the same of every batch that it cannot deliver.
const EXPORTER_SAYS_SECS: i64 = 60;

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

/// Lets the exporter speak once a minute, and everybody else as they like.
pub struct Thinned {
    began: Instant,
    /// The second after which it may speak again.
    next: AtomicI64,
}

impl Thinned {
    pub fn new() -> Self {
        Self { began: Instant::now(), next: AtomicI64::new(0) }
    }

    pub fn passes(&self, metadata: &Metadata<'_>) -> bool {
        if !metadata.target().starts_with("opentelemetry") {
            return true;
        }
        let now = i64::try_from(self.began.elapsed().as_secs()).unwrap_or(i64::MAX);
        let next = self.next.load(Ordering::Relaxed);
        now >= next
            && self.next.compare_exchange(next, now + EXPORTER_SAYS_SECS, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

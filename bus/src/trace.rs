//! What carries a story from one process to the next: the context of a span as a `traceparent`, and back.
//!
//! Spans that tell a story have the target [`TARGET`]: the trace sees them, the log does not, and without an exporter they
//! cost nothing.

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use schemas::TraceContext;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The target of spans that tell a story.
pub const TARGET: &str = "trace";

/// The context of the innermost traced span that is entered now; `None` where nothing is traced.
#[must_use]
pub fn current() -> Option<TraceContext> {
    Context::map_current(written)
}

/// The context of a span with [`TARGET`]; `None` where nothing is traced.
#[must_use]
pub fn of(span: &Span) -> Option<TraceContext> {
    if span.is_disabled() { None } else { written(&span.context()) }
}

fn written(context: &Context) -> Option<TraceContext> {
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return None;
    }
    let (trace_id, span_id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    TraceContext::parse(&format!("00-{trace_id}-{span_id}-{flags:02x}"))
}

/// Makes the span a child of a context from elsewhere. To be called before the span is entered.
pub fn set_parent(span: &Span, parent: &TraceContext) {
    if let Some(parent) = read(parent).filter(|_| !span.is_disabled()) {
        // It fails when nothing is traced.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// Gives the span a better name than the one that it began with. (`otel.name` counts at its beginning alone.)
pub fn rename(span: &Span, name: String) {
    if !span.is_disabled() {
        span.context().span().update_name(name);
    }
}

/// Says that the span has to do with a stored `traceparent`, which it is no child of.
pub fn link_stored(span: &Span, traceparent: Option<&str>) {
    let stored = traceparent.filter(|_| !span.is_disabled()).and_then(TraceContext::parse);
    if let Some(to) = stored.as_ref().and_then(read) {
        span.add_link(to);
    }
}

fn read(context: &TraceContext) -> Option<SpanContext> {
    let mut parts = context.as_str().split('-').skip(1);
    let trace_id = TraceId::from_hex(parts.next()?).ok()?;
    let span_id = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    Some(SpanContext::new(trace_id, span_id, TraceFlags::new(flags & 1), true, TraceState::NONE))
}

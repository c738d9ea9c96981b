//! Logs on stderr: text on a terminal, one JSON object a line otherwise. `RUST_LOG` chooses what is said.

use std::io::IsTerminal as _;

use anyhow::{Context as _, bail};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::{FilterExt as _, dynamic_filter_fn, filter_fn},
    fmt,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    config::nearest,
    telemetry::{Thinned, Traced},
};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Whose events become part of a trace: the exporter's own would feed themselves.
const OURS: [&str; 6] = ["patchbay", "gateway", "worker", "jobs", "store", "bus"];

/// Installs the subscriber of the whole process; `default` is the filter when `RUST_LOG` is not set. `tracer`: where
/// spans go.
///
/// # Errors
/// When `RUST_LOG` cannot be understood.
pub fn init(default: &str, tracer: Option<SdkTracer>) -> anyhow::Result<()> {
    let mut filter = filter(std::env::var_os("RUST_LOG").as_deref(), default)?;
    if !filter.to_string().contains("async_nats") {
        // What NATS' client says of an error is logged once more where it is handled.
        filter = filter.add_directive("async_nats=off".parse()?);
    }
    let to_terminal = std::io::stderr().is_terminal();
    let text = to_terminal.then(|| {
        let format = Traced { inner: fmt::format(), json: false };
        fmt::layer().with_writer(std::io::stderr).event_format(format).boxed()
    });
    let json = (!to_terminal).then(|| {
        let format = Traced { inner: fmt::format().json().flatten_event(true), json: true };
        let fields = fmt::format::JsonFields::new();
        fmt::layer().with_writer(std::io::stderr).fmt_fields(fields).event_format(format).boxed()
    });
    let thinned = Thinned::new();
    let said = filter
        .and(filter_fn(|metadata| metadata.target() != bus::trace::TARGET))
        .and(dynamic_filter_fn(move |metadata, _| thinned.passes(metadata)));
    let spans = tracer.map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(traced))
    });
    tracing_subscriber::registry().with(spans).with(text.or(json).with_filter(said)).try_init().context("logging")
}

fn traced(metadata: &Metadata<'_>) -> bool {
    if metadata.target() == bus::trace::TARGET {
        return true;
    }
    let module = metadata.target().split("::").next().unwrap_or_default();
    metadata.is_event() && *metadata.level() <= tracing::Level::INFO && OURS.contains(&module)
}

/// `EnvFilter` takes a misspelt level for the name of a module and then says nothing at all, so levels are checked here.
fn filter(rust_log: Option<&std::ffi::OsStr>, default: &str) -> anyhow::Result<EnvFilter> {
    let text = match rust_log {
        None => default,
        Some(text) if text.is_empty() => default,
        Some(text) => text.to_str().context("RUST_LOG is not valid UTF-8")?,
    };
    for directive in text.split(',').map(str::trim) {
        let level = directive.to_ascii_lowercase();
        if directive.contains(['=', '[']) || LEVELS.contains(&level.as_str()) {
            continue;
        }
        if let Some(meant) = nearest(&level, LEVELS) {
            bail!("RUST_LOG is {text:?}: {directive:?} is no level; did you mean {meant}?");
        }
    }
    EnvFilter::try_new(text).map_err(|error| {
        let expected = "expected a level (error, warn, info, debug, trace) or a list such as info,gateway=debug";
        anyhow::anyhow!("RUST_LOG is {text:?}: {error}; {expected}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        filter(Some(text.as_ref()), "info").expect_err("this should have been refused").to_string()
    }

    #[test]
    fn what_rust_log_usually_holds_is_taken() {
        for text in
            ["", "info", "WARN", "info,gateway=debug", "gateway", "worker::sweep=trace,off", "gateway[conn]=debug"]
        {
            filter(Some(text.as_ref()), "info").expect(text);
        }
        assert_eq!(filter(None, "warn").expect("default").to_string(), "warn");
    }

    #[test]
    fn a_bad_rust_log_is_one_clear_line() {
        assert_eq!(refused("inof"), "RUST_LOG is \"inof\": \"inof\" is no level; did you mean info?");
        assert!(refused("gateway=loud").starts_with("RUST_LOG is \"gateway=loud\": "));
        assert!(refused("a=b=c").contains("expected a level"));
    }
}

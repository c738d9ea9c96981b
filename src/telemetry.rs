//! Traces and metrics over OTLP (http/protobuf), when somebody asks for them by the standard `OTEL_*` variables. Nothing
//! here ever holds up who is traced: spans wait in a bounded queue for a thread of the exporter's own, and what finds it
//! full is dropped.

mod environment;
mod logs;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use environment::Wanted;
use gateway::metrics::Metrics;
use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider},
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::SdkTracerProvider,
};

pub use logs::{Thinned, Traced};

use crate::{logging, version::VERSION};

/// How long the last spans and figures may take at the end.
const FLUSH_WAIT: Duration = Duration::from_secs(5);

/// What a process exports.
pub struct Telemetry {
    tracer: Option<SdkTracerProvider>,
    meter: MeterProviderBuilder,
}

impl Telemetry {
    /// Begins with what the environment asks for, and installs the log. `service` is what this process is in traces,
    /// unless `OTEL_SERVICE_NAME` says otherwise.
    ///
    /// # Errors
    /// One line that names the variable.
    pub fn start(service: &'static str, log_filter: &str) -> anyhow::Result<Self> {
        let wanted = Wanted::read(|name| std::env::var(name).ok())?;
        let resource = resource(service);
        // The exporter's client blocks, and must not be made on a thread of the runtime.
        let made = std::thread::scope(|scope| scope.spawn(|| exporters(&wanted)).join());
        let (spans, figures) = made.map_err(|_| anyhow::anyhow!("the exporter cannot be made"))??;
        let tracer = spans.map(|exporter| {
            SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(exporter).build()
        });
        let mut meter = SdkMeterProvider::builder().with_resource(resource);
        if let Some(exporter) = figures {
            meter = meter.with_reader(PeriodicReader::builder(exporter).build());
        }
        logging::init(log_filter, tracer.as_ref().map(|provider| provider.tracer("patchbay")))?;
        for notice in wanted.notices {
            tracing::warn!("{notice}");
        }
        if wanted.traces || wanted.metrics {
            tracing::info!(traces = wanted.traces, metrics = wanted.metrics, "telemetry goes out over OTLP");
        }
        Ok(Self { tracer, meter })
    }

    /// The instruments, read by `/metrics` and by the exporter.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn instruments(&mut self) -> anyhow::Result<Arc<Metrics>> {
        let meter = std::mem::take(&mut self.meter);
        Metrics::with(meter).map(Arc::new).context("cannot make the instruments")
    }

    /// Sends what is left, bounded. To be called when nothing serves `/metrics` any more.
    pub async fn stop(self, metrics: Arc<Metrics>) {
        let tracer = self.tracer;
        let traces = tokio::task::spawn_blocking(move || {
            tracer.and_then(|tracer| tracer.shutdown_with_timeout(FLUSH_WAIT).err().map(|error| error.to_string()))
        });
        let figures =
            tokio::task::spawn_blocking(move || metrics.stop(FLUSH_WAIT).err().map(|error| error.to_string()));
        let (traces, figures) = tokio::join!(traces, figures);
        for (what, failed) in [("traces", traces.ok().flatten()), ("metrics", figures.ok().flatten())] {
            if let Some(error) = failed {
                tracing::warn!(what, error, "the last of the telemetry did not go out");
            }
        }
    }
}

/// `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` win over what we say of ourselves.
fn resource(service: &'static str) -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    // What comes later wins.
    Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", service),
            KeyValue::new("service.namespace", "patchbay"),
            KeyValue::new("service.version", VERSION),
            KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        ])
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())])
        .with_attributes(named.map(|name| KeyValue::new("service.name", name)))
        .build()
}

/// What is wanted of the two. They share the client that uses our files, where there are some.
fn exporters(wanted: &Wanted) -> anyhow::Result<(Option<SpanExporter>, Option<MetricExporter>)> {
    let client = wanted.tls.client()?;
    let spans = wanted.traces.then(|| with_client(SpanExporter::builder().with_http(), client.as_ref()).build());
    let figures = wanted.metrics.then(|| with_client(MetricExporter::builder().with_http(), client.as_ref()).build());
    Ok((
        spans.transpose().context("OTEL_EXPORTER_OTLP_*: traces cannot be exported")?,
        figures.transpose().context("OTEL_EXPORTER_OTLP_*: metrics cannot be exported")?,
    ))
}

fn with_client<B: WithHttpConfig>(builder: B, client: Option<&reqwest::blocking::Client>) -> B {
    match client {
        Some(client) => builder.with_http_client(client.clone()),
        None => builder,
    }
}

//! A collector: OTLP over HTTP comes in, spans and names of metrics are kept.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::Metric,
    trace::v1::Span,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{net::TcpListener, sync::Notify, time::timeout};

use crate::harness::own_address;

/// How long what was done may take to come in.
const PATIENCE: Duration = Duration::from_secs(30);

/// A span, and which process it is of.
#[derive(Debug, Clone)]
pub struct Told {
    /// `service.name`.
    pub service: String,
    /// `service.instance.id`.
    pub instance: String,
    pub span: Span,
}

impl Told {
    /// An attribute as text.
    pub fn text(&self, key: &str) -> Option<String> {
        text(&self.span.attributes, key)
    }

    /// An attribute that is a number, and no text that looks like one.
    pub fn number(&self, key: &str) -> Option<i64> {
        match self.span.attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()? {
            Value::IntValue(n) => Some(*n),
            _ => None,
        }
    }

    pub fn is_child_of(&self, parent: &Self) -> bool {
        self.span.trace_id == parent.span.trace_id && self.span.parent_span_id == parent.span.span_id
    }

    pub fn links_to(&self, other: &Self) -> bool {
        let to = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
            link.trace_id == other.span.trace_id && link.span_id == other.span.span_id
        };
        self.span.links.iter().any(to)
    }
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value = attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(n) => n.to_string(),
        other => format!("{other:?}"),
    })
}

#[derive(Default)]
struct Kept {
    spans: Mutex<Vec<Told>>,
    metrics: Mutex<Vec<(String, Metric)>>,
    news: Notify,
}

/// It.
pub struct Collector {
    pub url: String,
    kept: Arc<Kept>,
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::<Kept>::default();
        let routes = Router::new()
            .route("/v1/traces", post(traces))
            .route("/v1/metrics", post(metrics))
            .with_state(Arc::clone(&kept));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, kept }
    }

    /// Waits for a span.
    pub async fn span(&self, what: &str, fits: impl Fn(&Told) -> bool) -> Told {
        self.wait(what, || self.kept.spans.lock().iter().find(|told| fits(told)).cloned()).await
    }

    /// Waits for a metric of a service.
    pub async fn metric(&self, service: &str, name: &str) -> Metric {
        let found = |(of, metric): &&(String, Metric)| of == service && metric.name == name;
        self.wait(name, || self.kept.metrics.lock().iter().find(found).map(|(_, metric)| metric.clone())).await
    }

    /// All spans that came.
    pub fn spans(&self) -> Vec<Told> {
        self.kept.spans.lock().clone()
    }

    async fn wait<T>(&self, what: &str, look: impl Fn() -> Option<T>) -> T {
        let found = async {
            loop {
                let news = self.kept.news.notified();
                if let Some(found) = look() {
                    return found;
                }
                news.await;
            }
        };
        match timeout(PATIENCE, found).await {
            Ok(found) => found,
            Err(_) => {
                let names: Vec<_> =
                    self.spans().iter().map(|told| format!("{} {}", told.service, told.span.name)).collect();
                panic!("{what} did not come; these spans did: {names:#?}");
            }
        }
    }
}

async fn traces(State(kept): State<Arc<Kept>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap_or_default().attributes;
        let (service, instance) = (text(&resource, "service.name"), text(&resource, "service.instance.id"));
        let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
        kept.spans.lock().extend(spans.map(|span| Told {
            service: service.clone().unwrap_or_default(),
            instance: instance.clone().unwrap_or_default(),
            span,
        }));
    }
    kept.news.notify_waiters();
    StatusCode::OK
}

async fn metrics(State(kept): State<Arc<Kept>>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
    for of_resource in request.resource_metrics {
        let resource = of_resource.resource.unwrap_or_default().attributes;
        let service = text(&resource, "service.name").unwrap_or_default();
        let metrics = of_resource.scope_metrics.into_iter().flat_map(|of_scope| of_scope.metrics);
        kept.metrics.lock().extend(metrics.map(|metric| (service.clone(), metric)));
    }
    kept.news.notify_waiters();
    StatusCode::OK
}

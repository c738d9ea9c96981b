//! Instruments. One set feeds `/metrics` here and whatever else reads the provider. Labels are words out of short
//! lists, never ids: each method says which words are meant.

use std::{sync::Arc, time::Duration};

use bus::Bus;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter, MeterProvider as _, UpDownCounter},
};
use opentelemetry_sdk::metrics::{MeterProviderBuilder, SdkMeterProvider};
use prometheus::{Encoder as _, Registry, TextEncoder};

/// The name under which the instruments are registered.
const SCOPE: &str = "patchbay.gateway";

/// Upper bounds of the request histogram's buckets, in seconds: from a digest check to a login's bcrypt and beyond.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Close codes that get a label of their own; all others share one, since a peer may choose any number.
const CODES: [u16; 10] = [1000, 1001, 1002, 1006, 1007, 1008, 1009, 1011, 1012, 4401];

/// What is wrong with the instruments.
#[derive(Debug, thiserror::Error)]
#[error("metrics: {0}")]
pub struct MetricsError(String);

/// The instruments of one gateway.
pub struct Metrics {
    registry: Registry,
    provider: SdkMeterProvider,
    meter: Meter,
    agents: UpDownCounter<i64>,
    upgrades: Counter<u64>,
    auth_paths: Counter<u64>,
    frames_in: Counter<u64>,
    frames_out: Counter<u64>,
    frames_ignored: Counter<u64>,
    closes: Counter<u64>,
    flaps: Counter<u64>,
    command_replies: Counter<u64>,
    facts: UpDownCounter<i64>,
    facts_dropped: Counter<u64>,
    bus_requests: Counter<u64>,
    http_requests: Histogram<f64>,
    handshakes: Histogram<f64>,
    frame_bytes: Counter<u64>,
    draining: UpDownCounter<i64>,
    logins: Counter<u64>,
    sse: UpDownCounter<i64>,
    dashboards: UpDownCounter<i64>,
    bcrypt: UpDownCounter<i64>,
    held_bytes: UpDownCounter<i64>,
    terminal_upgrades: Counter<u64>,
    terminal_opens: Counter<u64>,
    terminal_opening: Histogram<f64>,
    terminals: UpDownCounter<i64>,
    terminal_bytes: Counter<u64>,
    terminal_shed: Counter<u64>,
    terminal_input: Histogram<f64>,
    terminal_echo: Histogram<f64>,
}

impl Metrics {
    /// Makes the instruments, read by `/metrics` alone.
    ///
    /// # Errors
    /// When the exporter refuses its registry.
    pub fn new() -> Result<Self, MetricsError> {
        Self::with(SdkMeterProvider::builder())
    }

    /// Makes the instruments on a provider that has further readers.
    ///
    /// # Errors
    /// When the exporter refuses its registry.
    pub fn with(provider: MeterProviderBuilder) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|e| MetricsError(e.to_string()))?;
        let provider = provider.with_reader(reader).build();
        // For the parts that have no instruments of ours at hand.
        opentelemetry::global::set_meter_provider(provider.clone());
        let meter = provider.meter(SCOPE);
        let count = |name, what| meter.u64_counter(name).with_description(what).build();
        let seconds = |name, what| {
            let histogram = meter.f64_histogram(name).with_unit("s").with_description(what);
            histogram.with_boundaries(SECONDS.to_vec()).build()
        };
        let level = |name, what| meter.i64_up_down_counter(name).with_description(what).build();
        let metrics = Self {
            agents: level("patchbay.agents.connected", "Agents whose socket this gateway holds"),
            upgrades: count("patchbay.agent.upgrades", "Upgrade requests of agents by outcome"),
            auth_paths: count("patchbay.agent.auth", "How an agent's key was checked"),
            frames_in: count("patchbay.frames.in", "Frames read from sockets"),
            frames_out: count("patchbay.frames.out", "Frames written to sockets"),
            frames_ignored: count("patchbay.frames.ignored", "Messages from sockets that were of no use"),
            closes: count("patchbay.agent.closes", "Agent sockets that ended, by close code"),
            flaps: count("patchbay.agent.flaps", "An api_id was found to be shared by several machines"),
            command_replies: count("patchbay.command.replies", "Answers to requests to deliver a command"),
            facts: level("patchbay.facts.queued", "Facts from sockets that wait for the store"),
            facts_dropped: count("patchbay.facts.dropped", "Facts that found their buffer full"),
            bus_requests: count("patchbay.bus.requests", "Requests over the bus by outcome"),
            http_requests: seconds("http.server.request.duration", "Duration of HTTP server requests"),
            handshakes: seconds(
                "patchbay.handshake.duration",
                "From an agent's upgrade request to its greeting, key check and epoch included",
            ),
            frame_bytes: meter
                .u64_counter("patchbay.frames.size")
                .with_unit("By")
                .with_description("Bytes of messages read from sockets and written to them, without their headers")
                .build(),
            draining: meter
                .i64_up_down_counter("patchbay.draining")
                .with_description("1 while this process drains")
                .build(),
            logins: count("patchbay.logins", "Logins by outcome"),
            sse: level("patchbay.sse.clients", "Open event streams"),
            dashboards: level("patchbay.dashboards.connected", "Open sockets of dashboards"),
            bcrypt: level("patchbay.bcrypt.queued", "bcrypt checks under way or waiting"),
            held_bytes: level("patchbay.results.held_bytes", "Bytes of posted results that wait for the store"),
            terminal_upgrades: count("patchbay.terminal.upgrades", "Upgrade requests of terminals by outcome"),
            terminal_opens: count("patchbay.terminal.opens", "Shells that were asked for, by outcome"),
            terminal_opening: seconds(
                "patchbay.terminal.open.duration",
                "From a browser's connect to the open shell, dialling and login included",
            ),
            terminals: level("patchbay.terminals.open", "Open shells"),
            terminal_bytes: meter
                .u64_counter("patchbay.terminal.size")
                .with_unit("By")
                .with_description("Bytes typed into shells and written by them")
                .build(),
            terminal_shed: meter
                .u64_counter("patchbay.terminal.shed")
                .with_unit("By")
                .with_description("Output that was left out because the browser did not take it")
                .build(),
            terminal_input: seconds(
                "patchbay.terminal.input.duration",
                "From reading a keystroke off the browser's socket to handing it on",
            ),
            terminal_echo: seconds(
                "patchbay.terminal.echo.duration",
                "From reading a keystroke off the browser's socket to the next output of the shell",
            ),
            registry,
            provider,
            meter,
        };
        metrics.show_zeros();
        Ok(metrics)
    }

    /// What was never recorded is not shown; these are asked for from the start.
    fn show_zeros(&self) {
        self.agent_connected(false, 0);
        self.agent_connected(true, 0);
        self.facts_queued(0);
        self.sse_clients(0);
        self.dashboards(0);
        self.bcrypt_queued(0);
        self.terminals("direct", 0);
        self.terminals("proxy", 0);
        self.draining.add(0, &[]);
    }

    /// A meter of the same provider, for another part of the process.
    #[must_use]
    pub fn meter(&self, scope: &'static str) -> Meter {
        self.provider.meter(scope)
    }

    /// Shows what the bus dropped.
    pub fn observe_bus(&self, bus: Arc<dyn Bus>) {
        self.meter
            .u64_observable_counter("patchbay.bus.dropped")
            .with_description("Bus messages dropped because a subscriber's queue was full")
            .with_callback(move |observer| observer.observe(bus.dropped(), &[]))
            .build();
    }

    /// Everything, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be printed");
        }
        String::from_utf8(text).unwrap_or_default()
    }

    /// Sends what is left to whoever else reads the provider. Afterwards nothing is shown any more.
    ///
    /// # Errors
    /// Why it did not go out.
    pub fn stop(&self, within: Duration) -> Result<(), MetricsError> {
        self.provider.shutdown_with_timeout(within).map_err(|e| MetricsError(e.to_string()))
    }

    /// Agents came (+1) or went (-1). `secure`: over TLS.
    pub fn agent_connected(&self, secure: bool, change: i64) {
        let scheme = if secure { "secure" } else { "plain" };
        self.agents.add(change, &[KeyValue::new("scheme", scheme)]);
    }

    /// An upgrade: `accepted`, `missing_credentials`, `invalid_credentials`, `rate_limited`, `flapping`,
    /// `store_unavailable`, `bus_unavailable`, `pool_full`, `draining`, `full`, `bad_request`.
    pub fn upgrade(&self, outcome: &'static str) {
        self.upgrades.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// How a key was checked: `digest`, `bcrypt`, `plaintext`, `unknown`.
    pub fn auth_path(&self, path: &'static str) {
        self.auth_paths.add(1, &[KeyValue::new("path", path)]);
    }

    /// A frame was read: `text`, `binary`, `ping`, `pong`, `close`.
    pub fn frame_in(&self, kind: &'static str) {
        self.frames_in.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// A frame was written: `text`, `ping`, `pong`, `close`.
    pub fn frame_out(&self, kind: &'static str) {
        self.frames_out.add(1, &[KeyValue::new("kind", kind)]);
    }

    /// A message was of no use: `malformed`, `unknown_type`, `unused`, `binary`.
    pub fn frame_ignored(&self, reason: &'static str) {
        self.frames_ignored.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A socket ended with this close code; 1006 where none was sent.
    pub fn closed(&self, code: u16) {
        let code = if CODES.contains(&code) { code.to_string() } else { "other".to_owned() };
        self.closes.add(1, &[KeyValue::new("code", code)]);
    }

    /// Several machines share an api_id: newcomers are refused for a while.
    pub fn flapping(&self) {
        self.flaps.add(1, &[]);
    }

    /// A holder answered: `delivered`, `sent`, `busy`, `superseded`, `unknown`.
    pub fn command_reply(&self, outcome: &'static str) {
        self.command_replies.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// Facts were buffered (+n) or stored (-n).
    pub fn facts_queued(&self, change: i64) {
        self.facts.add(change, &[]);
    }

    /// Facts found their buffer full.
    pub fn facts_dropped(&self, facts: u64) {
        self.facts_dropped.add(facts, &[]);
    }

    /// A request of ours over the bus ended: `answered`, `no_responder`, `timeout`, `disconnected`, `too_large`.
    pub fn bus_request(&self, outcome: &'static str) {
        self.bus_requests.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// An HTTP request was answered. `route` is the pattern, never the path.
    pub fn http_request(&self, method: &'static str, route: &'static str, status: u16, took: Duration) {
        let labels = [
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
            KeyValue::new("http.response.status_code", i64::from(status)),
        ];
        self.http_requests.record(took.as_secs_f64(), &labels);
    }

    /// An agent was greeted.
    pub fn handshake(&self, took: Duration) {
        self.handshakes.record(took.as_secs_f64(), &[]);
    }

    /// Bytes of a message came `in` or went `out`.
    pub fn bytes(&self, direction: &'static str, bytes: usize) {
        self.frame_bytes.add(bytes as u64, &[KeyValue::new("direction", direction)]);
    }

    /// Draining has begun.
    pub fn draining(&self) {
        self.draining.add(1, &[]);
    }

    /// A login: `accepted`, `refused`, `rate_limited`, `pool_full`, `store_unavailable`.
    pub fn login(&self, outcome: &'static str) {
        self.logins.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// Event streams were opened (+1) or ended (-1).
    pub fn sse_clients(&self, change: i64) {
        self.sse.add(change, &[]);
    }

    /// Dashboards were opened (+1) or closed (-1).
    pub fn dashboards(&self, change: i64) {
        self.dashboards.add(change, &[]);
    }

    /// A terminal's socket was asked for: `accepted`, `unauthorized`, `denied`, `no_host`, `unavailable`.
    pub fn terminal_upgrade(&self, outcome: &'static str) {
        self.terminal_upgrades.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// A shell was asked for, `direct` or by `proxy`: `opened`, `limit`, `gone`, `not_allowed`, `unreachable`, `timeout`,
    /// `host_key`, `refused`, `no_shell`, `offline`, `lost`, `bus_unavailable`, `store_unavailable`, `error`, `ended`.
    pub fn terminal_opened(&self, mode: &'static str, outcome: &'static str, took: Option<Duration>) {
        self.terminal_opens.add(1, &[KeyValue::new("mode", mode), KeyValue::new("outcome", outcome)]);
        if let Some(took) = took {
            self.terminal_opening.record(took.as_secs_f64(), &[KeyValue::new("mode", mode)]);
        }
    }

    /// Shells opened (+1) or ended (-1).
    pub fn terminals(&self, mode: &'static str, change: i64) {
        self.terminals.add(change, &[KeyValue::new("mode", mode)]);
    }

    /// Bytes went `in` to a shell or came `out` of it.
    pub fn terminal_bytes(&self, mode: &'static str, direction: &'static str, bytes: u64) {
        self.terminal_bytes.add(bytes, &[KeyValue::new("mode", mode), KeyValue::new("direction", direction)]);
    }

    /// Output was left out.
    pub fn terminal_shed(&self, mode: &'static str, bytes: u64) {
        self.terminal_shed.add(bytes, &[KeyValue::new("mode", mode)]);
    }

    /// Something typed was handed on.
    pub fn terminal_input(&self, mode: &'static str, took: Duration) {
        self.terminal_input.record(took.as_secs_f64(), &[KeyValue::new("mode", mode)]);
    }

    /// A shell wrote after something was typed.
    pub fn terminal_echo(&self, mode: &'static str, took: Duration) {
        self.terminal_echo.record(took.as_secs_f64(), &[KeyValue::new("mode", mode)]);
    }

    /// Checks joined (+1) or left (-1) the bcrypt pool.
    pub fn bcrypt_queued(&self, change: i64) {
        self.bcrypt.add(change, &[]);
    }

    /// Bytes of posted results began (+) or ended (-) to wait for a store that is away.
    pub fn results_held(&self, change: i64) {
        self.held_bytes.add(change, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_recorded_is_shown_with_its_labels() {
        let metrics = Metrics::new().unwrap();
        metrics.agent_connected(true, 1);
        metrics.upgrade("accepted");
        metrics.closed(1001);
        metrics.closed(4999);
        metrics.http_request("GET", "/api/v1/hosts/{id}", 404, Duration::from_millis(3));
        let text = metrics.render();
        for line in [
            r#"patchbay_agents_connected{scheme="secure"} 1"#,
            r#"patchbay_agents_connected{scheme="plain"} 0"#,
            r#"patchbay_agent_upgrades_total{outcome="accepted"} 1"#,
            r#"patchbay_agent_closes_total{code="1001"} 1"#,
            r#"patchbay_agent_closes_total{code="other"} 1"#,
            r#"http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404",http_route="/api/v1/hosts/{id}"} 1"#,
            "patchbay_facts_queued 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}

//! Where the queues stand, as metrics: shown by the worker that reports, and by no other, so that a sum over workers is
//! true. All of it comes from the snapshot that dashboards get.

use std::sync::Arc;

use jobs::State;
use opentelemetry::{KeyValue, metrics::Meter};
use parking_lot::Mutex;
use schemas::status::QueueStatus;

/// What the instruments show; nothing while another worker reports.
#[derive(Clone, Default)]
pub struct Figures(Arc<Mutex<Option<QueueStatus>>>);

impl Figures {
    /// Makes the instruments.
    pub fn start(meter: &Meter) -> Self {
        let figures = Self::default();
        let seen = figures.clone();
        meter
            .u64_observable_gauge("patchbay.queue.depth")
            .with_description("Commands that have not ended, by queue and state")
            .with_callback(move |observer| {
                for queue in seen.0.lock().iter().flat_map(|status| &status.queues) {
                    for state in State::ALL.into_iter().filter(|state| !state.is_end()) {
                        let labels = [KeyValue::new("queue", queue.name.clone()), KeyValue::new("state", state.name())];
                        observer.observe(queue.counts.get(state.name()).copied().unwrap_or(0), &labels);
                    }
                }
            })
            .build();
        let seen = figures.clone();
        meter
            .f64_observable_gauge("patchbay.queue.oldest_age")
            .with_unit("s")
            .with_description("How long the oldest command has been queued for a worker, by queue")
            .with_callback(move |observer| {
                let seen = seen.0.lock();
                let Some(status) = seen.as_ref() else { return };
                for queue in &status.queues {
                    let age_ms = queue.oldest_queued_at.map_or(0, |at| (status.at - at).max(0));
                    let age_ms = u32::try_from(age_ms).unwrap_or(u32::MAX);
                    observer.observe(f64::from(age_ms) / 1_000.0, &[KeyValue::new("queue", queue.name.clone())]);
                }
            })
            .build();
        let seen = figures.clone();
        meter
            .u64_observable_gauge("patchbay.workers.alive")
            .with_description("Workers that said lately that they live")
            .with_callback(move |observer| {
                if let Some(status) = seen.0.lock().as_ref() {
                    observer.observe(status.workers.len() as u64, &[]);
                }
            })
            .build();
        figures
    }

    /// The newest snapshot, or that somebody else has it.
    pub fn show(&self, status: Option<QueueStatus>) {
        *self.0.lock() = status;
    }
}

//! A sink that waits for its server or its operator says so once, not at every attempt: one warning and the
//! `sluice_deliver_paused` gauge when it begins, one line when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::telemetry;

/// Whether one sink waits on one stream. Shared by all its requests in flight.
#[derive(Debug)]
pub struct Outage {
    sink: Arc<str>,
    stream: Arc<str>,
    is_open: AtomicBool,
}

impl Outage {
    pub fn new(sink: &Arc<str>, stream: &Arc<str>) -> Outage {
        let outage = Outage { sink: sink.clone(), stream: stream.clone(), is_open: AtomicBool::new(false) };
        outage.show(0.0);
        outage
    }

    /// Call at every attempt that found the server unable or unwilling; only the first one is reported.
    pub fn began(&self, reason: &str) {
        if !self.is_open.swap(true, Ordering::Relaxed) {
            self.show(1.0);
            tracing::warn!(sink = %self.sink, stream = %self.stream, reason, "delivery paused, will try again");
        }
    }

    /// Call after every success.
    pub fn ended(&self) {
        if self.is_open.swap(false, Ordering::Relaxed) {
            self.show(0.0);
            tracing::info!(sink = %self.sink, stream = %self.stream, "delivery resumed");
        }
    }

    fn show(&self, value: f64) {
        telemetry::DELIVER_PAUSED.set(value, &[("stream", &self.stream), ("sink", &self.sink)]);
    }
}

//! Logs and metrics: how they are set up, and every metric the program has, declared in this one file.
//!
//! Labels come from closed sets (stream, sink, source kind, stage, reason class): never from the data.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// A metric that only grows.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    name: &'static str,
    help: &'static str,
}

/// A metric that goes up and down.
#[derive(Clone, Copy, Debug)]
pub struct Gauge {
    name: &'static str,
    help: &'static str,
}

/// A distribution, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Histogram {
    name: &'static str,
    help: &'static str,
}

impl Counter {
    pub fn add(self, value: u64, labels: &[(&'static str, &str)]) {
        counter!(self.name, owned(labels)).increment(value);
    }
}

impl Gauge {
    pub fn set(self, value: f64, labels: &[(&'static str, &str)]) {
        gauge!(self.name, owned(labels)).set(value);
    }
}

impl Histogram {
    pub fn record(self, seconds: f64, labels: &[(&'static str, &str)]) {
        histogram!(self.name, owned(labels)).record(seconds);
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<metrics::Label> {
    labels.iter().map(|&(key, value)| metrics::Label::new(key, value.to_owned())).collect()
}

macro_rules! declare {
    ($($kind:ident $constant:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: $kind = $kind { name: $name, help: $help };)*
        /// Name, kind and help of every metric, for the list in the documentation and its test.
        pub const DECLARED: &[(&str, &str, &str)] = &[$(($name, stringify!($kind), $help)),*];
        /// Gives the recorder every metric's help text. Call once, after the recorder is installed.
        pub fn describe() {
            $($constant.describe();)*
        }
    };
}

impl Counter {
    fn describe(self) {
        describe_counter!(self.name, Unit::Count, self.help);
    }
}

impl Gauge {
    fn describe(self) {
        describe_gauge!(self.name, self.help);
    }
}

impl Histogram {
    fn describe(self) {
        describe_histogram!(self.name, Unit::Seconds, self.help);
    }
}

declare! {
    Counter INGEST_RECORDS = "sluice_ingest_records_total", "Records made durable, by stream and source.";
    Counter INGEST_BYTES = "sluice_ingest_bytes_total", "Bytes of input read by sources, by stream and source.";
    Counter INGEST_REFUSED = "sluice_ingest_refused_total", "Inputs that did not parse and went to dead letters, by stream and reason.";
    Counter JOURNAL_COMMITS = "sluice_journal_commits_total", "Group commits (one fsync each).";
    Counter JOURNAL_APPENDED_BYTES = "sluice_journal_appended_bytes_total", "Stored bytes of appended blocks.";
    Gauge JOURNAL_DISK_BYTES = "sluice_journal_disk_bytes", "Size of the journal on disk.";
    Gauge JOURNAL_LIVE_BYTES = "sluice_journal_live_bytes", "Stored bytes of blocks not yet past every cursor.";
    Histogram JOURNAL_APPEND_SECONDS = "sluice_journal_append_seconds", "Time of a durable append, wait for the group included.";
    Counter JOURNAL_QUARANTINED = "sluice_journal_quarantined_blocks_total", "Blocks set aside because their checksum failed, by stream.";
    Gauge JOURNAL_FULL = "sluice_journal_full", "1 while sources wait for space in the journal.";
    Counter PROCESS_RECORDS = "sluice_process_records_total", "Records by stream and verdict (kept, filtered, duplicate, dead).";
    Counter PLUGIN_TRAPS = "sluice_plugin_traps_total", "Plugin calls that trapped, by stream and plugin.";
    Gauge DEDUP_KEYS = "sluice_dedup_keys", "Keys in the seen-set, by stream.";
    Counter DELIVER_RECORDS = "sluice_deliver_records_total", "Records delivered, by stream and sink.";
    Counter DELIVER_DEAD = "sluice_deliver_dead_total", "Records a sink refused for good, by stream and sink.";
    Counter DELIVER_RETRIES = "sluice_deliver_retries_total", "Deliveries tried again, by sink and reason class.";
    Gauge DELIVER_LAG_BLOCKS = "sluice_deliver_lag_blocks", "Blocks between the end of the lane and the sink's cursor, by stream and sink.";
    Gauge DELIVER_PAUSED = "sluice_deliver_paused", "1 while a sink waits for its operator or its server, by stream and sink.";
    Gauge LINK_CONNECTED = "sluice_link_connected", "1 while the edge has a connection to a central.";
    Gauge LINK_EDGES = "sluice_link_edges", "Edges connected to this central.";
    Counter LINK_BLOCKS = "sluice_link_blocks_total", "Blocks sent (edge) or made durable (central), by stream.";
    Counter LINK_RESENT = "sluice_link_resent_blocks_total", "Blocks that arrived again and were dropped, by stream.";
}

//! Logs and metrics: how they are set up, and every metric the program has, declared in this one file.
//!
//! Logs go to standard error, one line per event. Metrics are kept in memory by one recorder and rendered when /metrics
//! is asked for. Labels come from closed sets (stream, sink, source kind, stage, reason class): never from the data.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::OnceLock;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Upper bounds of the buckets of every histogram, in seconds: from an fsync of a fast disk to a timeout.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("set up log: {filter:?} is not a filter: {reason}")]
    Filter { filter: String, reason: String },
    #[error("set up log: {reason}")]
    Log { reason: String },
    #[error("set up metrics")]
    Metrics(#[source] BuildError),
}

/// Whether `filter` can be given to `install_log`.
pub fn check_filter(filter: &str) -> Result<(), Error> {
    parse_filter(filter).map(drop)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, Error> {
    let error = |reason: String| Error::Filter { filter: filter.to_owned(), reason };
    if filter.trim().is_empty() {
        return Err(error("it is empty".to_owned()));
    }
    // Alone, a word that is no level is taken for the name of a module that logs everything: "inof" would silence us.
    let is_level = filter.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    if !is_level && !filter.contains(['=', ',', ':', '[']) {
        return Err(error("it is not a level".to_owned()));
    }
    EnvFilter::builder().parse(filter).map_err(|reason| error(reason.to_string()))
}

/// Changes the filter of the log that `install_log` set up.
type FilterHandle = reload::Handle<EnvFilter, Registry>;
static FILTER: OnceLock<FilterHandle> = OnceLock::new();

/// Sends log events of the whole process to standard error. Once per process; a second call fails.
pub fn install_log(format: LogFormat, filter: &str) -> Result<(), Error> {
    let (filter, handle) = reload::Layer::new(parse_filter(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let installed = match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(lines.with_ansi(colours)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
    installed.map_err(|reason| Error::Log { reason: reason.to_string() })?;
    let _ = FILTER.set(handle); // only the first installation succeeds
    Ok(())
}

/// Puts another filter in the place of the one `install_log` was given.
pub fn set_log_filter(filter: &str) -> Result<(), Error> {
    let parsed = parse_filter(filter)?;
    let handle = FILTER.get().ok_or_else(|| Error::Log { reason: "it was not set up".to_owned() })?;
    handle.reload(parsed).map_err(|reason| Error::Log { reason: reason.to_string() })
}

/// Installs the recorder of the whole process and describes every metric to it. Once per process; a second call fails.
/// Whoever holds the handle calls `run_upkeep` now and then, else samples pile up.
pub fn install_metrics() -> Result<PrometheusHandle, Error> {
    let recorder = recorder().map_err(Error::Metrics)?;
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| Error::Metrics(error.into()))?;
    describe();
    handle.run_upkeep(); // publishes the descriptions
    Ok(handle)
}

fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &SECONDS_BUCKETS)?.build_recorder())
}

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

/// Shows an error with all its causes: `outer: inner: innermost`.
pub fn chain(error: &dyn std::error::Error) -> impl std::fmt::Display + '_ {
    struct Chain<'a>(&'a dyn std::error::Error);
    impl std::fmt::Display for Chain<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}", self.0)?;
            let mut source = self.0.source();
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
            }
            Ok(())
        }
    }
    Chain(error)
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
    Counter JOURNAL_DEAD_DROPPED = "sluice_journal_dead_letters_dropped_total", "Dead letters dropped, oldest first, because there were more than their bound.";
    Gauge JOURNAL_FULL = "sluice_journal_full", "1 while sources wait for space in the journal.";
    Counter PROCESS_RECORDS = "sluice_process_records_total", "Records by stream and verdict (kept, filtered, duplicate, dead).";
    Counter PLUGIN_TRAPS = "sluice_plugin_traps_total", "Plugin calls that trapped, by stream and plugin.";
    Counter DEDUP_EVICTED = "sluice_dedup_evicted_keys_total", "Keys dropped from a full seen-set before their window had passed, by stream.";
    Counter PLUGIN_COUNTED = "sluice_plugin_counted_total", "What plugins count themselves, by stream, plugin and counter (0 to 15).";
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_proper_name() {
        let stages = ["ingest", "journal", "process", "plugin", "dedup", "deliver", "link", "fleet", "admin", "schema"];
        let mut names = std::collections::BTreeSet::new();
        for (name, kind, help) in DECLARED {
            let stage = name.strip_prefix("sluice_").and_then(|rest| rest.split('_').next());
            assert!(stage.is_some_and(|stage| stages.contains(&stage)), "{name}: sluice_<stage>_...");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "Counter", "{name}: counters alone end in _total");
            assert!(*kind != "Histogram" || name.ends_with("_seconds"), "{name}: histograms are in seconds");
            assert!(help.ends_with('.') && help.len() > 20, "{name}: help is a sentence");
            assert!(names.insert(name), "{name} is declared twice");
        }
    }

    #[test]
    fn every_touched_metric_is_rendered_with_its_help() {
        let recorder = recorder().unwrap();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            for &(name, kind, help) in DECLARED {
                match kind {
                    "Counter" => Counter { name, help }.add(1, &[("stream", "s")]),
                    "Gauge" => Gauge { name, help }.set(1.0, &[("stream", "s")]),
                    "Histogram" => Histogram { name, help }.record(0.004, &[("stream", "s")]),
                    other => panic!("{other} is not covered here"),
                }
            }
        });
        handle.run_upkeep();
        let rendered = handle.render();
        for (name, kind, help) in DECLARED {
            assert!(rendered.contains(&format!("# HELP {name} {help}\n")), "{name} has no help in:\n{rendered}");
            let sample = match *kind {
                "Histogram" => format!("{name}_bucket{{stream=\"s\",le=\"0.005\"}} 1\n"),
                _ => format!("{name}{{stream=\"s\"}} 1\n"),
            };
            assert!(rendered.contains(&sample), "{sample} is not in:\n{rendered}");
        }
    }

    #[test]
    fn filters_are_levels_or_directives() {
        for filter in ["info", "DEBUG", "warn,sluice::journal=debug", "sluice=trace", "off"] {
            assert!(check_filter(filter).is_ok(), "{filter}");
        }
        for filter in ["", "inof", "sluice=loud", "a=b=c", "[{"] {
            assert!(check_filter(filter).is_err(), "{filter}");
        }
    }

    #[test]
    fn metric_macros_are_used_in_this_file_alone() {
        let raw = regex::Regex::new(r"\b(counter|gauge|histogram|describe_\w+)!\s*\(").unwrap();
        let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
        let mut count = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if !path.ends_with("telemetry.rs") {
                    count += 1;
                    assert!(!raw.is_match(&std::fs::read_to_string(&path).unwrap()), "{}", path.display());
                }
            }
        }
        assert!(count > 10, "found the sources");
    }
}

//! Settings of sinks and of the link to a central.

use std::collections::BTreeMap;

use super::super::file::{self, Config};
use super::super::tree::Path;
use super::super::units::{ByteSize, Period, gib, kib, mib, millis, seconds};
use super::super::{Sink, SinkKind};
use super::checks::Checks;
use crate::deliver;

/// Where a stream's name goes in an index or table.
const STREAM: &str = "{stream}";

pub(super) fn sinks(checks: &mut Checks<'_>, config: &Config) -> Vec<Sink> {
    check_directories(checks, config);
    let sinks = config.sinks.iter().map(|(name, sink)| {
        let path = Path::of(&["sinks", name]);
        checks.name(&path, name);
        let streams: Vec<&str> = config
            .streams
            .iter()
            .filter(|(_, stream)| stream.sinks.contains(name))
            .map(|(name, _)| name.as_str())
            .collect();
        let kind = match sink {
            file::Sink::Parquet(sink) => SinkKind::Parquet(parquet(checks, &path.key("parquet"), sink)),
            file::Sink::Elasticsearch(sink) => {
                let path = path.key("elasticsearch");
                check_index(checks, &path.key("index"), &sink.index, &streams);
                SinkKind::Elasticsearch(elasticsearch(checks, &path, sink))
            }
            file::Sink::Bigquery(sink) => {
                let path = path.key("bigquery");
                check_table(checks, &path.key("table"), &sink.table, &streams);
                SinkKind::Bigquery(bigquery(checks, &path, sink))
            }
            file::Sink::Stdout(file::Stdout {}) => SinkKind::Stdout,
        };
        Sink { name: name.as_str().into(), kind }
    });
    sinks.collect()
}

fn parquet(checks: &mut Checks<'_>, path: &Path, sink: &file::Parquet) -> deliver::parquet::Settings {
    deliver::parquet::Settings {
        directory: sink.directory.clone(),
        file_max_bytes: checks.memory(
            &path.key("file_max"),
            sink.file_max,
            kib::<1>()..=gib::<4>(),
            "a file is built in memory",
        ),
        file_max_age: checks.time(
            &path.key("file_max_age"),
            sink.file_max_age,
            millis::<100>()..=seconds::<86_400>(),
            "blocks stay in the journal until their file is finished",
        ),
    }
}

/// Two sinks in one folder would take each other's unfinished files for their own.
fn check_directories(checks: &mut Checks<'_>, config: &Config) {
    let mut taken = BTreeMap::new();
    for (name, sink) in &config.sinks {
        let file::Sink::Parquet(sink) = sink else { continue };
        if let Some(first) = taken.insert(&sink.directory, name) {
            let path = Path::of(&["sinks", name, "parquet", "directory"]);
            checks.refuse_value(&path, &format!("is the folder of sink {first}"), "give each sink a folder of its own");
        }
    }
}

fn elasticsearch(checks: &mut Checks<'_>, path: &Path, sink: &file::Elasticsearch) -> deliver::elasticsearch::Settings {
    if sink.urls.is_empty() {
        checks.refuse(&path.key("urls"), "names no node", "write at least one, as in [https://search.example:9200]");
    }
    sink.urls.iter().enumerate().for_each(|(i, url)| checks.url(&path.key("urls").index(i), url));
    deliver::elasticsearch::Settings {
        urls: sink.urls.clone(),
        auth: match &sink.auth {
            file::ElasticsearchAuth::None => deliver::elasticsearch::Auth::None,
            file::ElasticsearchAuth::Basic(file::Basic { user, password }) => {
                let path = path.key("auth").key("basic").key("password");
                deliver::elasticsearch::Auth::Basic { user: user.clone(), password: checks.secret(&path, password) }
            }
            file::ElasticsearchAuth::ApiKey(key) => {
                let path = path.key("auth").key("api_key");
                deliver::elasticsearch::Auth::ApiKey { encoded: checks.secret(&path, key) }
            }
        },
        index: sink.index.clone(),
        request_max_bytes: checks.memory(
            &path.key("request_max"),
            sink.request_max,
            kib::<64>()..=mib::<100>(),
            "clusters refuse requests over 100 MiB (http.max_content_length)",
        ),
        gzip: sink.gzip,
        in_flight_max: checks.count(&path.key("in_flight_max"), sink.in_flight_max, 1..=64, "each request is memory"),
        timeout: timeout(checks, path, sink.timeout),
        retry_max: retry_max(checks, path, sink.retry_max),
    }
}

/// Elasticsearch takes no capitals and few signs in an index.
fn check_index(checks: &mut Checks<'_>, path: &Path, index: &str, streams: &[&str]) {
    let names = if streams.is_empty() { &[STREAM] } else { streams };
    for stream in names {
        let name = index.replace(STREAM, if *stream == STREAM { "stream" } else { stream });
        let starts_badly = name.is_empty() || name.starts_with(['-', '_', '+', '.']);
        let bad_letter =
            |c: char| c.is_uppercase() || c.is_whitespace() || c.is_control() || "\\/*?\"<>|,#:{}".contains(c);
        if starts_badly || name.contains(bad_letter) || name.len() > 255 {
            let help = "write lowercase letters, digits, - _ and . (not first); {stream} stands for the stream's name";
            let shown = checks.shown(path, name);
            return checks.refuse(path, format!("makes {shown:?}, which is not the name of an index"), help);
        }
    }
}

fn bigquery(checks: &mut Checks<'_>, path: &Path, sink: &file::Bigquery) -> deliver::bigquery::Settings {
    for (key, value, signs) in [("project", &sink.project, "-:."), ("dataset", &sink.dataset, "_")] {
        if value.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || signs.contains(c)) {
            let help = format!("write letters, digits and {signs}, as the console shows it");
            checks.refuse_value(&path.key(key), &format!("is not the name of a {key}"), help);
        }
    }
    for (key, url) in [("rest_url", &sink.rest_url), ("grpc_url", &sink.grpc_url)] {
        if let Some(url) = url {
            checks.url(&path.key(key), url);
        }
    }
    deliver::bigquery::Settings {
        project: sink.project.clone(),
        dataset: sink.dataset.clone(),
        table: sink.table.clone(),
        auth: match &sink.auth {
            file::BigqueryAuth::Default => deliver::bigquery::Auth::Default,
            file::BigqueryAuth::Metadata => deliver::bigquery::Auth::Metadata,
            file::BigqueryAuth::None => deliver::bigquery::Auth::None,
            file::BigqueryAuth::ServiceAccountKey(path) => {
                deliver::bigquery::Auth::ServiceAccountKey { path: path.clone() }
            }
        },
        rest_url: sink.rest_url.clone(),
        grpc_url: sink.grpc_url.clone(),
        request_max_bytes: checks.memory(
            &path.key("request_max"),
            sink.request_max,
            kib::<64>()..=mib::<9>(),
            "the service refuses requests over 10 MB, headers included",
        ),
        timeout: timeout(checks, path, sink.timeout),
        retry_max: retry_max(checks, path, sink.retry_max),
    }
}

/// A table has one schema, so it can hold one stream.
fn check_table(checks: &mut Checks<'_>, path: &Path, table: &str, streams: &[&str]) {
    if let ([first, second, ..], false) = (streams, table.contains(STREAM)) {
        let help = format!("write {STREAM} into it, or give each stream a sink of its own");
        checks.refuse_value(path, &format!("would hold both {first} and {second}"), help);
    }
    let rest = table.replace(STREAM, "");
    if table.is_empty() || !rest.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-')) {
        let help = format!("write letters, digits, _ and -; {STREAM} stands for the stream's name");
        checks.refuse_value(path, "is not the name of a table", help);
    } else if let Some(stream) = streams.iter().find(|stream| table.contains(STREAM) && stream.contains('.')) {
        let help = "name a table of its own here: a table's name has no dots";
        let shown = checks.shown(path, table.replace(STREAM, stream));
        checks.refuse(path, format!("makes {shown:?}, which is not the name of a table"), help);
    }
}

pub(super) fn link(checks: &mut Checks<'_>, config: &Config) -> Option<deliver::link::Settings> {
    let link = config.link.as_ref()?;
    let path = Path::of(&["link"]);
    if link.centrals.is_empty() {
        checks.refuse(&path.key("centrals"), "names no central", "write at least one, as in [central.example:4433]");
    }
    for (i, central) in link.centrals.iter().enumerate() {
        let authority = central.parse::<http::uri::Authority>().ok();
        let whole =
            authority.is_some_and(|a| !a.host().is_empty() && a.port_u16().is_some() && !a.as_str().contains('@'));
        if !whole {
            let help = "write host and port, as in central.example:4433";
            checks.refuse_value(&path.key("centrals").index(i), "is not a host with a port", help);
        }
    }
    let time_bounds = millis::<100>()..=seconds::<60>();
    Some(deliver::link::Settings {
        centrals: link.centrals.clone(),
        ca_certificate: link.ca_certificate.clone(),
        certificate: link.certificate.clone(),
        private_key: link.private_key.clone(),
        in_flight_max_bytes: in_flight_max(checks, &path, link.in_flight_max),
        connect_timeout: checks.time(
            &path.key("connect_timeout"),
            link.connect_timeout,
            time_bounds.clone(),
            "the next central is tried only then",
        ),
        keep_alive: checks.time(&path.key("keep_alive"), link.keep_alive, time_bounds, "a dead central is noticed so"),
        retry_max: retry_max(checks, &path, link.retry_max),
    })
}

fn in_flight_max(checks: &mut Checks<'_>, path: &Path, in_flight_max: ByteSize) -> usize {
    checks.memory(&path.key("in_flight_max"), in_flight_max, mib::<1>()..=gib::<1>(), "several blocks must fit")
}

fn timeout(checks: &mut Checks<'_>, path: &Path, timeout: Period) -> std::time::Duration {
    let why = "an answer that was not awaited is in doubt, and its request is sent again";
    checks.time(&path.key("timeout"), timeout, seconds::<1>()..=seconds::<600>(), why)
}

fn retry_max(checks: &mut Checks<'_>, path: &Path, retry_max: Period) -> std::time::Duration {
    let why = "a sink that is back is noticed after this at the latest";
    checks.time(&path.key("retry_max"), retry_max, millis::<100>()..=seconds::<3600>(), why)
}

//! Settings of sources.

use std::net::SocketAddr;
use std::path::Path as FilePath;

use super::super::file::{self, Config};
use super::super::problem::closest;
use super::super::tree::Path;
use super::super::units::{ByteSize, Period, gib, kib, mib, millis, seconds};
use super::checks::Checks;
use super::{LINE_MESSAGE, list};
use crate::ingest::{self, gather, parse};

pub(super) fn files(checks: &mut Checks<'_>, config: &Config) -> Vec<ingest::file::Settings> {
    config.sources.files.iter().map(|(name, source)| file(checks, config, name, source)).collect()
}

fn file(checks: &mut Checks<'_>, config: &Config, name: &str, source: &file::FileSource) -> ingest::file::Settings {
    let path = Path::of(&["sources", "files", name]);
    checks.name(&path, name);
    if source.include.is_empty() {
        checks.refuse(&path.key("include"), "names no file", "write at least one pattern, as in [/var/log/app/*.log]");
    }
    for (key, patterns) in [("include", &source.include), ("exclude", &source.exclude)] {
        for (i, pattern) in patterns.iter().enumerate() {
            if glob::Pattern::new(pattern).is_err() {
                let help =
                    "* stands for any letters of a name, ** between slashes for any folders, [a-z] for one letter";
                checks.refuse_value(&path.key(key).index(i), "is not a pattern", help);
            }
        }
    }
    check_stream(checks, config, &path, source);
    ingest::file::Settings {
        name: name.into(),
        stream: source.stream.as_str().into(),
        include: source.include.clone(),
        exclude: source.exclude.clone(),
        format: match source.format {
            file::FileFormat::Json => parse::Format::Json,
            file::FileFormat::Line => parse::Format::Line,
        },
        line_max_bytes: checks.memory(
            &path.key("line_max"),
            source.line_max,
            kib::<1>()..=mib::<1>(),
            "a record travels in one block, and the journal takes no larger ones",
        ),
        poll: checks.time(
            &path.key("poll"),
            source.poll,
            millis::<10>()..=seconds::<3600>(),
            "a file may be rotated away unseen between two looks",
        ),
        start_at: match source.start_at {
            file::StartAt::Beginning => ingest::file::StartAt::Beginning,
            file::StartAt::End => ingest::file::StartAt::End,
        },
        gather: gather(checks, &path, source.gather.block_max, source.gather.block_max_age),
    }
}

/// The stream must be known, and be of the message that the format makes.
fn check_stream(checks: &mut Checks<'_>, config: &Config, path: &Path, source: &file::FileSource) {
    let Some(stream) = config.streams.get(&source.stream) else {
        let help = match closest(&source.stream, config.streams.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("streams of this file: {}", list(config.streams.keys())),
        };
        return checks.refuse_value(&path.key("stream"), "is not a stream", help);
    };
    if source.format == file::FileFormat::Line && stream.message != LINE_MESSAGE {
        let help =
            format!("text lines become {LINE_MESSAGE}: give them a stream of that message, or write format: json");
        let message = checks.shown(&Path::of(&["streams", &source.stream, "message"]), stream.message.clone());
        checks.refuse(&path.key("format"), format!("line does not make {message}"), help);
    }
}

pub(super) fn http(checks: &mut Checks<'_>, config: &Config) -> Option<ingest::http::Settings> {
    let source = config.sources.http.as_ref()?;
    let path = Path::of(&["sources", "http"]);
    if source.body_max > source.in_flight_max {
        let help = "the largest body must fit into in_flight_max, or it is refused for ever";
        checks.refuse(&path.key("body_max"), format!("is larger than in_flight_max, {}", source.in_flight_max), help);
    }
    let bounds = kib::<1>()..=gib::<1>();
    Some(ingest::http::Settings {
        listen: source.listen.0,
        body_max_bytes: checks.memory(&path.key("body_max"), source.body_max, bounds.clone(), "it is held in memory"),
        in_flight_max_bytes: checks.memory(&path.key("in_flight_max"), source.in_flight_max, bounds, "it is memory"),
        gather: gather(checks, &path, source.gather.block_max, source.gather.block_max_age),
    })
}

pub(super) fn link(checks: &mut Checks<'_>, config: &Config) -> Option<ingest::link::Settings> {
    let source = config.sources.link.as_ref()?;
    let connections = Path::of(&["sources", "link", "connections_max"]);
    Some(ingest::link::Settings {
        listen: source.listen.0,
        ca_certificate: source.ca_certificate.clone(),
        certificate: source.certificate.clone(),
        private_key: source.private_key.clone(),
        connections_max: checks.count(&connections, source.connections_max, 1..=100_000, "each takes memory"),
    })
}

fn gather(checks: &mut Checks<'_>, source: &Path, block_max: ByteSize, block_max_age: Period) -> gather::Settings {
    let path = source.key("gather");
    gather::Settings {
        block_max_bytes: checks.memory(
            &path.key("block_max"),
            block_max,
            kib::<4>()..=kib::<256>(),
            "smaller blocks do not compress, and the journal's store keeps larger ones less safely",
        ),
        block_max_age: checks.time(
            &path.key("block_max_age"),
            block_max_age,
            millis::<1>()..=seconds::<60>(),
            "records become durable only with their block",
        ),
    }
}

/// Two TCP listeners cannot share a port. The link's is UDP.
pub(super) fn check_listens(checks: &mut Checks<'_>, config: &Config) {
    let Some(http) = &config.sources.http else { return };
    let (http, admin) = (http.listen.0, config.admin.listen.0);
    let same_host =
        |a: SocketAddr, b: SocketAddr| a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    if http.port() != 0 && http.port() == admin.port() && same_host(http, admin) {
        let path = Path::of(&["sources", "http", "listen"]);
        checks.refuse_value(&path, "is taken: admin.listen has the same port", "choose another port for one of them");
    }
}

/// Patterns are paths too: relative ones start at the file's folder.
pub fn resolve_pattern(folder: &FilePath, pattern: &str) -> String {
    if FilePath::new(pattern).is_absolute() {
        return pattern.to_owned();
    }
    // The folder's own letters stand for themselves.
    let folder = glob::Pattern::escape(&folder.to_string_lossy());
    FilePath::new(&folder).join(pattern).to_string_lossy().into_owned()
}

//! From what the user wrote to what is true: every rule that needs more than one key, and every bound.
//!
//! All rules are checked before anything is refused, so that one run of `sluice check` shows all there is to mend.

mod checks;
mod sinks;
mod sources;

pub use sources::resolve_pattern;

use std::collections::BTreeSet;
use std::sync::Arc;

use checks::Checks;

use super::file::{self, Config};
use super::problem::{Problem, closest};
use super::tree::{Node, Path};
use super::units::{gib, kib, mib, millis, seconds};
use super::{Dedup, LogFormat, Role, Settings, Stream};
use crate::{admin, journal, process, schema, telemetry};

/// The message of text lines, the only one that `format: line` makes.
const LINE_MESSAGE: &str = "sluice.v1.LogLine";

/// Settings of a configuration whose shape is right and whose paths are resolved. `tree` is the same, with places.
pub fn settings(config: &Config, agent: &str, tree: &Node) -> Result<Settings, Vec<Problem>> {
    let mut checks = Checks::new(tree);
    checks.name(&Path::of(&["agent"]), agent);
    check_role(&mut checks, config);
    sources::check_listens(&mut checks, config);
    let agent: Arc<str> = agent.into();
    let settings = Settings {
        role: match config.role {
            file::Role::Edge => Role::Edge,
            file::Role::Central => Role::Central,
            file::Role::Solo => Role::Solo,
        },
        agent: agent.clone(),
        data_directory: config.data.clone(),
        log_format: match config.log.format {
            file::LogFormat::Text => LogFormat::Text,
            file::LogFormat::Json => LogFormat::Json,
        },
        log_filter: log_filter(&mut checks, config),
        drain_deadline: checks.time(
            &Path::of(&["drain_deadline"]),
            config.drain_deadline,
            seconds::<1>()..=seconds::<3600>(),
            "what starts the node also kills it: keep below its patience",
        ),
        journal: journal(&mut checks, config, agent),
        schema: schema::Settings {
            proto_roots: config.schemas.proto_roots.clone(),
            descriptor_sets: config.schemas.descriptor_sets.clone(),
        },
        admin: Some(admin::Settings { listen: config.admin.listen.0 }),
        plugins: plugins(&mut checks, config),
        file_sources: sources::files(&mut checks, config),
        http_source: sources::http(&mut checks, config),
        link_source: sources::link(&mut checks, config),
        streams: config.streams.iter().map(|(name, stream)| self::stream(&mut checks, config, name, stream)).collect(),
        sinks: sinks::sinks(&mut checks, config),
        link_sink: sinks::link(&mut checks, config),
    };
    let problems = checks.finish();
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// What each role must and must not have.
fn check_role(checks: &mut Checks<'_>, config: &Config) {
    const AT_CENTRAL: &str = "plugins and sinks run where records are delivered, at central: remove it here";
    match config.role {
        file::Role::Edge => {
            for key in ["plugins", "sinks"] {
                refuse_written(checks, &Path::of(&[key]), "has no place at an edge", AT_CENTRAL);
            }
            for name in config.streams.keys() {
                for key in ["transforms", "dedup", "sinks"] {
                    let path = Path::of(&["streams", name, key]);
                    refuse_written(checks, &path, "has no place at an edge", AT_CENTRAL);
                }
            }
            let link = Path::of(&["sources", "link"]);
            refuse_written(
                checks,
                &link,
                "has no place at an edge",
                "edges connect to a central: write link at the top",
            );
            if config.link.is_none() {
                checks.refuse(&Path::of(&["link"]), "is required at an edge", "name the centrals and certificates");
            }
        }
        file::Role::Central => {
            let help = "only an edge connects to a central: remove it here, or write role: edge";
            refuse_written(checks, &Path::of(&["link"]), "has no place at a central", help);
            if config.sources.link.is_none() {
                let help = "edges connect to it; a node without edges has role: solo";
                checks.refuse(&Path::of(&["sources", "link"]), "is required at a central", help);
            }
        }
        file::Role::Solo => {
            let help = "a solo node has no peers: remove it, or choose role: edge or role: central";
            for path in [Path::of(&["link"]), Path::of(&["sources", "link"])] {
                refuse_written(checks, &path, "has no place at a solo node", help);
            }
        }
    }
    if config.role != file::Role::Central && config.sources.files.is_empty() && config.sources.http.is_none() {
        checks.refuse(&Path::of(&["sources"]), "names no source", "add files or http, else nothing enters");
    }
    if config.streams.is_empty() {
        let help = "name at least one stream and its message, as in playback: { message: demo.v1.PlaybackEvent }";
        checks.refuse(&Path::of(&["streams"]), "names no stream", help);
    }
}

fn refuse_written(checks: &mut Checks<'_>, path: &Path, what: &str, help: &str) {
    if checks.is_written(path) {
        checks.refuse(path, what, help);
    }
}

fn log_filter(checks: &mut Checks<'_>, config: &Config) -> String {
    let filter = &config.log.filter;
    if telemetry::check_filter(filter).is_err() {
        let help =
            "write a level (error, warn, info, debug, trace), or levels by module, as in info,sluice::journal=debug";
        checks.refuse_value(&Path::of(&["log", "filter"]), "is not a filter", help);
    }
    filter.clone()
}

fn journal(checks: &mut Checks<'_>, config: &Config, agent: Arc<str>) -> journal::Settings {
    let journal = &config.journal;
    let at = |key| Path::of(&["journal", key]);
    if journal.dead_letters_max >= journal.max_bytes {
        let help = format!("dead letters are kept in the journal: stay below its max_bytes, {}", journal.max_bytes);
        checks.refuse_value(&at("dead_letters_max"), "leaves no room for records", help);
    }
    journal::Settings {
        directory: config.data.join("journal"),
        agent,
        engine: match journal.engine {
            file::Engine::Sled => journal::Engine::Sled,
            file::Engine::Redb => journal::Engine::Redb,
        },
        max_bytes: checks.size(&at("max_bytes"), journal.max_bytes, mib::<8>()..=gib::<16_384>(), "a segment is 8MiB"),
        group_max_delay: checks.time(
            &at("group_max_delay"),
            journal.group_max_delay,
            millis::<0>()..=seconds::<1>(),
            "every acknowledgement waits this long",
        ),
        group_max_bytes: checks.memory(
            &at("group_max_bytes"),
            journal.group_max_bytes,
            kib::<1>()..=mib::<64>(),
            "a group is held in memory",
        ),
        cache_bytes: checks.size(&at("cache"), journal.cache, mib::<1>()..=gib::<64>(), "it is memory of the node"),
        dead_letter_max_bytes: checks.size(
            &at("dead_letters_max"),
            journal.dead_letters_max,
            kib::<64>()..=gib::<1_024>(),
            "a refused record must find room",
        ),
    }
}

fn plugins(checks: &mut Checks<'_>, config: &Config) -> process::plugin::HostSettings {
    let plugins = &config.plugins;
    let at = |key| Path::of(&["plugins", key]);
    let instances =
        checks.count(&at("instances_max"), plugins.instances_max, 1..=10_000, "address space is reserved for each");
    process::plugin::HostSettings {
        cache_directory: config.data.join("plugins"),
        instances_max: u32::try_from(instances).unwrap_or(u32::MAX),
        memory_max_bytes: checks.memory(
            &at("memory_max"),
            plugins.memory_max,
            mib::<1>()..=gib::<4>(),
            "a plugin cannot run in less, nor address more",
        ),
        deadline: checks.time(
            &at("deadline"),
            plugins.deadline,
            millis::<10>()..=seconds::<60>(),
            "time is measured in ticks of 10ms, and a batch waits this long",
        ),
        output_max_ratio: checks.count(
            &at("output_max_ratio"),
            plugins.output_max_ratio,
            1..=1_000,
            "it bounds memory",
        ),
    }
}

fn stream(checks: &mut Checks<'_>, config: &Config, name: &str, stream: &file::Stream) -> Stream {
    let path = Path::of(&["streams", name]);
    checks.name(&path, name);
    let message = &stream.message;
    let identifier = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if !message.split('.').all(identifier) {
        let help = "write its full name without a leading dot, as in demo.v1.PlaybackEvent";
        checks.refuse_value(&path.key("message"), "is not the name of a message", help);
    }
    check_stream_sinks(checks, config, &path, stream);
    let mut names = BTreeSet::new();
    let transforms = stream.transforms.iter().enumerate().map(|(i, transform)| {
        let path = path.key("transforms").index(i);
        if !names.insert(&transform.name) {
            let help = "give each plugin of a stream its own name: metrics and dead letters carry it";
            checks.refuse_value(&path.key("name"), "names two plugins", help);
        }
        plugin(checks, &path, transform)
    });
    let transforms = transforms.collect();
    let dedup = stream.dedup.as_ref().map(|dedup| {
        let path = path.key("dedup");
        Dedup {
            plugin: plugin(checks, &path.key("plugin"), &dedup.plugin),
            window: checks.time(
                &path.key("window"),
                dedup.window,
                seconds::<1>()..=seconds::<{ 366 * 86_400 }>(),
                "keys are remembered for so long",
            ),
            keys_max: checks.count(
                &path.key("keys_max"),
                dedup.keys_max,
                1..=1_000_000_000,
                "each key takes about 40 bytes of memory",
            ),
        }
    });
    Stream {
        name: name.into(),
        message: message.clone(),
        transforms,
        dedup,
        sinks: stream.sinks.iter().map(|sink| sink.as_str().into()).collect(),
    }
}

fn check_stream_sinks(checks: &mut Checks<'_>, config: &Config, path: &Path, stream: &file::Stream) {
    let path = path.key("sinks");
    if config.role != file::Role::Edge && stream.sinks.is_empty() {
        let known = list(config.sinks.keys());
        checks.refuse(&path, "names no sink: its records would go nowhere", format!("sinks of this file: {known}"));
    }
    for (i, sink) in stream.sinks.iter().enumerate() {
        let path = path.index(i);
        if config.role != file::Role::Edge && !config.sinks.contains_key(sink) {
            let known = config.sinks.keys().map(String::as_str);
            let help = match closest(sink, known) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("sinks of this file: {}", list(config.sinks.keys())),
            };
            checks.refuse_value(&path, "is not a sink", help);
        }
        if stream.sinks[..i].contains(sink) {
            checks.refuse_value(&path, "is named twice", "name each sink once");
        }
    }
}

fn plugin(checks: &mut Checks<'_>, path: &Path, plugin: &file::Plugin) -> process::plugin::Settings {
    checks.name(&path.key("name"), &plugin.name);
    let config = plugin.config.iter().map(|(key, value)| (key.clone(), value.clone()));
    process::plugin::Settings {
        name: plugin.name.clone(),
        path: plugin.path.clone(),
        config_json: serde_json::Value::Object(config.collect()).to_string(),
    }
}

/// Names for a help line.
fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.map(String::as_str).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

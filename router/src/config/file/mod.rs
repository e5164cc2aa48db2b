//! The configuration as the user writes it: every key, its default and what it is for.
//!
//! Kinds are keys (`warehouse: { bigquery: {...} }`), unknown keys are refused, and the doc comment of a key is its
//! description in the JSON Schema and in error messages. Nothing here is checked beyond its form; `settings` does that.

mod sinks;
mod sources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use sinks::{Basic, Bigquery, BigqueryAuth, Elasticsearch, ElasticsearchAuth, Link, Parquet, Sink, Stdout};
pub use sources::{FileFormat, FileSource, HttpSource, LinkSource, Sources, StartAt};

use super::units::{Address, ByteSize, Period, count, gib, mib, millis, seconds};

/// A Sluice node: where records come from, what becomes of them and where they go.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Sluice configuration")]
pub struct Config {
    /// What this node is: edge (sources to link), central (link to sinks), or solo (both in one process).
    pub role: Role,
    /// Name of this node, part of every record's identity: keep it when the host is rebuilt. Default: the host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Folder of everything that must survive: the journal and the cache of compiled plugins.
    #[serde(default = "data_directory")]
    pub data: PathBuf,
    /// Longest time to finish what was begun after SIGTERM.
    #[serde(default = "seconds::<30>")]
    pub drain_deadline: Period,
    /// The program's own log, on standard error.
    #[serde(default)]
    pub log: Log,
    /// Where accepted records are kept until every sink has them.
    #[serde(default)]
    pub journal: Journal,
    /// Where message types are found.
    #[serde(default)]
    pub schemas: Schemas,
    /// The port for operators: /livez, /readyz, /metrics, /ledger.
    #[serde(default)]
    pub admin: Admin,
    /// Limits of plugins; central and solo only.
    #[serde(default)]
    pub plugins: Plugins,
    /// Where records enter.
    #[serde(default)]
    pub sources: Sources,
    /// The flows of records, each of one message type, by name.
    pub streams: BTreeMap<String, Stream>,
    /// Where records leave, by name; central and solo only.
    #[serde(default)]
    pub sinks: BTreeMap<String, Sink>,
    /// The connection to a central; edge only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Edge,
    Central,
    Solo,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// text for people, json for machines.
    pub format: LogFormat,
    /// Which lines are written, in the form of RUST_LOG: a level, or levels by module.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// The store: sled, or redb.
    pub engine: Engine,
    /// Hard limit on disk. When it is reached sources wait; nothing is dropped.
    pub max_bytes: ByteSize,
    /// Longest wait of a commit for others to share its fsync: more throughput against later acknowledgements.
    pub group_max_delay: Period,
    /// A group of this size is committed at once.
    pub group_max_bytes: ByteSize,
    /// Memory for the store's cache.
    pub cache: ByteSize,
    /// Refused records kept on disk; beyond it the oldest go, counted.
    pub dead_letters_max: ByteSize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    Sled,
    Redb,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Schemas {
    /// Folders of .proto files. Each is an import root; every file below it is compiled.
    pub proto_roots: Vec<PathBuf>,
    /// Files that hold a serialized FileDescriptorSet, as `protoc --descriptor_set_out` writes it.
    pub descriptor_sets: Vec<PathBuf>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Address and port, without authentication: keep it private. Port 0 takes any free port and logs it.
    pub listen: Address,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plugins {
    /// Memory of one instance; beyond it the plugin's call fails, not the router.
    pub memory_max: ByteSize,
    /// Longest time of one call on one batch.
    pub deadline: Period,
    /// Instances that may exist at once, over all streams.
    pub instances_max: u64,
    /// Output of one call as a multiple of its input, plus 1 MiB.
    pub output_max_ratio: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Full name of the message type, as in demo.v1.PlaybackEvent.
    pub message: String,
    /// Plugins that change or filter records, in this order.
    #[serde(default)]
    pub transforms: Vec<Plugin>,
    /// Drops records that were seen before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<Dedup>,
    /// Names of the sinks that get every kept record.
    #[serde(default)]
    pub sinks: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// Name in metrics, logs and dead letters.
    pub name: String,
    /// The .wasm file that `sluice plugin build` wrote.
    pub path: PathBuf,
    /// The plugin's own settings, handed to it as JSON.
    #[serde(default)]
    pub config: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    /// The plugin that says what identifies a record.
    pub plugin: Plugin,
    /// A record is a duplicate of one with the same key less than this before it.
    #[serde(default = "seconds::<86_400>")]
    pub window: Period,
    /// Keys remembered at most, about 40 bytes of memory each; beyond it the oldest are forgotten, counted.
    #[serde(default = "count::<10_000_000>")]
    pub keys_max: u64,
}

fn data_directory() -> PathBuf {
    PathBuf::from("/var/lib/sluice")
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Default for Journal {
    fn default() -> Journal {
        Journal {
            engine: Engine::Sled,
            max_bytes: gib::<8>(),
            group_max_delay: millis::<5>(),
            group_max_bytes: mib::<1>(),
            cache: mib::<64>(),
            dead_letters_max: mib::<256>(),
        }
    }
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { listen: Address(([127, 0, 0, 1], 9600).into()) }
    }
}

impl Default for Plugins {
    fn default() -> Plugins {
        Plugins { memory_max: mib::<64>(), deadline: seconds::<1>(), instances_max: 100, output_max_ratio: 4 }
    }
}

/// The JSON Schema of a configuration: what editors check against, and what `shape` checks by.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    without_null(&mut schema);
    schema
}

/// A key without a value is refused (was it forgotten, or meant to be empty?), so the schema does not offer null either:
/// `Option` means that the key may be left out.
fn without_null(schema: &mut serde_json::Value) {
    use serde_json::Value::{Array, Null, Object, String};
    match schema {
        Array(items) => items.iter_mut().for_each(without_null),
        Object(object) => {
            object.retain(|key, value| key != "default" || *value != Null);
            if let Some(Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [String(only)] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only.into());
                }
            }
            if let Some(Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    object.remove("anyOf");
                    only.into_iter().for_each(|(key, value)| {
                        object.entry(key).or_insert(value);
                    });
                }
            }
            object.values_mut().for_each(without_null);
        }
        _ => {}
    }
}

//! Plugins in the real engine: the bundled ones do their work, and a hostile one hurts nobody.
//!
//! The components are built by the code behind `sluice plugin build`, where they are absent or older than their
//! sources.
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up fails")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use sluice::cli::plugin::build::build;
use sluice::process::plugin::{
    Dedup, Error, Host, HostSettings, InstanceConfig, Kind, Plugin, Row, Settings, Transform, Transformed,
};
use sluice::record::{Frames, FramesBuilder};
use sluice::schema::Schema;

const DEADLINE: Duration = Duration::from_millis(300);
const MEMORY_MAX: usize = 16 << 20;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn newest(path: &Path) -> SystemTime {
    let metadata = std::fs::metadata(path).unwrap();
    if !metadata.is_dir() {
        return metadata.modified().unwrap();
    }
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.ends_with("target")).map(|path| newest(&path)).max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The components, built once for all tests of this file.
fn component(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let out = root().join("target/plugins");
        let shared = newest(&root().join("plugins-sdk")).max(newest(&root().join("wit")));
        for directory in ["plugins/redact", "plugins/dedup-key", "tests/plugins/hostile"] {
            let source = root().join(directory);
            let file = out.join(format!("{}.wasm", source.file_name().unwrap().display()));
            let built = std::fs::metadata(&file).and_then(|metadata| metadata.modified());
            if built.is_ok_and(|built| built >= newest(&source).max(shared)) {
                continue;
            }
            build(&source, Some(&file)).unwrap();
        }
        out
    });
    directory.join(format!("{name}.wasm"))
}

fn host() -> Host {
    Host::new(HostSettings {
        cache_directory: PathBuf::new(),
        instances_max: 4,
        memory_max_bytes: MEMORY_MAX,
        deadline: DEADLINE,
        output_max_ratio: 4,
    })
    .unwrap()
}

fn schema() -> Schema {
    let files = [("event.proto", EVENT_PROTO)];
    let mut compiler = protox::Compiler::with_file_resolver(InMemory(files.into()));
    compiler.open_file("event.proto").unwrap();
    let pool = compiler.descriptor_pool();
    Schema::new(pool.get_message_by_name("test.Event").unwrap())
}

const EVENT_PROTO: &str = r#"
syntax = "proto3";
package test;
message Event {
  string id = 1;
  string text = 2;
  User user = 3;
  map<string, string> labels = 4;
  repeated string tags = 5;
  int64 number = 6;
}
message User { string email = 1; User parent = 2; }
"#;

struct InMemory(Vec<(&'static str, &'static str)>);

impl protox::file::FileResolver for InMemory {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        match self.0.iter().find(|(known, _)| *known == name) {
            Some((_, source)) => protox::file::File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

fn instance_config() -> InstanceConfig {
    let schema = schema();
    InstanceConfig {
        stream: "events".into(),
        message: schema.message().to_owned(),
        descriptors: schema.descriptors.clone(),
    }
}

fn load(host: &Host, name: &str, config: &str) -> Arc<Plugin> {
    let settings = Settings { name: name.into(), path: component(name), config_json: config.into() };
    host.load(&settings).unwrap()
}

fn transform(host: &Host, name: &str, config: &str) -> Transform {
    load(host, name, config).transform(instance_config()).unwrap()
}

fn hostile(behaviour: &str) -> Transform {
    transform(&host(), "hostile", &format!("{behaviour:?}"))
}

fn frames<R: AsRef<[u8]>>(records: impl IntoIterator<Item = R>) -> Frames {
    let mut builder = FramesBuilder::default();
    records.into_iter().for_each(|record| builder.push(record.as_ref()));
    builder.finish()
}

fn event(descriptor: &MessageDescriptor, json: &str) -> Vec<u8> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(descriptor.clone(), &mut deserializer).unwrap().encode_to_vec()
}

fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|i| format!("record {i}").into_bytes()).collect()
}

/// Index and reason of the failed records; all others must be kept.
fn failed(output: &Transformed) -> Vec<(usize, String)> {
    let failed = |(index, row)| match row {
        Row::Keep => None,
        Row::Failed(reason) => Some((index, reason.to_owned())),
        other => panic!("record {index}: {other:?}"),
    };
    output.rows().enumerate().filter_map(failed).collect()
}

#[test]
fn redact_works_in_the_engine() {
    let descriptor = schema().descriptor;
    let config = r#"{"fields": ["user.email", "labels"], "patterns": ["card", "ipv4"], "pattern_fields": ["text"]}"#;
    let mut redact = transform(&host(), "redact", config);
    let input = frames([
        event(&descriptor, r#"{"id": "1", "text": "nothing"}"#),
        event(
            &descriptor,
            r#"{"id": "2", "text": "카드 4111-1111-1111-1111 from 10.0.0.1", "user": {"email": "a@b.com"}, "labels": {"k": "v"}, "number": "7"}"#,
        ),
        vec![0x12, 0x7f],
    ]);
    for _ in 0..3 {
        let output = redact.run(1, 0, &input).unwrap();
        let rows: Vec<_> = output.rows().collect();
        assert_eq!(rows[0], Row::Keep);
        let Row::Replace(message) = &rows[1] else { panic!("{rows:?}") };
        let message = DynamicMessage::decode(descriptor.clone(), message.clone()).unwrap();
        let expected = event(
            &descriptor,
            r#"{"id": "2", "text": "카드 [card] from [ipv4]", "user": {"email": "[redacted]"}, "labels": {"k": "[redacted]"}, "number": "7"}"#,
        );
        assert_eq!(message, DynamicMessage::decode(descriptor.clone(), Bytes::from(expected)).unwrap());
        assert_eq!(message.get_field_by_name("number").as_deref(), Some(&Value::I64(7)));
        let Row::Failed(reason) = rows[2] else { panic!("{rows:?}") };
        assert!(reason.contains("past the end"), "{reason}");
    }
    assert!(redact.run(1, 0, &Frames::default()).unwrap().is_unchanged());
    assert!(redact.run(1, 0, &frames([b""; 100])).unwrap().is_unchanged());
}

#[test]
fn dedup_key_works_in_the_engine() {
    let descriptor = schema().descriptor;
    let mut dedup: Dedup =
        load(&host(), "dedup-key", r#"{"fields": ["id", "user.email"]}"#).dedup(instance_config()).unwrap();
    let output = dedup
        .run(
            1,
            5_000_000_000,
            &frames([
                event(&descriptor, r#"{"id": "a", "text": "x"}"#),
                event(&descriptor, r#"{"text": "no identity"}"#),
                vec![0xff],
                event(&descriptor, r#"{"id": "a", "text": "y"}"#),
                event(&descriptor, r#"{"id": "b", "user": {"email": "e"}}"#),
            ]),
        )
        .unwrap();
    let keys: Vec<_> = output.keys.iter().collect();
    assert_eq!(keys[0], keys[3]);
    assert!(!keys[0].is_empty() && keys[0] != keys[4] && keys[1].is_empty() && keys[2].is_empty());
    assert_eq!(output.refused.iter().map(|refused| refused.index).collect::<Vec<_>>(), [2]);
    assert!(output.times.is_empty() && output.windows.is_empty());
}

#[test]
fn a_wrong_config_stops_at_the_start_with_its_key() {
    let host = host();
    let check = |name: &str, config: &str, expected: &str| {
        let plugin = load(&host, name, config);
        let result = match plugin.kind() {
            Kind::Transform => plugin.transform(instance_config()).map(drop),
            Kind::Dedup => plugin.dedup(instance_config()).map(drop),
        };
        let Err(Error::Init { name: failed, stream, reason }) = result else { panic!("{config}: {result:?}") };
        assert_eq!((failed.as_str(), &*stream), (name, "events"));
        assert!(reason.starts_with(expected), "{reason}");
    };
    check(
        "redact",
        r#"{"fields": ["mail"]}"#,
        "config key fields: find field mail: message test.Event has no field mail",
    );
    check("redact", r#"{"fields": [7]}"#, "config key fields[0]: invalid type");
    check("dedup-key", "{}", "config: missing field `fields`");
    check("dedup-key", "", "config: EOF");
    check("hostile", r#""init-err""#, "config key behaviour: no");
    check("hostile", r#""init-panic""#, "panicked at ");
    check("hostile", r#""init-loop""#, "it ran longer than 300 ms");
}

#[test]
fn a_plugin_of_the_other_kind_is_refused() {
    let error = load(&host(), "dedup-key", r#"{"fields": ["id"]}"#).transform(instance_config()).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "use plugin dedup-key as transform: it is a dedup plugin");
}

#[test]
fn what_is_no_plugin_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let host = host();
    let whole = std::fs::read(component("redact")).unwrap();
    let check = |bytes: &[u8], expected: &str| {
        let path = directory.path().join("p.wasm");
        std::fs::write(&path, bytes).unwrap();
        let settings = Settings { name: "p".into(), path, config_json: String::new() };
        let error = host.load(&settings).unwrap_err();
        let Error::Load { reason, .. } = &error else { panic!("{error:?}") };
        assert!(reason.contains(expected), "{reason}");
    };
    check(b"", "compile it");
    check(&whole[..whole.len() / 2], "compile it");
    check(b"\0asm\x01\0\0\0", "it is a core module");
    check(b"\0asm\x0d\0\x01\0", "it exports nothing");
    check(&vec![0; (16 << 20) + 1], "16777217 bytes, 16777216 are allowed");
    let settings = Settings { name: "p".into(), path: directory.path().join("none"), config_json: String::new() };
    assert!(matches!(host.load(&settings), Err(Error::Read { .. })), "a missing file");
}

#[test]
fn inspection_tells_what_a_component_is() {
    let host = host();
    let inspection = host.inspect(&std::fs::read(component("redact")).unwrap()).unwrap();
    let manifest = inspection.manifest.clone().unwrap();
    assert_eq!((manifest.kind, manifest.name.as_str()), (Kind::Transform, "redact"));
    assert_eq!(inspection.interface_version, "1.0.0");
    assert_eq!(inspection.exports, ["sluice:plugin/transform@1.0.0"]);
    assert!(inspection.imports.iter().all(|import| import.starts_with("sluice:plugin/")), "{inspection:?}");
    assert_eq!(inspection.digest_hex().len(), 64);
    assert!(inspection.len_bytes < 300_000, "{}", inspection.len_bytes);
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    plugin: sluice::cli::plugin::Args,
}

#[test]
fn the_commands_build_and_inspect() {
    component("dedup-key");
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("new/dedup.wasm");
    let source = root().join("plugins/dedup-key");
    let run = |arguments: &[&std::ffi::OsStr]| {
        let arguments = [&["plugin".as_ref()], arguments].concat();
        sluice::cli::plugin::run(<Cli as clap::Parser>::try_parse_from(arguments).unwrap().plugin)
    };
    run(&["build".as_ref(), source.as_ref(), "-o".as_ref(), out.as_ref()]).unwrap();
    run(&["inspect".as_ref(), out.as_ref()]).unwrap();
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(component("dedup-key")).unwrap(), "a build repeats");
    let error = run(&["build".as_ref(), directory.path().as_ref()]).unwrap_err();
    assert!(error.to_string().ends_with("has no Cargo.toml"), "{error}");
    std::fs::write(&out, "not wasm").unwrap();
    let error = run(&["inspect".as_ref(), out.as_ref()]).unwrap_err();
    assert!(format!("{error:#}").contains("compile it"), "{error:#}");
    assert!(
        run(&["build".as_ref(), root().join("plugins-sdk/macros").as_ref()]).is_err(),
        "a macro crate is no plugin"
    );
}

#[test]
fn one_poison_record_fails_alone_with_the_panic_text() {
    let mut plugin = hostile("poison-panic");
    let mut records = numbered(1000);
    records[637] = b"poison".to_vec();
    for _ in 0..3 {
        let failed = failed(&plugin.run(1, 0, &frames(&records)).unwrap());
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].0, 637);
        assert!(failed[0].1.starts_with("panicked at "), "{failed:?}");
        assert!(failed[0].1.ends_with("cannot stand poison and says so"), "{failed:?}");
        assert!(plugin.run(1, 0, &frames(numbered(10))).unwrap().is_unchanged());
    }
}

#[test]
fn several_poison_records_fail_alone() {
    let places = [0, 1, 500, 998, 999];
    for behaviour in ["poison-panic", "poison-err"] {
        let mut plugin = hostile(behaviour);
        let mut records = numbered(1000);
        places.iter().for_each(|&place| records[place] = b"poison".to_vec());
        let failed = failed(&plugin.run(1, 0, &frames(&records)).unwrap());
        assert_eq!(failed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), places);
    }
}

#[test]
fn a_record_that_loops_is_found_within_its_time() {
    let mut plugin = hostile("poison-loop");
    let mut records = numbered(16);
    records[5] = b"poison".to_vec();
    let started = Instant::now();
    let failed = failed(&plugin.run(1, 0, &frames(&records)).unwrap());
    assert_eq!(failed, [(5, "it ran longer than 300 ms".to_owned())]);
    // The batch, once more, and four halvings.
    assert!(started.elapsed() < DEADLINE * 20, "{:?}", started.elapsed());
}

/// The plugin fails on all it gets: the batch is refused as a whole, and says why.
fn broken(behaviour: &str, expected: &str) {
    let mut plugin = hostile(behaviour);
    for _ in 0..2 {
        let error = plugin.run(1, 0, &frames(numbered(20))).map(drop).unwrap_err();
        let Error::Broken { name, stream, reason } = &error else { panic!("{behaviour}: {error:?}") };
        assert_eq!((name.as_str(), &**stream), ("hostile", "events"));
        assert!(reason.contains(expected), "{behaviour}: {reason}");
    }
}

#[test]
fn a_broken_plugin_halts_its_stream_and_names_the_cause() {
    broken("panic", "always");
    broken("recurse", "it trapped: ");
    broken("memory", "bytes of memory, 16777216 are allowed");
    broken("few-verdicts", "its output is wrong: 2 verdicts for 1 records");
    broken("many-verdicts", "its output is wrong: ");
    broken("unknown-verdict", "its output is wrong: verdict 77 of record 0 is unknown");
    broken("forged-frames", "its output is wrong: replacement of record 0");
    broken("missing-frames", "its output is wrong: replacement of record 0");
    broken("error-index", "its output is wrong: error for record 4294967295");
    broken("route", "its output is wrong: it routes to 9");
    broken("huge-output", "its output is larger than allowed");
}

#[test]
fn an_endless_loop_ends() {
    let started = Instant::now();
    let mut plugin = hostile("loop");
    let error = plugin.run(1, 0, &frames(numbered(1000))).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "run plugin hostile for stream events: it ran longer than 300 ms");
    assert!(started.elapsed() < DEADLINE * 60, "{:?}", started.elapsed());
}

#[test]
fn a_flood_of_log_lines_passes() {
    for behaviour in ["log-flood", "log-huge"] {
        assert!(hostile(behaviour).run(1, 0, &frames(numbered(3))).unwrap().is_unchanged(), "{behaviour}");
    }
}

#[test]
fn a_plugin_that_leaks_is_replaced_between_batches() {
    let mut plugin = hostile("leak");
    for _ in 0..60 {
        assert!(plugin.run(1, 0, &frames(numbered(3))).unwrap().is_unchanged());
    }
}

#[test]
fn a_neighbour_is_not_held_up() {
    let host = host();
    let mut neighbour = transform(&host, "redact", r#"{"patterns": ["email"]}"#);
    let mut bad = transform(&host, "hostile", r#""loop""#);
    let worker = std::thread::Builder::new().spawn(move || bad.run(1, 0, &frames(numbered(8))).map(drop)).unwrap();
    let input = frames(numbered(100).iter().map(|text| [&[0x12, text.len() as u8], text.as_slice()].concat()));
    let mut batches = 0;
    while !worker.is_finished() {
        assert!(neighbour.run(1, 0, &input).unwrap().is_unchanged());
        batches += 1;
    }
    let error = worker.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("ran longer") && batches > 50, "{batches}: {error}");
}

#[test]
fn the_pool_s_end_is_an_error() {
    let host = host();
    let plugin = load(&host, "redact", r#"{"patterns": ["email"]}"#);
    let held: Vec<_> = (0..4).map(|_| plugin.transform(instance_config()).unwrap()).collect();
    let error = plugin.transform(instance_config()).map(drop).unwrap_err();
    assert!(error.to_string().contains("maximum concurrent"), "{error}");
    drop(held);
    assert!(plugin.transform(instance_config()).is_ok());
}

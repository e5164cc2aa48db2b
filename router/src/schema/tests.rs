//! Registry, closure and options.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::options::{Epoch, Partition, Sensitivity};
use super::registry::Registry;
use super::*;

/// Schema of one message of a file.
pub(super) fn schema_of(proto: &str, message: &str) -> Schema {
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("test.proto"), proto).unwrap();
    let pool = compile::compile(&[root.path().to_owned()]).unwrap();
    Schema::new(pool.get_message_by_name(message).unwrap())
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn load(roots: &[PathBuf]) -> Result<Registry, Error> {
    Registry::load(&Settings { proto_roots: roots.to_vec(), descriptor_sets: Vec::new() })
}

const EVENT: &str = r#"
    syntax = "proto3";
    package a;
    import "google/protobuf/timestamp.proto";
    import "sluice/options.proto";
    import "a/part.proto";
    // A comment, which is source info.
    message Event {
      option (sluice.message) = { dedup_window: "24h" expiry: "400d" };
      string id = 1 [(sluice.field) = { dedup_key: true required: true }];
      google.protobuf.Timestamp time = 2 [(sluice.field) = { event_time: true partition: PARTITION_HOUR }];
      string tenant = 3 [(sluice.field) = { cluster: 2 elasticsearch_type: "keyword" }];
      string email = 4 [(sluice.field) = { cluster: 1 sensitivity: SENSITIVITY_HASH }];
      Part part = 5;
    }"#;
const PART: &str = r#"
    syntax = "proto3";
    package a;
    import "sluice/options.proto";
    message Part { int64 at_us = 1 [(sluice.field) = { event_time: true epoch: EPOCH_MICROSECONDS dedup_key: true }]; }"#;
const OTHER: &str = r#"syntax = "proto3"; package b; message Other { string x = 1; }"#;

#[test]
fn a_fingerprint_depends_on_the_files_it_needs_alone() {
    let fingerprint = |files: &[(&str, &str)], roots: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), files);
        let roots: Vec<PathBuf> = roots.iter().map(|root| folder.path().join(root)).collect();
        load(&roots).unwrap().message("a.Event").unwrap().fingerprint
    };
    let plain = fingerprint(&[("r/a/event.proto", EVENT), ("r/a/part.proto", PART)], &["r"]);
    let many = [("r/0.proto", OTHER), ("r/a/event.proto", EVENT), ("r/a/part.proto", PART)];
    assert_eq!(plain, fingerprint(&many, &["r"]));
    assert_eq!(plain, fingerprint(&[("r/a/event.proto", EVENT), ("s/a/part.proto", PART)], &["s", "r"]));
    let commented = EVENT.replace("A comment", "Another comment");
    assert_eq!(plain, fingerprint(&[("r/a/event.proto", &commented), ("r/a/part.proto", PART)], &["r"]));
    let changed = PART.replace("at_us", "at_micros");
    assert_ne!(plain, fingerprint(&[("r/a/event.proto", EVENT), ("r/a/part.proto", &changed)], &["r"]));
    let changed = EVENT.replace("cluster: 2", "cluster: 3");
    assert_ne!(plain, fingerprint(&[("r/a/event.proto", &changed), ("r/a/part.proto", PART)], &["r"]));
}

#[test]
fn a_schema_travels_with_its_options() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &[("a/event.proto", EVENT), ("a/part.proto", PART)]);
    let edge = load(&[folder.path().to_owned()]).unwrap().message("a.Event").unwrap();

    let central = load(&[]).unwrap();
    assert!(central.by_fingerprint(edge.fingerprint).is_none());
    assert!(central.message("a.Event").is_err());
    let learned = central.add(edge.fingerprint, "a.Event", &edge.descriptors).unwrap();
    assert_eq!(learned.options(), edge.options());
    assert_eq!(learned.descriptors, edge.descriptors);
    assert_eq!(central.clone().by_fingerprint(edge.fingerprint).unwrap().message(), "a.Event");
    assert_eq!(central.message("a.Event").unwrap().fingerprint, edge.fingerprint);
    // Made anew from what was learned, it is the same.
    let again = Schema::new(learned.descriptor.clone());
    assert_eq!((again.fingerprint, &again.descriptors), (edge.fingerprint, &edge.descriptors));
    // As a descriptor set file, too.
    let file = folder.path().join("set.bin");
    std::fs::write(&file, &edge.descriptors).unwrap();
    let settings = Settings { proto_roots: Vec::new(), descriptor_sets: vec![file] };
    assert_eq!(Registry::load(&settings).unwrap().message("a.Event").unwrap().fingerprint, edge.fingerprint);

    let options = learned.options();
    let names = |paths: &[options::FieldPath]| paths.iter().map(|path| path.name.clone()).collect::<Vec<_>>();
    // Marks count at the shallowest level: those of the part do not.
    assert_eq!(names(&options.dedup_key), ["id"]);
    assert_eq!(options.event_time.as_ref().unwrap().path.name, "time");
    assert_eq!(options.dedup_window, Some(Duration::from_secs(86_400)));
    assert_eq!(options.expiry, Some(Duration::from_secs(400 * 86_400)));
    assert_eq!(options.partition.as_ref().map(|(path, by)| (path.name.as_str(), *by)), Some(("time", Partition::Hour)));
    assert_eq!(names(&options.cluster), ["email", "tenant"]);
    assert_eq!(names(&options.required), ["id"]);
    let field = |name: &str| FieldOptions::of(&learned.descriptor.get_field_by_name(name).unwrap());
    assert_eq!(field("email").sensitivity, Some(Sensitivity::Hash));
    assert_eq!(field("tenant").elasticsearch_type.as_deref(), Some("keyword"));
    assert_eq!(field("part"), FieldOptions::default());
    let part = learned.descriptor.parent_pool().get_message_by_name("a.Part").unwrap();
    assert_eq!(FieldOptions::of(&part.get_field(1).unwrap()).epoch, Some(Epoch::Microseconds));
}

#[test]
fn versions_live_side_by_side() {
    let version = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[("o.proto", text)]);
        load(&[folder.path().to_owned()]).unwrap().message("b.Other").unwrap()
    };
    let (old, new) = (version(OTHER), version(&OTHER.replace("x = 1;", "x = 1; int32 y = 2;")));
    let central = load(&[]).unwrap();
    for schema in [&old, &new] {
        central.add(schema.fingerprint, "b.Other", &schema.descriptors).unwrap();
    }
    assert_eq!(central.by_fingerprint(old.fingerprint).unwrap().descriptor.fields().len(), 1);
    assert_eq!(central.by_fingerprint(new.fingerprint).unwrap().descriptor.fields().len(), 2);
    assert_eq!(central.message("b.Other").unwrap().fingerprint, new.fingerprint);
}

#[test]
fn every_broken_file_is_named_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        &[
            ("a.proto", "syntax = \"proto3\";\nmessage A { strin x = 1; }\n"),
            ("b.proto", "syntax = \"proto3\";\nmessage {\n"),
            ("c.proto", "syntax = \"proto3\";\nimport \"gone.proto\";\n"),
            ("good.proto", "syntax = \"proto3\"; message Good {}"),
        ],
    );
    let error = load(&[folder.path().to_owned()]).unwrap_err().to_string();
    for place in ["a.proto:2:13", "b.proto:2:9", "c.proto:2:1"] {
        assert!(error.contains(place), "{place} is not in {error}");
    }
    let error = load(&[folder.path().join("none")]).unwrap_err().to_string();
    assert!(error.contains("none: No such file"), "{error}");
}

#[test]
fn built_in_files_are_known_and_copies_of_them_do_not_clash() {
    let line = load(&[]).unwrap().message("sluice.v1.LogLine").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = include_str!("../../../proto/sluice/options.proto");
    write(
        folder.path(),
        &[
            ("sluice/options.proto", copy),
            ("vendor/sluice/options.proto", copy),
            ("a/event.proto", EVENT),
            ("a/part.proto", PART),
            ("inner/b/other.proto", OTHER),
        ],
    );
    // A root inside another is no second copy of its files.
    let registry = load(&[folder.path().to_owned(), folder.path().join("inner")]).unwrap();
    assert_eq!(registry.message("sluice.v1.LogLine").unwrap().fingerprint, line.fingerprint);
    assert!(registry.message("a.Event").unwrap().options().event_time.is_some());
    assert_eq!(registry.message("b.Other").unwrap().descriptor.parent_file().name(), "b/other.proto");
    let own: Vec<String> = registry.messages().into_iter().filter(|name| !name.starts_with("sluice.")).collect();
    assert_eq!(own, ["a.Event", "a.Part", "b.Other"]);
    assert!(matches!(registry.message("b.None"), Err(Error::Unknown { message }) if message == "b.None"));
}

#[test]
fn the_demo_schema_compiles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proto");
    let schema = load(&[root]).unwrap().message("demo.v1.PlaybackEvent").unwrap();
    let json = br#"{"event_id":"e","time":"2024-01-01T00:00:00.5Z"}"#;
    let mut wire = Vec::new();
    json::from_json(&schema, json, &mut wire).unwrap();
    assert_eq!(schema.event_time_nanos(&wire), Some(1_704_067_200_500_000_000));
}

#[test]
fn hostile_descriptors_are_refused() {
    let registry = load(&[]).unwrap();
    let add = |message: &str, set: &[u8]| {
        let error = registry.add(closure::fingerprint(message, set), message, set).unwrap_err();
        error.to_string()
    };
    let line = registry.message("sluice.v1.LogLine").unwrap();
    let wrong = registry.add(crate::record::Fingerprint([7; 16]), "x.Y", &line.descriptors).unwrap_err().to_string();
    assert!(wrong.contains("fingerprint is"), "{wrong}");
    assert!(add("x.Y", &line.descriptors).contains("does not define it"));
    assert!(add("x.Y", &[0xff; 40]).contains("load schemas from descriptors of x.Y"));
    assert!(add("x.Y", &vec![0; closure::MAX_SET_LEN + 1]).contains("limit"));
    // Files that import one another would never end in prost-reflect.
    let file = |name: &str, imports: &[&str]| prost_types::FileDescriptorProto {
        name: Some(name.into()),
        dependency: imports.iter().map(|name| (*name).to_owned()).collect(),
        public_dependency: (0..imports.len() as i32).collect(),
        message_type: vec![prost_types::DescriptorProto {
            name: Some(format!("M{}", &name[..1])),
            ..Default::default()
        }],
        ..Default::default()
    };
    let set = |files: Vec<prost_types::FileDescriptorProto>| {
        prost::Message::encode_to_vec(&prost_types::FileDescriptorSet { file: files })
    };
    let circle = set(vec![file("a.proto", &["b.proto"]), file("b.proto", &["a.proto"])]);
    assert!(add("Ma", &circle).contains("does not stand before it"));
    let extra = set(vec![file("a.proto", &[]), file("b.proto", &[])]);
    assert!(add("Mb", &extra).contains("does not import"));
    // Any damage to a good set is an error or a schema, never a panic.
    for at in 0..line.descriptors.len() {
        for byte in [0, 0xff, line.descriptors[at] ^ 1] {
            let mut set = line.descriptors.to_vec();
            set[at] = byte;
            let name = "sluice.v1.LogLine";
            let _ = registry.add(closure::fingerprint(name, &set), name, &set);
        }
    }
}

#[test]
fn contradicting_options_are_named() {
    let check = |fields: &str, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "syntax = \"proto3\"; import \"sluice/options.proto\"; import \"google/protobuf/timestamp.proto\";
            message M {{ {fields} }}"
        );
        write(folder.path(), &[("m.proto", &text)]);
        let error = load(&[folder.path().to_owned()]).unwrap().message("M").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("string a = 1 [(sluice.field).event_time = true];", "a: event_time is neither a Timestamp nor an integer");
    check(
        "int64 a = 1 [(sluice.field).event_time = true]; int64 b = 2 [(sluice.field).event_time = true];",
        "b: event_time is a already",
    );
    check("string a = 1 [(sluice.field).cluster = 5];", "a: cluster is 5, not 1 to 4");
    check(
        "string a = 1 [(sluice.field).cluster = 2]; string b = 2 [(sluice.field).cluster = 2];",
        "b: cluster 2 is a already",
    );
    check("option (sluice.message).expiry = \"1y\";", "option expiry: \"1y\" is not a whole number");
}

#[test]
fn event_time_is_read_from_every_kind() {
    let check = |field: &str, json: &str, expected: Option<i64>| {
        let proto = format!(
            "syntax = \"proto3\"; import \"sluice/options.proto\"; import \"google/protobuf/timestamp.proto\";
            message In {{ {field} }} message M {{ string before = 1; In in = 2; }}"
        );
        let schema = schema_of(&proto, "M");
        let mut wire = Vec::new();
        json::from_json(&schema, format!("{{\"before\":\"x\",\"in\":{json}}}").as_bytes(), &mut wire).unwrap();
        assert_eq!(schema.event_time_nanos(&wire), expected, "{field} {json}");
    };
    let time = "google.protobuf.Timestamp t = 3 [(sluice.field).event_time = true];";
    check(time, r#"{"t":"1970-01-01T00:00:01.000000002Z"}"#, Some(1_000_000_002));
    check(time, r#"{"t":"1969-12-31T23:59:59.5Z"}"#, Some(-500_000_000));
    check(time, r#"{"t":"1970-01-01T00:00:00Z"}"#, Some(0));
    check(time, r#"{"t":"0001-01-01T00:00:00Z"}"#, None);
    check(time, "{}", None);
    for kind in ["int64", "sint64", "sfixed64", "int32", "sint32", "sfixed32"] {
        check(&format!("{kind} t = 3 [(sluice.field).event_time = true];"), r#"{"t":-5}"#, Some(-5_000_000));
    }
    for kind in ["uint64", "fixed64", "uint32", "fixed32"] {
        check(&format!("{kind} t = 3 [(sluice.field).event_time = true];"), r#"{"t":5}"#, Some(5_000_000));
    }
    let unit = |unit: &str| format!("int64 t = 3 [(sluice.field) = {{ event_time: true epoch: EPOCH_{unit} }}];");
    check(&unit("SECONDS"), r#"{"t":7}"#, Some(7_000_000_000));
    check(&unit("MICROSECONDS"), r#"{"t":7}"#, Some(7_000));
    check(&unit("NANOSECONDS"), r#"{"t":7}"#, Some(7));
    check(&unit("SECONDS"), r#"{"t":9223372036854775807}"#, None);
    check("int64 t = 3;", r#"{"t":7}"#, None);
}

#[test]
fn broken_records_have_no_event_time() {
    let schema = schema_of(
        "syntax = \"proto3\"; import \"sluice/options.proto\";
        message M { int64 t = 1 [(sluice.field).event_time = true]; }",
        "M",
    );
    for wire in [&[8][..], &[8, 5, 8], &[10, 1, 5], &[0], &[9, 1, 2, 3, 4, 5, 6, 7, 8]] {
        assert_eq!(schema.event_time_nanos(wire), None, "{wire:?}");
    }
    assert_eq!(schema.event_time_nanos(&[8, 5, 8, 6]), Some(6_000_000));
}

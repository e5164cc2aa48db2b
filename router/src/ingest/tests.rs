//! What tests of sources share.

use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use crate::clock::Clock;
use crate::ingest::gather::Entry;
use crate::journal::{self, Engine, Journal};
use crate::record::Frames;
use crate::schema::Schema;

/// Opens a journal in a directory of its own.
pub(super) fn journal() -> (Journal, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = journal::Settings {
        directory: directory.path().join("journal"),
        agent: "test".into(),
        engine: Engine::default(),
        max_bytes: 1 << 30,
        group_max_delay: Duration::from_millis(1),
        group_max_bytes: 1 << 20,
        cache_bytes: 16 << 20,
        dead_letter_max_bytes: 64 << 20,
    };
    (Journal::open(settings, Clock::system()).unwrap(), directory)
}

/// Schema of `sluice.v1.LogLine`.
pub(super) fn log_line() -> Arc<Schema> {
    Arc::new(Schema::new(log_line_descriptor()))
}

fn log_line_descriptor() -> MessageDescriptor {
    static DESCRIPTOR: LazyLock<MessageDescriptor> = LazyLock::new(compile_log_line);
    DESCRIPTOR.clone()
}

fn compile_log_line() -> MessageDescriptor {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let set = protox::compile([root.join("sluice/v1/log_line.proto")], [&root]).unwrap();
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set).unwrap();
    pool.get_message_by_name("sluice.v1.LogLine").unwrap()
}

/// All records of a stream, in order.
pub(super) fn records(journal: &Journal, stream: &str) -> Vec<Vec<u8>> {
    let blocks = journal.read(stream, 1, usize::MAX).unwrap();
    let frames: Vec<Frames> = blocks.iter().map(|(_, block)| block.frames().unwrap()).collect();
    frames.iter().flat_map(Frames::iter).map(<[u8]>::to_vec).collect()
}

/// A field of a `LogLine`.
pub(super) fn text(record: &[u8], field: &str) -> String {
    let message = DynamicMessage::decode(log_line_descriptor(), record).unwrap();
    match message.get_field_by_name(field).unwrap().as_ref() {
        Value::String(text) => text.clone(),
        Value::U64(number) => number.to_string(),
        other => panic!("{field} is {other:?}"),
    }
}

/// Lines of an entry's records, and what its dead letters hold.
pub(super) fn texts(entry: Entry) -> (Vec<String>, Vec<String>) {
    let (frames, refused) = entry.open();
    let lines = frames.iter().map(|record| text(record, "line")).collect();
    (lines, refused.iter().map(|letter| String::from_utf8(letter.bytes.to_vec()).unwrap()).collect())
}

//! What tests of sources share.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let set = protox::compile([root.join("sluice/v1/log_line.proto")], [&root]).unwrap();
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(set).unwrap();
    Arc::new(Schema::new(pool.get_message_by_name("sluice.v1.LogLine").unwrap()))
}

/// All records of a stream, in order.
pub(super) fn records(journal: &Journal, stream: &str) -> Vec<Vec<u8>> {
    let blocks = journal.read(stream, 1, usize::MAX).unwrap();
    let frames: Vec<Frames> = blocks.iter().map(|(_, block)| block.frames().unwrap()).collect();
    frames.iter().flat_map(Frames::iter).map(<[u8]>::to_vec).collect()
}

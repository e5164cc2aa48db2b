//! Schemas: Protobuf descriptors, known by fingerprint.
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use prost_reflect::MessageDescriptor;

use crate::record::Fingerprint;

/// Where schemas are loaded from.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Folders of `.proto` files; each is an import root, every file below it is compiled.
    pub proto_roots: Vec<PathBuf>,
    /// Serialized FileDescriptorSets.
    pub descriptor_sets: Vec<PathBuf>,
}

/// One version of one message type.
#[derive(Debug)]
pub struct Schema {
    pub fingerprint: Fingerprint,
    pub descriptor: MessageDescriptor,
    /// Serialized FileDescriptorSet of the message's file and all it imports, without source info.
    pub descriptors: Bytes,
}

impl Schema {
    /// Full name, without a leading dot.
    pub fn message(&self) -> &str {
        self.descriptor.full_name()
    }
}

pub type SharedSchema = Arc<Schema>;

pub mod bigquery;
pub mod json;
pub mod parquet;
pub mod registry;

impl Schema {
    /// Schema of one message type: its descriptors are cut down to the file it is in and what that imports.
    pub fn new(descriptor: MessageDescriptor) -> Schema {
        use prost::Message as _;
        use std::collections::BTreeMap;
        let mut files = BTreeMap::new();
        let mut todo = vec![descriptor.parent_file()];
        while let Some(file) = todo.pop() {
            todo.extend(file.dependencies().filter(|file| !files.contains_key(file.name())));
            let mut proto = file.file_descriptor_proto().clone();
            proto.source_code_info = None;
            files.insert(file.name().to_owned(), proto);
        }
        let set = prost_types::FileDescriptorSet { file: files.into_values().collect() };
        let descriptors = Bytes::from(set.encode_to_vec());
        let mut name = descriptor.full_name().as_bytes().to_vec();
        name.push(0);
        name.extend_from_slice(&descriptors);
        let fingerprint = Fingerprint(xxhash_rust::xxh3::xxh3_128(&name).to_be_bytes());
        Schema { fingerprint, descriptor, descriptors }
    }

    /// Event time of a record, unix nanoseconds: the field the schema names as such; `None` where it names none, the
    /// record lacks it or it is not a time.
    pub fn event_time_nanos(&self, _message: &[u8]) -> Option<i64> {
        None
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("load schemas from {place}: {reason}")]
    Load { place: String, reason: String },
    #[error("find message {message}: no loaded schema defines it")]
    Unknown { message: String },
    /// A record that does not fit its schema: the field's path (empty = the record itself) and what is wrong.
    #[error("{path}: {reason}")]
    Record { path: String, reason: String },
}

//! The descriptor set that travels with a schema, and the fingerprint made from it.
//!
//! A schema's set holds the file of its message and all it imports: every file behind those it imports, in the order a
//! walk from the message's file meets them, without source info. So it depends on those files alone, not on which other
//! files were loaded with them or in which order. The fingerprint is xxh3-128 of the message's name, a zero byte and
//! the set. A node that learns a schema keeps the set's bytes as they came, so the fingerprint stays what it was.
//!
//! Custom options are extensions that prost's own descriptor types would drop; the files are therefore encoded by
//! prost-reflect, which keeps them, and only the source info is cut out of its bytes.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{DescriptorPool, FileDescriptor, MessageDescriptor};

use super::{Error, Schema, wire};
use crate::record::Fingerprint;

/// Largest descriptor set that is taken from another node. Those of real schemas are kilobytes.
pub const MAX_SET_LEN: usize = 4 << 20;

/// Fields of google/protobuf/descriptor.proto.
const SET_FILE: u32 = 1;
const FILE_SOURCE_INFO: u32 = 9;

/// The set of one message's file.
pub fn encode(message: &MessageDescriptor) -> Bytes {
    let mut files = Vec::new();
    let mut seen = HashSet::new();
    // Depth first without recursion: a file is written when it is met the second time, behind its imports.
    let mut todo = vec![(message.parent_file(), false)];
    while let Some((file, imports_done)) = todo.pop() {
        if imports_done {
            files.push(file);
        } else if seen.insert(file.name().to_owned()) {
            let mut imports: Vec<FileDescriptor> = file.dependencies().collect();
            todo.push((file, true));
            imports.reverse();
            todo.extend(imports.into_iter().map(|file| (file, false)));
        }
    }
    let mut set = Vec::new();
    for file in files {
        wire::push_len(&mut set, SET_FILE, &without_source_info(&file.encode_to_vec()));
    }
    Bytes::from(set)
}

fn without_source_info(file: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(file.len());
    let mut fields = wire::Fields::new(file);
    while let Ok(Some(field)) = fields.read() {
        if field.number != FILE_SOURCE_INFO {
            kept.extend_from_slice(&file[field.start..field.end]);
        }
    }
    kept
}

pub fn fingerprint(message: &str, set: &[u8]) -> Fingerprint {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(message.as_bytes());
    hash.update(&[0]);
    hash.update(set);
    Fingerprint(hash.digest128().to_be_bytes())
}

/// Makes the schema that another node sent. The bytes may be anything.
pub fn decode(fingerprint: Fingerprint, message: &str, set: &[u8]) -> Result<Schema, Error> {
    let refused = |reason: String| Error::Load { place: format!("descriptors of {message}"), reason };
    if set.len() > MAX_SET_LEN {
        return Err(refused(format!("{} bytes are more than the limit of {MAX_SET_LEN}", set.len())));
    }
    let found = self::fingerprint(message, set);
    if found != fingerprint {
        return Err(refused(format!("fingerprint is {found}, not {fingerprint}")));
    }
    let pool = pool(set).map_err(&refused)?;
    let Some(descriptor) = pool.get_message_by_name(message) else {
        return Err(refused("the set does not define it".into()));
    };
    if imported_names(&descriptor).ne(&pool.files().map(|file| file.name().to_owned()).collect()) {
        return Err(refused("the set holds files that the message does not import".into()));
    }
    let schema = Schema::from_set(descriptor, Bytes::copy_from_slice(set), fingerprint);
    // The plan and the options are made here, behind the fence, so that nobody later meets what they choke on.
    let made = catch_unwind(AssertUnwindSafe(|| {
        schema.plan();
        schema.options().problems.first().cloned()
    }));
    match made {
        Ok(None) => Ok(schema),
        Ok(Some(problem)) => Err(refused(problem)),
        Err(_) => Err(refused("its options or fields contradict themselves".into())),
    }
}

/// Names of the message's file and of all behind it.
fn imported_names(message: &MessageDescriptor) -> HashSet<String> {
    let mut seen = HashSet::new();
    let mut todo = vec![message.parent_file()];
    while let Some(file) = todo.pop() {
        if seen.insert(file.name().to_owned()) {
            todo.extend(file.dependencies());
        }
    }
    seen
}

/// Reads a descriptor set. Files come behind their imports, as protoc writes them: prost-reflect does not survive files
/// that import one another, and it asserts where a descriptor contradicts itself, so a panic in it is an error here.
pub fn pool(set: &[u8]) -> Result<DescriptorPool, String> {
    let files = prost_types::FileDescriptorSet::decode(set).map_err(|error| error.to_string())?.file;
    let mut seen = HashSet::new();
    for file in &files {
        let missing = file.dependency.iter().find(|name| !seen.contains(name.as_str()));
        if let Some(missing) = missing {
            return Err(format!("{} imports {missing}, which does not stand before it", file.name()));
        }
        if !seen.insert(file.name()) {
            return Err(format!("{} stands in it twice", file.name()));
        }
    }
    match catch_unwind(|| DescriptorPool::decode(set)) {
        Ok(Ok(pool)) => Ok(pool),
        Ok(Err(error)) => Err(format!("{error:?}")),
        Err(_) => Err("descriptors contradict themselves".into()),
    }
}

//! Schemas: Protobuf descriptors, known by fingerprint, and what is derived from them.
//!
//! A [`Schema`] is one version of one message type: its descriptors (cut to the files it needs, `closure`), what its
//! options say (`options`), and its [`plan`], the tables by which records are transcoded without building messages:
//! JSON to wire and back (`json`), checking a record that came as Protobuf (`check`), event time. The
//! [`registry`] holds all schemas a node knows: compiled from `.proto` files (`compile`) or learned from other nodes.
//!
//! Always: the same fingerprint means the same descriptors, options and plan, on every node. Whatever a record's bytes
//! are, transcoding ends in a record or an error, never in a panic.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use prost_reflect::MessageDescriptor;

use crate::record::Fingerprint;

pub mod bigquery;
mod check;
mod closure;
mod compile;
pub mod json;
pub mod options;
pub mod parquet;
pub mod plan;
mod plan_names;
pub mod registry;
#[cfg(test)]
mod tests;
pub mod wire;

pub use check::check;
pub use options::{FieldOptions, Options};

/// Where schemas are loaded from.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Folders of `.proto` files; each is an import root, every file below it is compiled.
    pub proto_roots: Vec<PathBuf>,
    /// Serialized FileDescriptorSets.
    pub descriptor_sets: Vec<PathBuf>,
}

/// One version of one message type.
pub struct Schema {
    pub fingerprint: Fingerprint,
    pub descriptor: MessageDescriptor,
    /// Serialized FileDescriptorSet of the message's file and all it imports, without source info.
    pub descriptors: Bytes,
    plan: OnceLock<plan::Plan>,
    options: OnceLock<Options>,
}

pub type SharedSchema = Arc<Schema>;

impl Schema {
    /// Schema of one message type: its descriptors are cut down to the file it is in and what that imports.
    pub fn new(descriptor: MessageDescriptor) -> Schema {
        let set = closure::encode(&descriptor);
        let fingerprint = closure::fingerprint(descriptor.full_name(), &set);
        // Its own pool, as on a node that learns it; where that fails the descriptor it came with does the same work.
        let own = closure::pool(&set).ok().and_then(|pool| pool.get_message_by_name(descriptor.full_name()));
        Schema::from_set(own.unwrap_or(descriptor), set, fingerprint)
    }

    fn from_set(descriptor: MessageDescriptor, descriptors: Bytes, fingerprint: Fingerprint) -> Schema {
        Schema { fingerprint, descriptor, descriptors, plan: OnceLock::new(), options: OnceLock::new() }
    }

    /// Full name, without a leading dot.
    pub fn message(&self) -> &str {
        self.descriptor.full_name()
    }

    /// Made when it is first asked for.
    pub fn plan(&self) -> &plan::Plan {
        self.plan.get_or_init(|| plan::Plan::new(&self.descriptor))
    }

    /// What the schema says of its stream.
    pub fn options(&self) -> &Options {
        self.options.get_or_init(|| Options::of(&self.descriptor))
    }

    /// Event time of a record, unix nanoseconds: the field the schema names as such; `None` where it names none, the
    /// record lacks it or it is not a time.
    pub fn event_time_nanos(&self, message: &[u8]) -> Option<i64> {
        self.options().event_time.as_ref()?.nanos(message)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({} {})", self.message(), self.fingerprint)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("load schemas from {place}: {reason}")]
    Load { place: String, reason: String },
    #[error("find message {message}: no loaded schema defines it")]
    Unknown { message: String },
    /// A record that does not fit its schema: the field's path (empty = the record itself) and what is wrong.
    #[error("{}{reason}", Prefix(path))]
    Record { path: String, reason: String },
}

/// `path: `, or nothing for the record itself.
struct Prefix<'a>(&'a str);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "{}: ", self.0) }
    }
}

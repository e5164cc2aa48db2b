//! Plugins: WASM components that transform records or say what identifies them, and cannot hurt the router.
//!
//! A [`Host`] holds the one engine of the process. [`Host::load`] compiles a component and finds its kind. A stream's
//! worker makes a [`Transform`] or [`Dedup`] of it and runs every batch through that, synchronously, on its own thread:
//!
//! ```text
//! Frames ─► instance (warm, reused) ─► output ─► check every claim ─► Transformed / Keyed
//!                │ trap, deadline, memory, false claim
//!                └► throw the instance away ─► fresh one, once more ─► halve the batch until the poison records
//!                   are alone: they are marked failed with the plugin's own words, all others proceed
//! ```
//!
//! Always: the plugin imports nothing but `sluice:plugin/host` (no clock, randomness or I/O), so the same batch gives
//! the same output. An instance that failed is never entered again. Nothing a component returns is believed: counts,
//! lengths, indices and sizes are checked, and a false claim is a failure like a trap. A result is lifted into memory
//! of our own, within the output limit, before it is looked at.
//!
//! Limits: wall time of a call, memory, output bytes, log lines and their length, failing calls per batch.
//!
//! Compiled code is kept in memory only, by digest. Loading it from disk is `unsafe` in wasmtime (a crafted file is
//! native code), and a plugin compiles in about 0.2 s, so the journal's fence stays the only one.

mod abi;
mod check;
mod host;
mod instance;
mod manifest;
mod run;
mod speech;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use check::{Keyed, Refused, Row, Transformed};
pub use host::{Host, Inspection, Plugin};
pub use manifest::{Kind, Manifest};
pub use run::{Dedup, Transform};

/// Version of the interface this build offers (`wit/plugin.wit`).
pub const INTERFACE_VERSION: &str = "1.0.0";

/// Largest component: a plugin of the SDK has a fiftieth of it, and compile time grows with size.
pub const COMPONENT_MAX_BYTES: usize = 16 << 20;

/// Limits of the plugins of a node.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Reserved for compiled plugins; not used while they are kept in memory only (see the module's text).
    pub cache_directory: PathBuf,
    /// Instances that may exist at once.
    pub instances_max: u32,
    pub memory_max_bytes: usize,
    /// Wall time of one call.
    pub deadline: Duration,
    /// Output of a call, as a multiple of its input (plus 1 MiB).
    pub output_max_ratio: usize,
}

/// One plugin of a stream.
#[derive(Clone, Debug)]
pub struct Settings {
    pub name: String,
    pub path: PathBuf,
    /// Handed to the plugin's `init`.
    pub config_json: String,
}

/// What an instance serves.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    pub stream: Arc<str>,
    /// Full name of the stream's message.
    pub message: String,
    /// Serialized FileDescriptorSet (`Schema::descriptors`).
    pub descriptors: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("start plugin host: {reason}")]
    Host { reason: String },
    #[error("read plugin {name} from {path}")]
    Read {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is no plugin for this build; the operator has to give another.
    #[error("load plugin {name} from {path}: {reason}")]
    Load { name: String, path: PathBuf, reason: String },
    #[error("use plugin {name} as {wanted}: it is a {found} plugin")]
    Kind { name: String, wanted: Kind, found: Kind },
    /// The plugin does not start with its config: the stream waits (back-pressure) until the operator changes it.
    #[error("start plugin {name} for stream {stream}: {reason}")]
    Init { name: String, stream: Arc<str>, reason: String },
    /// It fails on too much of a batch for single records to be at fault: the stream waits as above, nothing is lost.
    #[error("run plugin {name} for stream {stream}: {reason}")]
    Broken { name: String, stream: Arc<str>, reason: String },
}

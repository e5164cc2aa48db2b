//! Plugin host.
use std::path::PathBuf;
use std::time::Duration;

/// Limits of the plugins of a node.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Compiled plugins are kept here (private to the node).
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

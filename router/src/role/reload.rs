//! SIGHUP: reload what can be reloaded, and say why not for the rest.

use std::path::Path;

use tracing::{error, info, warn};

use super::node::Node;
use crate::config::{self, Settings};
use crate::schema::{self, registry::Registry};
use crate::telemetry;

/// Reads the configuration again. The log filter is taken over; any other change is named and waits for a restart,
/// because it would move data that a running stage holds.
pub(super) fn reload(running: &Settings, config_path: &Path, node: &Node) {
    let settings = match config::load(config_path) {
        Ok(loaded) => loaded.settings,
        Err(reason) => {
            error!(config = %config_path.display(), error = %reason, "reload refused, the node goes on as it was");
            return;
        }
    };
    match telemetry::set_log_filter(&settings.log_filter) {
        Ok(()) => info!(filter = %settings.log_filter, "log filter reloaded"),
        Err(reason) => error!(filter = %settings.log_filter, error = %reason, "log filter not reloaded"),
    }
    let mut changed = changed(running, &settings);
    match schemas_changed(&settings, &node.registry) {
        Ok(true) => changed.push("schemas"),
        Ok(false) => {}
        Err(reason) => error!(error = %telemetry::chain(&reason), "new schemas are wrong, a restart would fail"),
    }
    if !changed.is_empty() {
        warn!(keys = changed.join(", "), "these changes need a restart");
    }
}

/// Whether a stream's message is another version now.
fn schemas_changed(settings: &Settings, running: &Registry) -> Result<bool, schema::Error> {
    let new = Registry::load(&settings.schema)?;
    let mut changed = false;
    for stream in &settings.streams {
        let fingerprint = new.message(&stream.message)?.fingerprint;
        changed |= running.message(&stream.message).is_ok_and(|schema| schema.fingerprint != fingerprint);
    }
    Ok(changed)
}

/// Top-level keys whose settings differ, beyond those that are reloaded.
fn changed(running: &Settings, new: &Settings) -> Vec<&'static str> {
    macro_rules! differing {
        ($($key:literal: $($field:ident),+;)*) => {{
            let mut keys = Vec::new();
            $(if $(format!("{:?}", running.$field) != format!("{:?}", new.$field))||+ { keys.push($key); })*
            keys
        }};
    }
    differing! {
        "role": role;
        "agent": agent;
        "data": data_directory;
        "drain_deadline": drain_deadline;
        "log.format": log_format;
        "journal": journal;
        "admin": admin;
        "plugins": plugins;
        "sources": file_sources, http_source, link_source;
        "streams": streams;
        "sinks": sinks;
        "link": link_sink;
    }
}

//! What each role starts, in which order, and stops.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Settings;

/// Starts the node and runs it until it is told to stop.
pub async fn run(_settings: Settings, _config: PathBuf) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build runs no node")
}

/// Loads all that a run would, without starting anything.
pub fn check(_settings: &Settings) -> anyhow::Result<()> {
    Ok(())
}

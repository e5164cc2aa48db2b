//! `sluice check`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use super::exit::{ConfigRefused, Exit};
use crate::config::{self, Settings};
use crate::role;

/// Arguments of `sluice check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice check /etc/sluice/edge.yaml
  sluice check edge.yaml > /dev/null && systemctl reload sluice

Prints every setting in effect, or all that is wrong and where (exit code 3). Relative paths are \
shown as they are found, left-out keys with their defaults. Secrets are not shown: ${env:NAME} and \
${file:PATH} stand as they were written, others as <redacted>.")]
pub struct Args {
    /// The configuration to check
    #[arg(value_name = "FILE")]
    config: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&args.config)?;
    check_named(&loaded.settings).with_context(|| ConfigRefused { file: args.config.display().to_string() })?;
    super::print(&loaded.effective)?;
    Ok(Exit::Ok.into())
}

/// Loads what the configuration names (schemas, plugins, certificates), as a run would.
fn check_named(settings: &Settings) -> anyhow::Result<()> {
    role::check(settings)
}

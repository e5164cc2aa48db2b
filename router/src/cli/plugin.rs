//! `sluice plugin`.
use std::process::ExitCode;

/// Arguments of `sluice plugin`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

//! `sluice pki`.
use std::process::ExitCode;

/// Arguments of `sluice pki`.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}

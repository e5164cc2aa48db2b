//! `sluice config schema`.

use std::process::ExitCode;

use anyhow::Context as _;

use super::exit::Exit;
use crate::config;

/// Arguments of `sluice config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Prints the JSON Schema of the configuration, for editors
    #[command(after_help = "\
Example:
  sluice config schema > sluice.schema.json

and as the first line of a configuration, for editors with the YAML language server:
  # yaml-language-server: $schema=sluice.schema.json")]
    Schema,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Schema => {
            let schema = serde_json::to_string_pretty(&config::file::schema()).context("print JSON Schema")?;
            super::print(&format!("{schema}\n"))?;
        }
    }
    Ok(Exit::Ok.into())
}

//! Arguments -> settings -> run -> exit code. Nothing else reads the command line.

mod ask;
pub mod check;
pub mod config_schema;
pub mod dead;
pub mod demo;
mod exit;
pub mod journal;
pub mod ledger;
pub mod pki;
pub mod plugin;
pub mod run;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config;
pub use exit::{Exit, StartFailed};

/// Carries logs from many hosts into BigQuery, Elasticsearch and Parquet, each record exactly once.
///
/// A node follows files and accepts records over HTTP (an edge), takes them from edges, runs your WASM plugins on them
/// and delivers them (a central), or does both (solo). What it is stands in its configuration; config/edge.yaml,
/// config/central.yaml and config/solo.yaml explain every key.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, arg_required_else_help = true, after_help = exit::TABLE, after_long_help = after_long_help())]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a node until SIGTERM or SIGINT
    Run(run::Args),
    /// Loads everything a run would, and prints the settings in effect
    Check(check::Args),
    /// Makes a certificate authority and certificates for nodes
    Pki(pki::Args),
    /// Builds and inspects plugins
    Plugin(plugin::Args),
    /// Describes the configuration
    Config(config_schema::Args),
    /// Prints what became of every record of a running node
    Ledger(ledger::Args),
    /// Shows what a running node refused for good, and why
    Dead(dead::Args),
    /// Looks into the journal of a stopped node
    Journal(journal::Args),
    /// Runs an edge and a central on this machine and shows that every record arrives
    Demo(demo::Args),
}

fn after_long_help() -> String {
    let examples = "\
Examples:
  sluice check config/solo.yaml           What is wrong with this file? What is in effect?
  sluice run -c config/solo.yaml          Run a node.
  sluice pki init && sluice pki agent edge-1
                                          Certificates for central and for an edge.
  sluice ledger --admin 127.0.0.1:9600    Is every record accounted for?
  sluice dead list                        What was refused, and why?
  sluice config schema > sluice.json      JSON Schema, for completion in editors.";
    format!("{examples}\n\n{}", exit::TABLE)
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            match error.downcast_ref::<config::Error>() {
                // Each problem begins with its place, as compilers write it, so that editors find it.
                Some(config::Error::Invalid(problems)) => {
                    let (count, file) = (problems.list.len(), problems.file.display());
                    let noun = if count == 1 { "problem" } else { "problems" };
                    eprintln!("{problems}\nerror: {count} {noun} in {file}");
                }
                Some(config::Error::Read { .. }) | None => eprintln!("error: {error:#}"),
            }
            exit::of(&error).into()
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    // Two providers of cryptography are compiled in (by dependencies), so the process has to name its own.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        anyhow::bail!("install provider of cryptography: another is installed");
    }
    match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Pki(args) => pki::run(args),
        Command::Plugin(args) => plugin::run(args),
        Command::Config(args) => config_schema::run(args),
        Command::Ledger(args) => ledger::run(args),
        Command::Dead(args) => dead::run(args),
        Command::Journal(args) => journal::run(args),
        Command::Demo(args) => demo::run(args),
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) has read enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("write to standard output"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn help_is_what_the_file_says() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cli/help.txt");
        let help = Arguments::command().term_width(100).render_long_help().to_string();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(golden, &help).unwrap();
        }
        assert_eq!(help, std::fs::read_to_string(golden).unwrap_or_default(), "UPDATE=1 accepts the new text");
    }

    #[test]
    fn every_command_can_be_written() {
        for line in [
            "sluice run -c a.yaml",
            "sluice run --config a.yaml",
            "sluice check a.yaml",
            "sluice config schema",
            "sluice ledger",
            "sluice ledger --admin localhost:1",
            "sluice dead list --stream s --reason x --limit 3",
            "sluice dead show",
            "sluice journal info data",
            "sluice journal dump data --stream s",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in ["sluice", "sluice run", "sluice check", "sluice config", "sluice go"] {
            let error = Arguments::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), Exit::Usage as i32, "{line}");
        }
    }
}

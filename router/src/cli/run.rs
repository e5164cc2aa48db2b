//! `sluice run`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::exit;
use crate::{config, role, telemetry};

/// How long threads may take to end after everything durable was done: they hold nothing that matters then.
const THREADS_MAX: Duration = Duration::from_secs(1);

/// Arguments of `sluice run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  sluice run -c /etc/sluice/edge.yaml

SIGTERM and SIGINT drain within drain_deadline and end with 0; SIGHUP reloads what can be \
reloaded, or logs why not. The log goes to standard error. Exit codes: sluice --help.")]
pub struct Args {
    /// The node's configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = config::load(&args.config)?.settings;
    telemetry::install_log(settings.log_format, &settings.log_filter)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("sluice").enable_all().build();
    let runtime = runtime.context("start threads")?;
    let ended = runtime.block_on(Box::pin(role::run(settings, args.config)));
    runtime.shutdown_timeout(THREADS_MAX);
    ended.or_else(|error| {
        // Into the log rather than beside it: it may be JSON, and this is what its readers look for.
        tracing::error!(error = format!("{error:#}"), "node stopped");
        Ok(exit::of(&error).into())
    })
}

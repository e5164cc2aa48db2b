//! `sluice plugin`: builds plugins and says what a built one is.

pub mod build;
mod toolchain;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::process::plugin::{Host, HostSettings, Inspection};

/// Arguments of `sluice plugin`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Builds a plugin's crate into a component that the router loads.
    ///
    /// Compiles for wasm32-unknown-unknown, optimised for speed, encodes the component, and checks it as the router
    /// does when it loads it: what it imports and exports, its memory, its size.
    Build {
        /// Directory of the crate.
        #[arg(default_value = ".")]
        directory: PathBuf,
        /// File to write; NAME.wasm in the `plugins` directory of the crate's target directory where absent.
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shows what a component is: kind, versions, imports, exports, size, digest.
    Inspect { file: PathBuf },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Build { directory, out } => {
            let built = build::build(&directory, out.as_deref())?;
            show(&built.out, &built.inspection)?;
        }
        Command::Inspect { file } => {
            let wasm = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            show(&file, &inspect(&wasm).with_context(|| format!("inspect {}", file.display()))?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks a component as the router does when it loads it.
fn inspect(wasm: &[u8]) -> anyhow::Result<Inspection> {
    let host = Host::new(HostSettings {
        cache_directory: PathBuf::new(),
        instances_max: 1,
        memory_max_bytes: 64 << 20,
        deadline: Duration::from_secs(1),
        output_max_ratio: 4,
    })?;
    host.inspect(wasm).map_err(anyhow::Error::msg)
}

fn show(file: &Path, inspection: &Inspection) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "file       {}", file.display())?;
    match &inspection.manifest {
        Some(manifest) => writeln!(out, "plugin     {} {}", manifest.name, manifest.version)?,
        None => writeln!(out, "plugin     (no manifest)")?,
    }
    writeln!(out, "kind       {}", inspection.kind)?;
    writeln!(out, "interface  sluice:plugin@{}", inspection.interface_version)?;
    writeln!(out, "imports    {}", inspection.imports.join(", "))?;
    writeln!(out, "exports    {}", inspection.exports.join(", "))?;
    writeln!(out, "size       {} bytes", inspection.len_bytes)?;
    writeln!(out, "sha256     {}", inspection.digest_hex())
}

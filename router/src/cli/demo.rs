//! `sluice demo`: the main job on embedded defaults, in two processes of this same program.
//!
//! Makes certificates, starts a central and an edge, writes a live log and rotates it, waits until nothing is in flight,
//! stops both, and compares three counts to the record: what was written, what the ledgers say, and what lies in the
//! Parquet files. The exit code is 0 only if they agree.

mod archive;
mod generator;
mod nodes;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::exit::Exit;
use crate::fleet::ledger::Ledger;
use generator::{Generator, Written};
use nodes::Nodes;
use report::Report;

/// Longest wait for what was written to be delivered.
const SETTLE_MAX: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `sluice demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice demo                          Writes playback events for 20 seconds and shows what became of them.
  sluice demo --log /var/log/dpkg.log  Does it for any file, a record a line.
  sluice demo --keep                   Leaves both processes running, and says how to stop them.

The plugins are made by `make plugins`; `make demo` does that first.")]
pub struct Args {
    /// How long to write (or, with --log, to follow)
    #[arg(long, default_value_t = 20, value_name = "N")]
    seconds: u64,
    /// Follow this file instead of writing a log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Leave both processes running
    #[arg(long)]
    keep: bool,
    /// Work here [default: a new folder below the system's temporary one]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Compiled plugins
    #[arg(long, value_name = "DIR", default_value = "target/plugins")]
    plugins: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let directory = match args.dir {
        Some(directory) => directory,
        None => std::env::temp_dir().join(format!("sluice-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let directory = directory.canonicalize()?;
    let input = match &args.log {
        Some(log) => Input::File(log.canonicalize().with_context(|| format!("follow {}", log.display()))?),
        None => Input::Generated,
    };
    say(&format!("working in {}", directory.display()));
    let mut nodes = Nodes::prepare(&directory, &input, &args.plugins)?;
    nodes.start(args.keep)?;
    say("central and edge are up, two processes joined by QUIC with mutual TLS");
    let demo = Demo { directory, input, seconds: Duration::from_secs(args.seconds) };
    let outcome = demo.run(&mut nodes);
    match outcome {
        Ok(report) => {
            print!("{report}");
            if args.keep {
                say(&nodes.how_to_stop());
            } else {
                nodes.stop()?;
            }
            Ok(if report.problems.is_empty() { Exit::Ok } else { Exit::Failed }.into())
        }
        Err(reason) => {
            eprintln!("{}", nodes.log_tails());
            nodes.kill();
            Err(reason)
        }
    }
}

fn say(text: &str) {
    println!("demo: {text}");
}

/// Where records come from.
enum Input {
    Generated,
    File(PathBuf),
}

impl Input {
    fn stream(&self) -> &'static str {
        match self {
            Input::Generated => "playback",
            Input::File(_) => "lines",
        }
    }
}

struct Demo {
    directory: PathBuf,
    input: Input,
    seconds: Duration,
}

impl Demo {
    fn run(&self, nodes: &mut Nodes) -> anyhow::Result<Report> {
        let started = Instant::now();
        let written = match &self.input {
            Input::Generated => self.generate(nodes)?,
            Input::File(path) => self.follow(path, nodes)?,
        };
        let (edge, central) = self.settle(&written, nodes)?;
        let elapsed = started.elapsed();
        let archived = archive::read(&self.archive(), &self.input)?;
        Ok(Report::new(self.input.stream(), written, [edge, central], archived, elapsed, &self.archive()))
    }

    fn archive(&self) -> PathBuf {
        self.directory.join("parquet").join(self.input.stream())
    }

    /// Writes a live log for the given time, never far ahead of its reader: a real log is not either.
    fn generate(&self, nodes: &mut Nodes) -> anyhow::Result<Written> {
        say(&format!("writing playback events for {} s, rotating the log as it grows", self.seconds.as_secs()));
        let mut generator = Generator::create(&self.directory.join("logs"))?;
        let end = Instant::now() + self.seconds;
        while Instant::now() < end {
            let ahead =
                generator.written().lines.saturating_sub(read_lines(&nodes.edge_ledger()?, self.input.stream()));
            match ahead < generator::AHEAD_MAX_LINES {
                true => generator.write_some()?,
                false => std::thread::sleep(LOOK_EVERY),
            }
            nodes.check_alive()?;
        }
        Ok(generator.finish())
    }

    fn follow(&self, path: &Path, nodes: &mut Nodes) -> anyhow::Result<Written> {
        let (lines, bytes) = archive::count_lines(path)?;
        say(&format!("following {}, {lines} lines now", path.display()));
        let end = Instant::now() + self.seconds;
        while Instant::now() < end && read_lines(&nodes.edge_ledger()?, self.input.stream()) < lines {
            std::thread::sleep(LOOK_EVERY);
            nodes.check_alive()?;
        }
        Ok(Written { lines, bytes, ..Written::default() })
    }

    /// Waits until every line was read and nothing is in flight at either node.
    fn settle(&self, written: &Written, nodes: &mut Nodes) -> anyhow::Result<(Ledger, Ledger)> {
        let end = Instant::now() + SETTLE_MAX;
        loop {
            let (edge, central) = (nodes.edge_ledger()?, nodes.central_ledger()?);
            let all_read = read_lines(&edge, self.input.stream()) >= written.lines;
            let received = |ledger: &Ledger| ledger.streams.values().map(|s| s.received_count()).sum::<u64>();
            if all_read && received(&edge) == received(&central) && in_flight(&edge) + in_flight(&central) == 0 {
                return Ok((edge, central));
            }
            if Instant::now() > end {
                let (edge, central) = (serde_json::to_string(&edge)?, serde_json::to_string(&central)?);
                bail!(
                    "waited {SETTLE_MAX:?} for {} lines to be delivered; edge: {edge}; central: {central}",
                    written.lines
                );
            }
            nodes.check_alive()?;
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Lines the edge has made durable, as records or as dead letters.
fn read_lines(edge: &Ledger, stream: &str) -> u64 {
    edge.streams.get(stream).map_or(0, |stream| stream.received_count() + stream.refused)
}

fn in_flight(ledger: &Ledger) -> u64 {
    let sinks =
        |stream: &crate::fleet::ledger::StreamLedger| stream.sinks.values().map(|sink| sink.in_flight).sum::<u64>();
    ledger.streams.values().map(|stream| stream.undecided + sinks(stream)).sum()
}

fn plugin(directory: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(format!("{name}.wasm"));
    ensure!(path.is_file(), "plugin {} is missing: make it with `make plugins`", path.display());
    Ok(path.canonicalize()?)
}

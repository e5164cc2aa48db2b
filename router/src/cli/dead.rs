//! `sluice dead`: shows what a running node refused for good, and why.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Deserialize;

use super::ask::get;
use super::exit::Exit;

/// Arguments of `sluice dead`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// One line for each dead letter, oldest first: when, stream, who refused it, why
    #[command(after_help = "\
Example:
  sluice dead list --admin edge-1.example:9600 --stream playback --reason \"byte 12\"")]
    List(Which),
    /// The same with what was refused, as JSON, a line each; works on the node's own host
    #[command(after_help = "\
Example:
  sluice dead show --stream playback | jq -r .text")]
    Show(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The node's admin.listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9600")]
    admin: String,
    /// Of this stream alone
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Whose reason contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

#[derive(Deserialize)]
struct Answer {
    dead_letters: Vec<serde_json::Value>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (which, line): (Which, fn(&serde_json::Value) -> String) = match args.command {
        Command::List(which) => (which, summary),
        Command::Show(which) => (which, serde_json::Value::to_string),
    };
    let stream = which.stream.map_or(String::new(), |stream| format!("&stream={stream}"));
    let body = get(&which.admin, &format!("/dead?limit=1000{stream}"));
    let body = body.with_context(|| format!("read dead letters of {}", which.admin))?;
    let answer: Answer = serde_json::from_str(&body).context("read answer: it is no list of dead letters")?;
    let wanted = answer.dead_letters.iter().filter(|letter| text(letter, "reason").contains(&which.reason));
    let lines: String = wanted.take(which.limit).map(|letter| line(letter) + "\n").collect();
    super::print(&lines)?;
    Ok(Exit::Ok.into())
}

fn summary(letter: &serde_json::Value) -> String {
    let [at, stream, stage, reason] = ["received_at", "stream", "stage", "reason"].map(|key| text(letter, key));
    format!("{at}  {stream}  {stage}  {reason}")
}

fn text<'a>(letter: &'a serde_json::Value, key: &str) -> &'a str {
    letter[key].as_str().unwrap_or_default()
}

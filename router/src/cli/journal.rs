//! `sluice journal`: looks into the journal of a stopped node.
//!
//! It opens the journal as a run would, lock and recovery included, so a running node's journal is refused and nothing is
//! seen that a run would not see. A block whose checksum fails is set aside as a run would do, and said.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::exit::Exit;
use crate::clock::Clock;
use crate::journal::{Block, Engine, Journal, Settings};
use crate::record::Seq;
use crate::schema::{self, registry::Registry};

/// Stored bytes of blocks that are read at once.
const READ_MAX_BYTES: usize = 4 << 20;

/// Arguments of `sluice journal`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sluice journal info /var/lib/sluice                    What lies here, and how far has each sink got?
  sluice journal verify /var/lib/sluice                  Is every block whole? Exit code 1 if not.
  sluice journal dump /var/lib/sluice --stream playback  Every record that is still here, as JSON.

DIR is a node's data directory, or the journal in it. The node must be stopped.")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Sizes, lanes, counts and cursors
    Info(Place),
    /// A line for each block
    Ls(Place),
    /// Reads every block: checksums, compression, record count
    Verify(Place),
    /// Prints every record as JSON, by the schema it was written with
    Dump(Place),
}

#[derive(Debug, clap::Args)]
struct Place {
    /// A node's data directory, or the journal in it
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// This stream alone
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (Command::Info(place) | Command::Ls(place) | Command::Verify(place) | Command::Dump(place)) = &args.command;
    let journal = open(&place.directory)?;
    let mut streams = journal.streams();
    if let Some(wanted) = &place.stream {
        streams.retain(|stream| **stream == **wanted);
        if streams.is_empty() {
            bail!("journal {} holds no stream {wanted}", place.directory.display());
        }
    }
    let mut all_whole = true;
    if let Command::Info(_) = &args.command {
        super::print(&summary(&journal)?)?;
    }
    for stream in &streams {
        match &args.command {
            Command::Info(_) => super::print(&info(&journal, stream)?)?,
            Command::Ls(_) => walk(&journal, stream, |seq, block| super::print(&line(seq, block)))?,
            Command::Verify(_) => all_whole &= verify(&journal, stream)?,
            Command::Dump(_) => dump(&journal, stream)?,
        }
    }
    Ok(if all_whole { Exit::Ok } else { Exit::Failed }.into())
}

/// Opens the journal at or below `directory`; never makes one.
fn open(directory: &Path) -> anyhow::Result<Journal> {
    let places = [directory.to_owned(), directory.join("journal")];
    let engines = [(Engine::Sled, "sled"), (Engine::Redb, "redb")];
    let found = places.iter().flat_map(|place| engines.iter().map(move |(engine, name)| (place, *engine, name)));
    let mut found = found.filter(|(place, _, name)| place.join(name).is_dir());
    let Some((place, engine, _)) = found.next() else { bail!("there is no journal in {}", directory.display()) };
    let settings = Settings {
        directory: place.clone(),
        // Nothing is appended, so no block gets this name.
        agent: Arc::from("journal"),
        engine,
        max_bytes: u64::MAX,
        group_max_delay: Duration::from_millis(1),
        group_max_bytes: 1 << 20,
        cache_bytes: 64 << 20,
        dead_letter_max_bytes: u64::MAX,
    };
    Ok(Journal::open(settings, Clock::system())?)
}

fn summary(journal: &Journal) -> anyhow::Result<String> {
    let (epoch, disk) = (journal.epoch(), journal.disk_bytes()?);
    let dead = journal.dead_letters(None, usize::MAX)?.len();
    Ok(format!("epoch {epoch}, {disk} bytes on disk, {dead} dead letters\n"))
}

fn info(journal: &Journal, stream: &str) -> anyhow::Result<String> {
    let counts = journal.counts(stream)?;
    let (mut blocks, mut records, mut stored, mut raw, mut first) = (0u64, 0u64, 0u64, 0u64, None);
    walk(journal, stream, |seq, block| {
        first.get_or_insert(seq);
        (blocks, records) = (blocks + 1, records + u64::from(block.record_count));
        (stored, raw) = (stored + block.stored_len() as u64, raw + u64::from(block.raw_len));
        Ok(())
    })?;
    let mut text = format!(
        "\nstream {stream}: seqs up to {}, decided up to {}\n  here: {blocks} blocks, {records} records, {stored} bytes stored, {raw} raw",
        counts.next.saturating_sub(1),
        counts.next_undecided.saturating_sub(1),
    );
    if let Some(first) = first {
        write!(text, ", from seq {first}")?;
    }
    for (agent, received) in &counts.received {
        write!(text, "\n  received {received} from {agent}")?;
    }
    for (sink, cursor) in journal.cursors(stream)? {
        let (next, delivered, dead) = (cursor.next, cursor.delivered, cursor.dead);
        write!(text, "\n  sink {sink}: next seq {next}, {delivered} delivered, {dead} refused")?;
    }
    text.push('\n');
    Ok(text)
}

fn line(seq: Seq, block: &Block) -> String {
    let origin = &block.origin;
    format!(
        "{} {seq}  {} records  {} bytes stored, {} raw  from {} epoch {} seq {}\n",
        block.stream,
        block.record_count,
        block.stored_len(),
        block.raw_len,
        origin.agent,
        origin.epoch,
        origin.seq
    )
}

/// Whether every block of a lane is whole.
fn verify(journal: &Journal, stream: &str) -> anyhow::Result<bool> {
    let (mut whole, mut broken) = (0u64, Vec::new());
    walk(journal, stream, |seq, block| {
        match block.frames() {
            Ok(_) => whole += 1,
            Err(reason) => broken.push(format!("stream {stream}, seq {seq}: {reason}\n")),
        }
        Ok(())
    })?;
    let quarantined = journal.counts(stream)?.quarantined;
    let broken_count = broken.len();
    super::print(&broken.concat())?;
    super::print(&format!("stream {stream}: {whole} blocks whole, {broken_count} broken, {quarantined} set aside\n"))?;
    Ok(broken.is_empty() && quarantined == 0)
}

fn dump(journal: &Journal, stream: &str) -> anyhow::Result<()> {
    let registry = Registry::load(&schema::Settings::default())?;
    for (fingerprint, message, descriptors) in journal.schemas()? {
        registry.add(fingerprint, &message, &descriptors).with_context(|| format!("read schema of {message}"))?;
    }
    walk(journal, stream, |seq, block| {
        let known = registry.by_fingerprint(block.fingerprint);
        let schema = known.with_context(|| format!("find schema {} of seq {seq}", block.fingerprint))?;
        let mut lines = Vec::with_capacity(block.raw_len as usize * 2);
        for record in block.frames()?.iter() {
            schema::json::to_json(&schema, record, &mut lines)
                .with_context(|| format!("print a record of seq {seq}"))?;
            lines.push(b'\n');
        }
        super::print(&String::from_utf8_lossy(&lines))
    })
}

fn walk(
    journal: &Journal,
    stream: &str,
    mut each: impl FnMut(Seq, &Block) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut from = 1;
    loop {
        let blocks = journal.read(stream, from, READ_MAX_BYTES)?;
        let Some((last, _)) = blocks.last() else { return Ok(()) };
        from = last + 1;
        for (seq, block) in &blocks {
            each(*seq, block)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Advance, Append};
    use crate::record::FramesBuilder;

    /// A stopped node's data directory with two blocks of three lines each, of which one was delivered.
    async fn data() -> tempfile::TempDir {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(data.path().join("journal/sled")).unwrap();
        let journal = open(data.path()).unwrap();
        let registry = Registry::load(&schema::Settings::default()).unwrap();
        let schema = registry.message("sluice.v1.LogLine").unwrap();
        journal.put_schema(schema.fingerprint, schema.message(), schema.descriptors.clone()).await.unwrap();
        journal.set_sinks("lines", &["out".into(), "slow".into()]).unwrap();
        for _ in 0..2 {
            let mut frames = FramesBuilder::default();
            (0..3).for_each(|_| frames.push(b"\x0a\x02hi"));
            let block = Block::new(&"lines".into(), schema.fingerprint, &frames.finish(), (1, 2)).unwrap();
            journal.append(Append { blocks: vec![block], ..Append::default() }).await.unwrap();
        }
        let (sink, stream) = ("out".into(), "lines".into());
        let advance = Advance { sink, stream, next: 2, state: Default::default(), delivered: 3, dead: Vec::new() };
        journal.advance(advance).await.unwrap();
        journal.close().await.unwrap();
        data
    }

    #[tokio::test]
    async fn a_stopped_journal_tells_what_lies_in_it() {
        let data = data().await;
        let journal = open(data.path()).unwrap();
        let text = info(&journal, "lines").unwrap();
        for part in [
            "seqs up to 2",
            "2 blocks, 6 records",
            "from seq 1",
            "received 6 from journal",
            "sink out: next seq 2, 3 delivered",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
        assert!(verify(&journal, "lines").unwrap());
        dump(&journal, "lines").unwrap();
        let mut lines = Vec::new();
        walk(&journal, "lines", |seq, block| {
            lines.push(line(seq, block));
            Ok(())
        })
        .unwrap();
        assert!(lines[1].starts_with("lines 2  3 records"), "{lines:?}");
        let in_use = open(data.path()).map(drop).unwrap_err().to_string();
        assert!(in_use.contains("in use"), "{in_use}");
    }

    #[test]
    fn nothing_is_made_where_there_is_no_journal() {
        let empty = tempfile::tempdir().unwrap();
        let refused = open(empty.path()).map(drop).unwrap_err().to_string();
        assert!(refused.starts_with("there is no journal in"), "{refused}");
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0);
    }
}

//! The demo's summary, and whether its numbers agree.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::archive::Archived;
use super::generator::Written;
use crate::fleet::ledger::{Ledger, StreamLedger};

pub(super) struct Report {
    pub(super) problems: Vec<String>,
    stream: &'static str,
    written: Written,
    edge: StreamLedger,
    central: StreamLedger,
    archived: Archived,
    elapsed: Duration,
    archive: PathBuf,
}

impl Report {
    pub(super) fn new(
        stream: &'static str,
        written: Written,
        [edge, central]: [Ledger; 2],
        archived: Archived,
        elapsed: Duration,
        archive: &Path,
    ) -> Report {
        let mut problems: Vec<String> = edge.gaps.iter().chain(&central.gaps).cloned().collect();
        let of = |ledger: &Ledger| ledger.streams.get(stream).cloned().unwrap_or_default();
        let (edge, central) = (of(&edge), of(&central));
        let delivered: u64 = central.sinks.values().map(|sink| sink.delivered).sum();
        let mut compare = |what: &str, left: u64, right: u64| {
            if left != right {
                problems.push(format!("{what}: {left} and {right} should be the same"));
            }
        };
        compare("records received by edge and by central", edge.received_count(), central.received_count());
        compare("records kept and delivered", central.kept, delivered);
        compare("rows in the files and records delivered", archived.rows, delivered);
        compare("rows in the files and different ids among them", archived.rows, archived.distinct_ids);
        compare("rows with personal data left in them", archived.leaks, 0);
        if stream == "playback" {
            compare("lines written and read", written.lines, edge.received_count() + edge.refused);
            compare("malformed lines written and refused", written.malformed, edge.refused);
            compare("heartbeats written and filtered", written.heartbeats, central.filtered);
            compare("repeated events written and found duplicate", written.repeated, central.duplicate);
        }
        let archive = archive.to_owned();
        Report { problems, stream, written, edge, central, archived, elapsed, archive }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, count: u64, note: &str| writeln!(f, "  {name:<22} {count:>10}   {note}");
        let parsed = self.edge.received_count();
        line("lines read", parsed + self.edge.refused, "by the edge, from the log and its rotated files")?;
        line("parsed", parsed, "into Protobuf, durable at the edge, then at central")?;
        line("refused", self.edge.refused, "malformed, in the edge's dead letters")?;
        line("filtered", self.central.filtered, "by a transform plugin")?;
        line("duplicate", self.central.duplicate, "dropped by key, remembered over restarts")?;
        for (sink, books) in &self.central.sinks {
            line(&format!("delivered to {sink}"), books.delivered, &format!("{} refused by it", books.dead))?;
        }
        line("rows in the files", self.archived.rows, &format!("{} different ids", self.archived.distinct_ids))?;
        let megabytes = self.written.bytes as f64 / 1e6;
        let seconds = self.elapsed.as_secs_f64();
        let rate = megabytes / seconds;
        writeln!(
            f,
            "  {megabytes:.0} MB from log to Parquet in {seconds:.1} s: {rate:.1} MB/s, both nodes and the writer on this machine"
        )?;
        writeln!(
            f,
            "\n  {} Parquet files in {}; query them with one of:",
            self.archived.files,
            self.archive.display()
        )?;
        let files = format!("{}/*/*.parquet", self.archive.display());
        match self.stream {
            "playback" => {
                writeln!(f, "    duckdb -c \"select action, count(*) from '{files}' group by action\"")?;
            }
            _ => writeln!(f, "    duckdb -c \"select count(*), max(position) from '{files}'\"")?,
        }
        writeln!(f, "    python3 -c \"import pandas; print(pandas.read_parquet('{}'))\"", self.archive.display())?;
        match self.problems.is_empty() {
            true => {
                writeln!(f, "\n  The numbers balance: every line read is accounted for, and none was delivered twice.")
            }
            false => self.problems.iter().try_for_each(|problem| writeln!(f, "  DOES NOT BALANCE: {problem}")),
        }
    }
}

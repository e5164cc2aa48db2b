//! `sluice ledger`: asks a running node what became of every record, and prints it as a table.

use std::process::ExitCode;

use anyhow::Context as _;

use super::ask::get;
use super::exit::Exit;
use crate::fleet::ledger::{Ledger, StreamLedger};

/// Arguments of `sluice ledger`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  sluice ledger --admin central-1.example:9600

Records of a stream: received + split = kept + filtered + duplicate + dead + undecided. Records of a \
sink: kept = delivered + dead + in flight + skipped. Where the books do not balance, a line says in \
which stream and sink, and the exit code is 1.")]
pub struct Args {
    /// The node's admin.listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9600")]
    admin: String,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let ledger = fetch(&args.admin).with_context(|| format!("read ledger of {}", args.admin))?;
    super::print(&table(&ledger))?;
    Ok(if ledger.balanced { Exit::Ok } else { Exit::Failed }.into())
}

/// Asks the node whose admin port is at `admin`.
pub fn fetch(admin: &str) -> anyhow::Result<Ledger> {
    serde_json::from_str(&get(admin, "/ledger")?).context("read answer: it is no ledger")
}

/// The ledger for people: a table of streams, then one of their sinks.
fn table(ledger: &Ledger) -> String {
    let mut streams =
        vec![row(&["STREAM", "RECEIVED", "SPLIT", "KEPT", "FILTERED", "DUPLICATE", "DEAD", "UNDECIDED", "REFUSED"])];
    let mut sinks = vec![row(&["STREAM", "SINK", "KEPT", "DELIVERED", "DEAD", "IN FLIGHT", "SKIPPED"])];
    for (name, stream) in &ledger.streams {
        streams.push(stream_row(name, stream));
        for (sink, books) in &stream.sinks {
            let mut cells = vec![name.clone(), sink.clone()];
            let counts = [stream.kept, books.delivered, books.dead, books.in_flight, books.skipped];
            cells.extend(counts.map(|count| count.to_string()));
            sinks.push(cells);
        }
    }
    let gaps: String = ledger.gaps.iter().map(|gap| format!("GAP {gap}\n")).collect();
    format!("{} ({})\n\n{}\n{}{gaps}", ledger.agent, ledger.role, aligned(&streams, 1), aligned(&sinks, 2))
}

fn stream_row(name: &str, stream: &StreamLedger) -> Vec<String> {
    let StreamLedger { split, kept, filtered, duplicate, dead, undecided, .. } = stream;
    let mut cells = vec![name.to_owned(), stream.received_count().to_string()];
    cells.extend([split, kept, filtered, duplicate, dead, undecided].map(|count| count.to_string()));
    cells.push(stream.refused.to_string());
    cells
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

/// Columns as wide as their widest cell: the first `names` to the left, counts to the right.
fn aligned(rows: &[Vec<String>], names: usize) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> =
        (0..columns).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, &width))| match i < names {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::fleet::ledger::SinkLedger;

    fn ledger() -> Ledger {
        let sink = |delivered, dead, in_flight| SinkLedger { delivered, dead, in_flight, skipped: 0 };
        let stream = StreamLedger {
            received: [("edge-1".to_owned(), 1_000_000)].into(),
            refused: 3,
            kept: 999_000,
            duplicate: 1_000,
            sinks: [("archive".to_owned(), sink(999_000, 0, 0)), ("search".to_owned(), sink(900_000, 1, 98_998))]
                .into(),
            ..StreamLedger::default()
        };
        let streams = [("playback".to_owned(), stream)].into();
        Ledger { agent: "central-1".to_owned(), role: "central".to_owned(), streams, ..Ledger::default() }.close()
    }

    #[test]
    fn the_table_is_aligned_and_names_gaps() {
        let expected = "\
central-1 (central)

STREAM    RECEIVED  SPLIT    KEPT  FILTERED  DUPLICATE  DEAD  UNDECIDED  REFUSED
playback   1000000      0  999000         0       1000     0          0        3

STREAM    SINK       KEPT  DELIVERED  DEAD  IN FLIGHT  SKIPPED
playback  archive  999000     999000     0          0        0
playback  search   999000     900000     1      98998        0
GAP stream playback, sink search: 999000 records kept, 998999 delivered, dead, in flight or skipped
";
        assert_eq!(table(&ledger()), expected);
    }

    #[test]
    fn answers_are_read_and_errors_named() {
        let answer = |answer: String| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let server = crate::tasks::thread("node", move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut part = [0; 64];
                    let len = stream.read(&mut part).unwrap();
                    assert_ne!(len, 0, "cut short: {request:?}");
                    request.extend_from_slice(&part[..len]);
                }
                assert!(request.starts_with(b"GET /ledger HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            });
            let fetched = fetch(&address);
            server.unwrap().join().unwrap();
            fetched.map_err(|error| format!("{error:#}"))
        };
        let body = serde_json::to_string(&ledger()).unwrap();
        assert_eq!(answer(format!("HTTP/1.0 200 OK\r\n\r\n{body}")), Ok(ledger()));
        let refused = "HTTP/1.0 500 Internal Server Error\r\n\r\n{\"reasons\":[\"no\"]}\n";
        assert_eq!(answer(refused.to_owned()), Err("the node answered 500: {\"reasons\":[\"no\"]}".to_owned()));
        assert_eq!(answer("HTTP/1.0 200 OK".to_owned()), Err("read answer: it is cut short".to_owned()));
        assert!(
            answer("HTTP/1.0 200 OK\r\n\r\nhello".to_owned()).unwrap_err().starts_with("read answer: it is no ledger")
        );
    }
}

//! The bound: what the files take while far more than the bound goes through.

use super::*;
use std::time::Instant;

/// Small, so that many times as much goes through in seconds; `JOURNAL_SOAK_MIB` and `JOURNAL_SOAK_TURNS` ask for more.
const MAX_MIB: u64 = 256;
const TURNS: u64 = 1;
/// Of one append: near the bound appends are slowed one by one, so many small ones would take minutes.
const APPEND_LEN: usize = 2 << 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How a sink drains: right behind the sources, in bursts once the journal is full, or in small steps while it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    Behind,
    Bursts,
    Steps,
}

async fn soak(engine: Engine, directory: &Path, drain: Drain, block_len: usize) {
    let max_bytes = setting("JOURNAL_SOAK_MIB", MAX_MIB) << 20;
    let settings = Settings { max_bytes, ..settings(directory, engine) };
    let journal = Journal::open(settings, Clock::system()).unwrap();
    let streams = ["s", "t"];
    streams.iter().for_each(|stream| journal.set_sinks(stream, &["a".into()]).unwrap());
    let mut random = Random::new(11);
    let contents: Vec<Vec<u8>> = (0..4).map(|_| random.bytes(block_len)).collect();
    let mut appended = 0;
    let mut highest = (0, 0);
    let started = Instant::now();
    while appended < max_bytes * setting("JOURNAL_SOAK_TURNS", TURNS) {
        let stream = streams[random.below(2) as usize];
        // Varied lengths, as compression makes them.
        let len = block_len / 2 + random.below(block_len as u64 / 2) as usize;
        let block = block_of(stream, &[contents[random.below(4) as usize][..len].to_vec()]);
        let count = APPEND_LEN / block_len;
        let mut append = Box::pin(journal.append(blocks(vec![block; count])));
        let limit = Instant::now() + DEADLINE;
        loop {
            let full = tokio::select! {
                outcome = &mut append => { outcome.unwrap(); false }
                () = until("the journal to be full", || journal.is_full()) => true,
            };
            if drain == Drain::Behind || full {
                for stream in streams {
                    let (at, end) = (journal.cursor("a", stream).unwrap().next, *journal.end(stream).borrow());
                    let to = if drain == Drain::Steps { end.min(at + 1 + (end - at) / 50) } else { end };
                    journal.advance(advance("a", stream, to)).await.unwrap();
                }
            }
            highest = highest.max((store::disk_bytes(directory).unwrap(), lock(&journal.shared.facts).live_bytes()));
            if !full {
                break;
            }
            assert!(Instant::now() < limit, "no room came back");
        }
        appended += (count * len) as u64;
    }
    let disk = store::disk_bytes(directory).unwrap();
    println!(
        "{engine:?} {drain:?} blocks of {block_len}: at most {} MiB on disk with {} live, {} at the end, of {}; {} MiB/s",
        highest.0 >> 20,
        highest.1 >> 20,
        disk >> 20,
        max_bytes >> 20,
        (appended as f64 / started.elapsed().as_secs_f64()) as u64 >> 20
    );
    assert!(highest.0 <= max_bytes, "{} bytes on disk are more than {max_bytes}", highest.0);
    journal.close().await.unwrap();
}

#[test]
fn the_files_never_take_more_than_the_bound_and_room_comes_back() {
    over_engines(|engine, directory| async move {
        for drain in [Drain::Behind, Drain::Bursts, Drain::Steps] {
            for block_len in [40_000, 250_000] {
                let directory = directory.join(format!("{drain:?}-{block_len}"));
                soak(engine, &directory, drain, block_len).await;
            }
        }
    });
}

//! A central whose journal is full slows its edges and keeps its word.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::*;
use crate::journal::{Advance, Block};
use crate::record::{FramesBuilder, Origin};
use crate::schema::Settings;
use crate::schema::registry::Registry;

const AGENT: &str = "edge-1";
const MAX_BYTES: u64 = 64 << 20;

/// A block of about 200 KiB that does not compress.
fn large(seq: u64) -> Block {
    let mut random = Random(seq);
    let mut frames = FramesBuilder::default();
    let bytes: Vec<u8> = (0..25_000).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
    frames.push(&bytes);
    let mut block = Block::new(&Arc::from("playback"), KNOWN, &frames.finish(), (seq, seq)).unwrap();
    block.origin = Origin { agent: AGENT.into(), epoch: EPOCH, seq };
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_journal_slows_the_edge_and_still_stops() {
    const COUNT: u64 = 400;
    let pki = Pki::new(&[AGENT]);
    let registry = Registry::load(&Settings::default()).unwrap();
    let mut central = Central::start_with(&pki, &["playback"], registry, MAX_BYTES).await;
    let sink = || Arc::from("sink");
    central.journal.set_sinks("playback", &[sink()]).unwrap();
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lane = Lane::new((1..=COUNT).map(large));
    lane.end();
    edge.forward("playback", &lane);

    until("the journal is full", || central.journal.is_full()).await;
    let durable = central.durable_last(AGENT, "playback");
    assert!(durable < COUNT, "{durable}");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        lane.cursor() <= central.durable_last(AGENT, "playback") + 1,
        "nothing is acknowledged that is not durable"
    );
    assert!(edge.link.is_connected(), "waiting is not being dead");

    // Central stops although an append waits for room, and goes on where it was.
    central.stop().await;
    central.start_again(&pki);
    edge.stop().await;
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    edge.forward("playback", &lane);
    let mut next = 1;
    within("all arrive", async {
        while central.durable_last(AGENT, "playback") < COUNT {
            let end = *central.journal.end("playback").borrow();
            if end > next {
                next = end;
                let state = bytes::Bytes::new();
                let advance =
                    Advance { sink: sink(), stream: "playback".into(), next, state, delivered: 0, dead: Vec::new() };
                central.journal.advance(advance).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    edge.finish().await;
    assert_eq!(lane.cursor(), COUNT + 1);
    assert_eq!(lane.delivered(), COUNT);
    assert_eq!(central.journal.counts("playback").unwrap().next, COUNT + 1, "each once in central's lane");
    edge.stop().await;
    central.stop().await;
}

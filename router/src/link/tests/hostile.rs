//! What central does with an edge that breaks the rules, and who else notices (nobody).

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::fixture::*;
use crate::journal::Block;
use crate::link::frame::{self, Frame};
use crate::link::message::{Gap, Hello, SchemaOffer};
use crate::link::{CloseCode, explain};
use crate::record::Fingerprint;

/// What a hostile edge writes onto an open lane.
enum Attack {
    Bytes(Vec<u8>),
    Frames(Vec<Frame>),
}

fn as_frame(block: &Block) -> Frame {
    Frame::Block { seq: block.origin.seq, stored: block.encode() }
}

/// The stored form of a good block, changed.
fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> Frame {
    let mut stored = block("bad", "playback", 1, 3).encode().to_vec();
    change(&mut stored);
    Frame::Block { seq: 1, stored: Bytes::from(stored) }
}

fn with_epoch(epoch: u64) -> Block {
    let mut block = block("bad", "playback", 1, 1);
    block.origin.epoch = epoch;
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_breaks_a_rule_hurts_itself_alone() {
    let cases: Vec<(Attack, &str)> = vec![
        (Attack::Bytes(vec![1, 0, 0, 0, 200, 0]), "kind 200 is unknown"),
        (Attack::Bytes(vec![255, 255, 255, 255, 8]), "block: 4294967295 bytes are more than"),
        (Attack::Bytes(vec![0, 0, 1, 0, 9]), "ack: 65536 bytes are more than 4096"),
        (Attack::Bytes(vec![3, 0, 0, 0, 8, 1, 2, 3]), "3 bytes are too few"),
        (Attack::Bytes(vec![1, 0, 0, 0, 7, 0x0f]), "read frame gap"),
        (Attack::Frames(vec![Frame::Hello(Hello::default())]), "hello where block, schema or gap is due"),
        (Attack::Frames(vec![damaged(|stored| *stored.last_mut().unwrap() ^= 1)]), "payload checksum"),
        (Attack::Frames(vec![damaged(|stored| stored[20] ^= 1)]), "header is cut short or its checksum"),
        (Attack::Frames(vec![damaged(|stored| stored.truncate(40))]), "header is cut short"),
        (Attack::Frames(vec![damaged(Vec::clear)]), "header is cut short"),
        (Attack::Frames(vec![as_frame(&block("bad", "playback", 2, 1))]), "block 2 came where 1 was due"),
        (Attack::Frames(vec![as_frame(&block("bad", "search", 1, 1))]), "belongs to stream \"search\""),
        (Attack::Frames(vec![as_frame(&block("good", "playback", 1, 1))]), "comes from agent \"good\""),
        (Attack::Frames(vec![as_frame(&with_epoch(EPOCH + 1))]), "is of epoch 78"),
        (
            Attack::Frames(vec![Frame::Block { seq: 2, stored: block("bad", "playback", 1, 1).encode() }]),
            "names itself 1",
        ),
        (Attack::Frames(vec![Frame::Schema(SchemaOffer::default())]), "schema fingerprint of 0 bytes"),
    ];
    let pki = Pki::new(&["good", "bad"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let good = RawEdge::connect(&pki, "good", central.address).await;
    let (mut good_lane, _) = good.ready("playback").await;
    for (round, (attack, expected)) in cases.iter().enumerate() {
        let bad = RawEdge::connect(&pki, "bad", central.address).await;
        let (mut lane, last) = bad.ready("playback").await;
        assert_eq!(last, 0, "{expected}: nothing of the attacks is kept");
        match attack {
            Attack::Bytes(bytes) => lane.send.write_all(bytes).await.unwrap(),
            Attack::Frames(frames) => {
                for frame in frames {
                    frame::write(&mut lane.send, frame).await.unwrap();
                }
            }
        }
        let closed = within("central closes", bad.connection.closed()).await;
        let quinn::ConnectionError::ApplicationClosed(close) = &closed else { panic!("{expected}: {closed:?}") };
        assert_eq!(close.error_code, CloseCode::Protocol.code(), "{expected}");
        assert!(explain(&closed).contains(expected), "{expected}: {}", explain(&closed));
        good_lane.send(&block("good", "playback", round as u64 + 1, 2)).await.unwrap();
        good_lane.acked(round as u64 + 1).await;
    }
    assert_eq!(central.records("playback"), records("good", "playback", 1..=cases.len() as u64, 2));
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_before_the_broken_rule_is_kept() {
    let pki = Pki::new(&["bad"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let bad = RawEdge::connect(&pki, "bad", central.address).await;
    let (mut lane, _) = bad.ready("playback").await;
    for seq in [1, 2, 4] {
        lane.send(&block("bad", "playback", seq, 1)).await.unwrap();
    }
    within("central closes", bad.connection.closed()).await;
    assert_eq!(central.records("playback"), records("bad", "playback", 1..=2, 1));
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resent_blocks_are_acknowledged_and_dropped() {
    let pki = Pki::new(&["edge-1"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    for (expected_last, seqs) in [(0, 1..=5), (5, 3..=8), (8, 1..=8), (8, 9..=9)] {
        let edge = RawEdge::connect(&pki, "edge-1", central.address).await;
        let (mut lane, last) = edge.ready("playback").await;
        assert_eq!(last, expected_last);
        let end = *seqs.end();
        for seq in seqs {
            lane.send(&block("edge-1", "playback", seq, 3)).await.unwrap();
        }
        lane.acked(end).await;
    }
    assert_eq!(central.records("playback"), records("edge-1", "playback", 1..=9, 3));
    central.stop().await;
}

/// Several connections of one agent at once, each from wherever central tells it to go on: whatever the interleaving,
/// nothing is left out and nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_one_agent_take_turns() {
    let pki = Pki::new(&["edge-1"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    // What central has, as lanes heard it: the edges go on until they got enough across, however slow the machine.
    let across = AtomicU64::new(0);
    let edges = (0..6u64).map(|seed| {
        let (config, address, across) = (pki.client("edge-1"), central.address, &across);
        async move {
            let mut random = Random(seed + 1);
            let mut turns = 0;
            while turns < 8 || across.load(Ordering::Relaxed) <= 20 {
                turns += 1;
                // Any step may fail because a newer connection took over: that is the point.
                let Ok((edge, welcome)) = RawEdge::greet(config.clone(), address, hello("edge-1")).await else {
                    continue;
                };
                assert!(welcome.accepted);
                let Ok((mut lane, Frame::LaneReady(ready))) = edge.open("playback").await else { continue };
                across.fetch_max(ready.last, Ordering::Relaxed);
                for seq in ready.last + 1..=ready.last + 1 + random.below(30) {
                    if lane.send(&block("edge-1", "playback", seq, 2)).await.is_err() {
                        break;
                    }
                }
                // Later turns are longer, so that on a slow machine somebody gets through.
                tokio::time::sleep(std::time::Duration::from_millis(random.below(10 * turns))).await;
            }
        }
    });
    within("edges end", futures_util::future::join_all(edges)).await;
    let edge = RawEdge::connect(&pki, "edge-1", central.address).await;
    let (mut lane, last) = edge.ready("playback").await;
    lane.send(&block("edge-1", "playback", last + 1, 2)).await.unwrap();
    lane.acked(last + 1).await;
    assert!(last > 20, "the edges got {last} blocks across");
    assert_eq!(central.records("playback"), records("edge-1", "playback", 1..=last + 1, 2));
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_connection_closes_the_older() {
    let pki = Pki::new(&["edge-1"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let older = RawEdge::connect(&pki, "edge-1", central.address).await;
    let (mut lane, _) = older.ready("playback").await;
    lane.send(&block("edge-1", "playback", 1, 1)).await.unwrap();
    lane.acked(1).await;
    let newer = RawEdge::connect(&pki, "edge-1", central.address).await;
    let closed = within("the older is closed", older.connection.closed()).await;
    assert_eq!(explain(&closed), "closed by the peer: a newer connection of the same agent took over");
    assert_eq!(newer.ready("playback").await.1, 1);
    // A newer stream of the same connection takes over too.
    let (mut first, _) = newer.ready("playback").await;
    let (mut second, _) = newer.ready("playback").await;
    let answer = within("the first is refused", first.reader.next()).await.unwrap();
    assert!(matches!(&answer, Some(Frame::LaneRefused(refused)) if refused.retryable), "{answer:?}");
    second.send(&block("edge-1", "playback", 2, 1)).await.unwrap();
    second.acked(2).await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_that_are_refused_say_why() {
    let pki = Pki::new(&["edge-1"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let cases = [
        (
            hello("edge-2"),
            "the agent calls itself \"edge-2\", but its certificate is for [\"edge-1\"]: make one with `sluice pki agent edge-2`",
        ),
        (
            Hello { major: 2, minor: 5, ..hello("edge-1") },
            "link protocol 2.5 (test) is spoken there, 1.0 (sluice 0.1.0) here: update the older",
        ),
        (hello(""), "the agent id has 0 bytes, allowed are 1 to 255"),
    ];
    for (hello, expected) in cases {
        let greeted = within("greeting", RawEdge::greet(pki.client("edge-1"), central.address, hello)).await;
        let (edge, welcome) = greeted.unwrap();
        assert_eq!((welcome.accepted, welcome.refusal.as_str()), (false, expected));
        edge.connection.close(CloseCode::Refused.code(), b"");
    }
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_another_authority_are_refused_by_both_ends() {
    let [pki, foreign] = [Pki::new(&["edge-1"]), Pki::new(&["edge-1"])];
    let mut central = Central::start(&pki, &["playback"]).await;
    // The edge trusts central, central does not trust the edge.
    std::fs::copy(pki.path("ca.pem"), foreign.path("ca.pem")).unwrap();
    let refused = RawEdge::greet(foreign.client("edge-1"), central.address, hello("edge-1"));
    let error = within("handshake", refused).await.err().unwrap().chain();
    assert!(error.contains("the peer does not accept this side's certificate"), "{error}");
    assert!(error.contains("UnknownIssuer"), "{error}");
    // The edge does not trust central.
    let foreign = Pki::new(&["edge-1"]);
    let refused = RawEdge::greet(foreign.client("edge-1"), central.address, hello("edge-1"));
    let error = within("handshake", refused).await.err().unwrap().chain();
    assert!(error.contains("the peer's certificate or tls version is not accepted here"), "{error}");
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_of_an_unknown_schema_is_refused_and_kept_by_the_edge() {
    let pki = Pki::new(&["edge-1"]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let edge = RawEdge::connect(&pki, "edge-1", central.address).await;
    let (mut lane, _) = edge.ready("playback").await;
    lane.send(&block("edge-1", "playback", 1, 1)).await.unwrap();
    lane.send(&block_of(Fingerprint([9; 16]), "edge-1", "playback", 2, 1)).await.unwrap();
    lane.acked(1).await;
    let answer = within("refusal", lane.reader.next()).await.unwrap();
    let Some(Frame::LaneRefused(refused)) = answer else { panic!("{answer:?}") };
    let expected = "schema 09090909090909090909090909090909 is not known here and the edge did not send it";
    assert_eq!((refused.reason.as_str(), refused.retryable), (expected, true));
    assert_eq!(central.records("playback"), records("edge-1", "playback", [1], 1));
    // The connection lives on.
    let (mut lane, last) = edge.ready("playback").await;
    assert_eq!(last, 1);
    frame::write(&mut lane.send, &Frame::Gap(Gap { next: 3 })).await.unwrap();
    lane.send(&block("edge-1", "playback", 3, 1)).await.unwrap();
    lane.acked(3).await;
    central.stop().await;
}

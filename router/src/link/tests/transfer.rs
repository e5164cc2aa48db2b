//! What arrives, whatever happens to the connection: each record once, in order.

use std::time::Duration;

use super::fixture::*;
use super::proxy::Proxy;
use crate::link::frame::{self, Frame};
use crate::link::message::{Gap, LaneRefused};

const AGENT: &str = "edge-1";
const RECORDS: usize = 20;

fn blocks(stream: &str, seqs: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = crate::journal::Block> {
    seqs.map(move |seq| block(AGENT, stream, seq, RECORDS))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_and_is_committed() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback", "search"]).await;
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lanes = ["playback", "search"].map(|stream| (stream, Lane::new(blocks(stream, 1..=400))));
    lanes.iter().for_each(|(stream, lane)| edge.forward(stream, lane));
    lanes.iter().for_each(|(_, lane)| lane.end());
    edge.finish().await;
    assert!(edge.link.is_connected());
    for (stream, lane) in &lanes {
        assert_eq!(central.records(stream), records(AGENT, stream, 1..=400, RECORDS));
        assert_eq!((lane.cursor(), lane.delivered()), (401, 400 * RECORDS as u64));
    }
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_loses_packets_and_goes_dark_delivers_once() {
    for seed in [1, 2, 3] {
        let pki = Pki::new(&[AGENT]);
        let mut central = Central::start(&pki, &["playback"]).await;
        let proxy = Proxy::start(central.address, 3, seed).await;
        let mut edge = Edge::start(&pki, AGENT, &[proxy.address]);
        let lane = Lane::new([]);
        edge.forward("playback", &lane);
        let (mut random, mut seq) = (Random(seed), 0);
        for round in 1..=4 {
            blocks("playback", seq + 1..=seq + 100).for_each(|block| lane.push(block));
            let cut_at = seq + 1 + random.below(100);
            seq += 100;
            until("some arrive", || central.durable_last(AGENT, "playback") >= cut_at).await;
            proxy.set_dark(true);
            until("the edge notices", || !edge.link.is_connected()).await;
            proxy.set_dark(false);
            assert!(lane.cursor() <= central.durable_last(AGENT, "playback") + 1, "round {round}: acked, not durable");
        }
        lane.end();
        edge.finish().await;
        assert_eq!(central.records("playback"), records(AGENT, "playback", 1..=seq, RECORDS), "seed {seed}");
        assert_eq!((lane.cursor(), lane.delivered()), (seq + 1, seq * RECORDS as u64), "seed {seed}");
        edge.stop().await;
        central.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_central_that_is_away_costs_only_time() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let proxy = Proxy::start(central.address, 0, 9).await;
    let mut edge = Edge::start(&pki, AGENT, &[proxy.address]);
    let lane = Lane::new([]);
    edge.forward("playback", &lane);
    let mut seq = 0;
    for _ in 0..3 {
        blocks("playback", seq + 1..=seq + 150).for_each(|block| lane.push(block));
        until("some arrive", || central.durable_last(AGENT, "playback") > seq + 20).await;
        seq += 150;
        central.stop().await;
        until("the edge notices", || !edge.link.is_connected()).await;
        // Longer than a connection attempt, so that some fail.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(lane.cursor() <= central.durable_last(AGENT, "playback") + 1);
        central.start_again(&pki);
        proxy.set_target(central.address);
    }
    lane.end();
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", 1..=seq, RECORDS));
    assert_eq!((lane.cursor(), lane.delivered()), (seq + 1, seq * RECORDS as u64));
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_died_between_ack_and_commit_goes_on_behind_the_ack() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let lane = Lane::new(blocks("playback", 1..=50));
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    edge.forward("playback", &lane);
    until("all arrive", || central.durable_last(AGENT, "playback") == 50).await;
    edge.kill().await;
    lane.forget_commits(21, 20 * RECORDS as u64);

    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    blocks("playback", 51..=60).for_each(|block| lane.push(block));
    lane.end();
    edge.forward("playback", &lane);
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", 1..=60, RECORDS));
    assert_eq!((lane.cursor(), lane.delivered()), (61, 60 * RECORDS as u64), "the ledger counts each once");
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edges_killed_at_any_moment_repeat_nothing() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let lane = Lane::new(blocks("playback", 1..=600));
    let mut random = Random(5);
    for _ in 0..8 {
        let target = (central.durable_last(AGENT, "playback") + random.below(80)).min(599);
        let mut edge = Edge::start(&pki, AGENT, &[central.address]);
        edge.forward("playback", &lane);
        until("some arrive", || central.durable_last(AGENT, "playback") >= target).await;
        edge.kill().await;
    }
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    lane.end();
    edge.forward("playback", &lane);
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", 1..=600, RECORDS));
    assert_eq!((lane.cursor(), lane.delivered()), (601, 600 * RECORDS as u64));
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_central_that_answers_is_taken() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    // Nobody listens there: the port was free a moment ago.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut edge = Edge::start(&pki, AGENT, &[nobody, central.address]);
    let lane = Lane::new(blocks("playback", 1..=5));
    lane.end();
    edge.forward("playback", &lane);
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", 1..=5, RECORDS));
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_central_that_lost_its_disk_gets_what_is_left() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lane = Lane::new(blocks("playback", 1..=30));
    lane.forget_commits(11, 0);
    lane.end();
    edge.forward("playback", &lane);
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", 11..=30, RECORDS));
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantined_blocks_are_declared_and_passed_over() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lane = Lane::new(blocks("playback", 1..=10).filter(|block| ![1, 4, 5].contains(&block.origin.seq)));
    lane.end();
    edge.forward("playback", &lane);
    edge.finish().await;
    assert_eq!(central.records("playback"), records(AGENT, "playback", [2, 3, 6, 7, 8, 9, 10], RECORDS));
    assert_eq!(lane.cursor(), 11);
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_data_directory_stops_the_sink() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let raw = RawEdge::connect(&pki, AGENT, central.address).await;
    let (mut lane, _) = raw.ready("playback").await;
    frame::write(&mut lane.send, &Frame::Gap(Gap { next: 99 })).await.unwrap();
    lane.send(&block(AGENT, "playback", 99, 1)).await.unwrap();
    lane.acked(99).await;

    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    edge.forward("playback", &Lane::new(blocks("playback", 1..=3)));
    let error = within("sink stops", edge.sinks.remove(0)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("it is an older copy of a data directory"), "{error}");
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_central_does_not_carry_waits_until_it_does() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let raw = RawEdge::connect(&pki, AGENT, central.address).await;
    let (_, answer) = within("lane opens", raw.open("search")).await.unwrap();
    let Frame::LaneRefused(LaneRefused { reason, retryable }) = answer else { panic!("{answer:?}") };
    assert_eq!(
        (reason.as_str(), retryable),
        ("central does not carry stream \"search\": add it to central's streams", true)
    );
    drop(raw);

    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lanes = ["search", "playback"].map(|stream| (stream, Lane::new(blocks(stream, 1..=20))));
    lanes.iter().for_each(|(stream, lane)| edge.forward(stream, lane));
    until("the other lane is not held up", || lanes[1].1.cursor() == 21).await;
    assert_eq!(lanes[0].1.cursor(), 1);
    central.carry("search");
    lanes.iter().for_each(|(_, lane)| lane.end());
    edge.finish().await;
    assert_eq!(central.records("search"), records(AGENT, "search", 1..=20, RECORDS));
    edge.stop().await;
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_commits_what_was_acknowledged() {
    let pki = Pki::new(&[AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lane = Lane::new(blocks("playback", 1..=300));
    edge.forward("playback", &lane);
    until("some arrive", || central.durable_last(AGENT, "playback") > 0).await;
    edge.stop().await;
    assert_eq!(lane.cursor(), central.durable_last(AGENT, "playback") + 1, "all that was sent is acknowledged");
    central.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_edge_gets_rid_of_what_it_journaled_under_its_old_name() {
    let pki = Pki::new(&[AGENT]);
    pki.run(&["agent", "edge-new", "--former", AGENT]);
    let mut central = Central::start(&pki, &["playback"]).await;
    let mut edge = Edge::start(&pki, AGENT, &[central.address]);
    let lane = Lane::new(blocks("playback", 1..=20));
    edge.forward("playback", &lane);
    until("all arrive", || lane.cursor() == 21).await;
    edge.stop().await;

    // Two blocks whose ack was not committed, two that were never sent, two under the new name.
    lane.forget_commits(19, 18 * RECORDS as u64);
    blocks("playback", 21..=22).for_each(|block| lane.push(block));
    (23..=24).for_each(|seq| lane.push(block("edge-new", "playback", seq, RECORDS)));
    lane.end();
    let mut edge = Edge::start(&pki, "edge-new", &[central.address]);
    edge.forward("playback", &lane);
    edge.finish().await;
    let mut expected = records(AGENT, "playback", 1..=22, RECORDS);
    expected.extend(records("edge-new", "playback", 23..=24, RECORDS));
    assert_eq!(central.records("playback"), expected);
    assert_eq!((lane.cursor(), lane.delivered()), (25, 24 * RECORDS as u64));
    edge.stop().await;
    central.stop().await;
}

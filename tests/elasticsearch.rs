//! The Elasticsearch sink against a server that fails in every way a real one does: each id there exactly once, and
//! delivered + dead letters = offered.

#![allow(clippy::unwrap_used)] // in what the tests share, too

mod fakes;

use std::sync::Arc;
use std::time::Duration;

use fakes::elastic::{Elastic, Faults};
use fakes::feed::{self, Lane};
use fakes::rng::Rng;
use sluice::deliver::elasticsearch::{Auth, ElasticsearchSink, Settings};
use sluice::deliver::{Error, Sink as _};
use sluice::tasks::Stop;

const PROTO: &str = r#"
syntax = "proto3";
package t;
message Event { string name = 1; int64 n = 2; repeated string tags = 3; }
"#;

/// Far more than a run takes: the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(240);

/// Wire bytes of an Event.
fn event(name: &str, n: u8) -> Vec<u8> {
    let mut bytes = vec![0x0a, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&[0x10, n]);
    bytes
}

/// `count` blocks of some records each; one record in `poison` is refused by the server, one in 40 is no Event.
fn lane(count: usize, poison: u64, rng: &mut Rng) -> Lane {
    let schema = feed::schema(PROTO, "t.Event");
    let block = |_| {
        let len = rng.below(60);
        let record = |i: u64| match (rng.is_one_in(poison), rng.is_one_in(40)) {
            (true, _) => event("poison", 1),
            (_, true) if poison > 0 => vec![0x0a, 0x7f, 1],
            _ => event(&format!("event {i} \"quoted\"\n"), 1 + (i % 100) as u8),
        };
        (0..len).map(record).collect::<Vec<_>>()
    };
    Lane::new("orders", feed::blocks("orders", &schema, (0..count).map(block).collect()))
}

fn settings(elastic: &Elastic) -> Settings {
    Settings {
        urls: vec![elastic.url.clone()],
        auth: Auth::Basic { user: "u".into(), password: "p".into() },
        index: "logs-{stream}".into(),
        request_max_bytes: 2_000,
        gzip: true,
        in_flight_max: 4,
        timeout: Duration::from_millis(300),
        retry_max: Duration::from_millis(20),
    }
}

async fn run(lane: &Lane, settings: Settings, stop: Stop) -> Result<(), Error> {
    let mut sink = ElasticsearchSink::new("search".into(), settings).unwrap();
    let mut feed = lane.feed();
    tokio::time::timeout(DEADLINE, sink.run(&mut feed, stop)).await.expect("the sink should have ended")
}

fn check_balance(lane: &Lane, elastic: &Elastic) {
    assert!(lane.is_done());
    let store = elastic.store();
    assert_eq!(store.violations, Vec::<String>::new());
    let documents = &store.documents["logs-orders"];
    let committed = lane.committed();
    let mut dead: Vec<String> = committed.dead.iter().map(|letter| letter.id.unwrap().to_string()).collect();
    dead.sort();
    let count = dead.len();
    dead.dedup();
    assert_eq!(dead.len(), count, "a dead letter is there once");
    assert_eq!(committed.delivered + count as u64, lane.offered());
    for row in lane.blocks().iter().flat_map(|rows| &rows.records) {
        let id = row.id.to_string();
        assert_eq!(documents.contains_key(&id), dead.binary_search(&id).is_err(), "{id}");
    }
    assert_eq!(documents.len() as u64, committed.delivered);
}

#[tokio::test]
async fn documents_carry_the_record_its_time_and_its_agent() {
    let elastic = Elastic::start().await;
    let schema = feed::schema(PROTO, "t.Event");
    let lane = Lane::new("orders", feed::blocks("orders", &schema, vec![vec![event("a", 5), vec![]], vec![]]));
    run(&lane, settings(&elastic), Stop::new()).await.unwrap();
    check_balance(&lane, &elastic);
    let store = elastic.store();
    let document = &store.documents["logs-orders"][&lane.blocks()[0].records[0].id.to_string()];
    let expected = serde_json::json!({
        "name": "a", "n": 5, "@timestamp": "2026-09-21T14:13:20Z",
        "sluice": { "agent": "edge-1", "received_at": "2026-09-21T14:13:20Z" },
    });
    assert_eq!(*document, expected);
    assert_eq!(store.requests, store.gzipped);
}

#[tokio::test]
async fn every_record_is_there_once_whatever_fails_and_whenever_the_process_dies() {
    // Concurrently, since most of the time is spent in delays.
    futures_util::future::join_all((1..=12).map(survive)).await;
}

/// One run: faults by seed, six crashes at moments by seed, then to the end.
async fn survive(seed: u64) {
    let mut rng = Rng::new(seed);
    let elastic = Elastic::start().await;
    let faults = Faults {
        throttle_item: 15,
        fail_item: 25,
        refuse: 8,
        cut_before: 9,
        cut_after: 7,
        garble: 9,
        slow: 30,
        slow_for: Duration::from_millis(if seed.is_multiple_of(4) { 400 } else { 5 }),
        max_body_bytes: if seed.is_multiple_of(2) { 900 } else { 0 },
        ..Faults::default()
    };
    elastic.set_faults(faults, seed);
    let mut lane = lane(25, 20, &mut rng);
    lane.commit_delay = Duration::from_millis(1);
    for _ in 0..6 {
        let crash = Duration::from_millis(rng.below(60));
        let _ = tokio::time::timeout(crash, run(&lane, settings(&elastic), Stop::new())).await;
    }
    run(&lane, settings(&elastic), Stop::new()).await.unwrap();
    check_balance(&lane, &elastic);
    let store = elastic.store();
    assert!(store.item_answers[&409] > 0 && store.item_answers[&429] > 0, "{seed}: {:?}", store.item_answers);
}
/// Faults that heal: nothing is given up, nothing moves until then.
#[tokio::test]
async fn what_an_operator_can_heal_pauses_and_then_goes_on() {
    let scripts: [Faults; 7] = [
        Faults { status: Some(401), ..Faults::default() },
        Faults { status: Some(403), ..Faults::default() },
        Faults { status: Some(404), ..Faults::default() },
        Faults { status: Some(400), ..Faults::default() },
        Faults { item: Some((403, "cluster_block_exception")), ..Faults::default() },
        Faults { item: Some((429, "cluster_block_exception")), ..Faults::default() },
        Faults { item: Some((404, "index_not_found_exception")), ..Faults::default() },
    ];
    for faults in scripts {
        let elastic = Elastic::start().await;
        elastic.set_faults(faults.clone(), 1);
        let lane = lane(10, 0, &mut Rng::new(3));
        let heal = async {
            while elastic.store().requests < 20 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert_eq!(lane.committed().delivered, 0, "{faults:?}");
            elastic.set_faults(Faults::default(), 1);
        };
        let (ended, ()) = tokio::join!(run(&lane, settings(&elastic), Stop::new()), heal);
        ended.unwrap();
        check_balance(&lane, &elastic);
        assert!(lane.committed().dead.is_empty(), "{faults:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_waited_for_and_another_node_taken() {
    let mut elastic = Elastic::start().await;
    elastic.stop().await;
    let lane = lane(10, 0, &mut Rng::new(4));
    let ended = tokio::join!(run(&lane, settings(&elastic), Stop::new()), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(lane.committed().delivered, 0);
        elastic.resume().await;
    });
    ended.0.unwrap();
    check_balance(&lane, &elastic);

    let down = Elastic::start().await;
    let (mut nodes, url) = (settings(&elastic), down.url.clone());
    drop(down);
    nodes.urls.insert(0, url.replace("127.0.0.1", "127.0.0.9"));
    let lane = Lane::new("orders", lane.blocks().to_vec());
    run(&lane, nodes, Stop::new()).await.unwrap();
    check_balance(&lane, &elastic);
}

#[tokio::test]
async fn a_document_too_large_for_the_server_is_a_dead_letter_and_its_neighbours_are_not() {
    let elastic = Elastic::start().await;
    elastic.set_faults(Faults { max_body_bytes: 500, ..Faults::default() }, 1);
    let schema: Arc<_> = feed::schema(PROTO, "t.Event");
    let mut messages = vec![event("small", 1); 9];
    messages
        .insert(4, [event(&"x".repeat(127), 1), event(&"y".repeat(127), 1), vec![0x1a, 127], vec![b't'; 127]].concat());
    messages[4].extend([&[0x1a, 127][..], &[b'u'; 127], &[0x1a, 127], &[b'v'; 127]].concat());
    let lane = Lane::new("orders", feed::blocks("orders", &schema, vec![messages]));
    run(&lane, settings(&elastic), Stop::new()).await.unwrap();
    check_balance(&lane, &elastic);
    let committed = lane.committed();
    assert_eq!(committed.dead.len(), 1);
    assert_eq!(committed.dead[0].id, Some(lane.blocks()[0].records[4].id));
    assert_eq!(&*committed.dead[0].stage, "sink:search");
    assert!(committed.dead[0].reason.contains("413"), "{}", committed.dead[0].reason);
}

#[tokio::test]
async fn a_stop_ends_an_outage_and_loses_nothing() {
    let elastic = Elastic::start().await;
    elastic.set_faults(Faults { status: Some(503), ..Faults::default() }, 1);
    let lane = lane(10, 0, &mut Rng::new(5));
    let stop = Stop::new();
    let (ended, ()) = tokio::join!(run(&lane, settings(&elastic), stop.clone()), async {
        while elastic.store().requests < 5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stop.cancel();
    });
    ended.unwrap();
    assert_eq!(lane.committed().delivered, 0);
    elastic.set_faults(Faults::default(), 1);
    run(&lane, settings(&elastic), Stop::new()).await.unwrap();
    check_balance(&lane, &elastic);
}

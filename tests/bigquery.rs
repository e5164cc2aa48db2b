//! The BigQuery sink against a server that keeps offsets and fails in every way the real one does: each id there exactly
//! once, and delivered + dead letters = offered.

#![allow(clippy::unwrap_used)] // in what the tests share, too

mod fakes;

use std::time::Duration;

use fakes::bigquery::{BigQuery, Faults, until};
use fakes::feed::{self, Lane};
use fakes::rng::Rng;
use sluice::deliver::bigquery::{Auth, BigQuerySink, Settings};
use sluice::deliver::{Error, Sink as _};
use sluice::tasks::Stop;
use tonic::Code;

const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/timestamp.proto";
enum Kind { KIND_NONE = 0; KIND_ONE = 1; }
message Event {
  string name = 1;
  uint64 n = 2;
  google.protobuf.Timestamp at = 3;
  Kind kind = 4;
  map<string, string> labels = 5;
}
"#;

const TABLE: &str = "projects/p/datasets/d/tables/events_orders";
/// Far more than a run takes: the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(240);

/// Wire bytes of an Event.
fn event(name: &str, n: u8) -> Vec<u8> {
    let mut bytes = vec![0x0a, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&[0x10, n, 0x1a, 2, 0x08, 5, 0x20, 1, 0x2a, 6, 0x0a, 1, b'k', 0x12, 1, b'v']);
    bytes
}

/// `count` blocks of up to 60 records. With `bad`, one in so many is refused by row error, as many make the request
/// invalid, and as many are no Event.
fn lane(count: usize, bad: u64, rng: &mut Rng) -> Lane {
    let schema = feed::schema(PROTO, "t.Event");
    let block = |_| {
        let record = |i: u64| match (rng.is_one_in(bad), rng.is_one_in(bad), rng.is_one_in(bad * 8)) {
            (true, ..) => event("poison", 1),
            (_, true, _) => vec![0x0a, 0x7f, 1],
            (.., true) => event("cursed", 1),
            _ => event(&format!("event {i}"), 1 + (i % 100) as u8),
        };
        let len = (count as u64 * 7919) % 60;
        (0..len).map(record).collect::<Vec<_>>()
    };
    let mut messages: Vec<_> = (0..count).map(block).collect();
    messages.insert(1, vec![]);
    // While nothing was ever accepted, a refused request is the table's fault, not the row's.
    messages.insert(0, vec![event("first", 1)]);
    Lane::new("orders", feed::blocks("orders", &schema, messages))
}

fn settings(fake: &BigQuery) -> Settings {
    Settings {
        project: "p".into(),
        dataset: "d".into(),
        table: "events_{stream}".into(),
        auth: Auth::None,
        rest_url: Some(fake.rest_url.clone()),
        grpc_url: Some(fake.grpc_url.clone()),
        request_max_bytes: 4_000,
        timeout: Duration::from_millis(400),
        retry_max: Duration::from_millis(20),
    }
}

async fn run(lane: &Lane, settings: Settings, stop: Stop) -> Result<(), Error> {
    let mut sink = BigQuerySink::new("warehouse".into(), settings).unwrap();
    let mut feed = lane.feed();
    tokio::time::timeout(DEADLINE, sink.run(&mut feed, stop)).await.expect("the sink should have ended")
}

fn check_balance(lane: &Lane, fake: &BigQuery) {
    assert!(lane.is_done());
    let store = fake.store();
    let committed = lane.committed();
    let mut dead: Vec<String> = committed.dead.iter().map(|letter| letter.id.unwrap().to_string()).collect();
    dead.sort();
    let count = dead.len();
    dead.dedup();
    assert_eq!(dead.len(), count, "a dead letter is there once");
    assert_eq!(committed.delivered + count as u64, lane.offered());
    let rows = &store.rows[TABLE];
    for row in lane.blocks().iter().flat_map(|rows| &rows.records) {
        let id = row.id.to_string();
        let expected = usize::from(dead.binary_search(&id).is_err());
        assert_eq!(rows.get(&id).map_or(0, Vec::len), expected, "{id}");
    }
    assert_eq!(rows.len() as u64, committed.delivered);
}

#[tokio::test]
async fn rows_land_in_a_table_made_from_the_schema() {
    let fake = BigQuery::start().await;
    let schema = feed::schema(PROTO, "t.Event");
    let lane = Lane::new("orders", feed::blocks("orders", &schema, vec![vec![event("a", 7)], vec![], vec![vec![]]]));
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    check_balance(&lane, &fake);
    let store = fake.store();
    assert_eq!(store.violations, Vec::<String>::new());
    assert_eq!((store.streams.len(), store.connections), (1, 1));
    let id = lane.blocks()[0].records[0].id.to_string();
    let expected = serde_json::json!([{
        "name": "a", "n": "7", "at": 5_000_000, "kind": "KIND_ONE", "labels": [{ "key": "k", "value": "v" }],
        "_id": id, "_received_at": 1_790_000_000_000_000i64, "_agent": "edge-1",
    }]);
    assert_eq!(serde_json::json!(store.rows[TABLE][&id]), expected);
    let types: Vec<&str> =
        store.tables[TABLE].as_array().unwrap().iter().map(|column| column["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["STRING", "NUMERIC", "TIMESTAMP", "STRING", "RECORD", "STRING", "TIMESTAMP", "STRING"]);
}

#[tokio::test]
async fn every_record_is_there_once_whatever_fails_and_whenever_the_process_dies() {
    // Concurrently, since most of the time is spent in delays.
    futures_util::future::join_all((1..=16).map(survive)).await;
}

/// One run: faults by seed, crashes at moments by seed, then to the end.
async fn survive(seed: u64) {
    let mut rng = Rng::new(seed);
    let fake = BigQuery::start().await;
    let faults = Faults {
        unavailable: 9,
        lost_ack: 7,
        aborted: 9,
        finalized: 12,
        silent: 25,
        is_partial_list: seed.is_multiple_of(2),
        max_request_bytes: if seed.is_multiple_of(3) { 2_500 } else { 0 },
        ..Faults::default()
    };
    fake.set_faults(faults, seed);
    let mut lane = lane(15 + seed as usize, if seed.is_multiple_of(4) { 0 } else { 30 }, &mut rng);
    lane.commit_delay = Duration::from_millis(1);
    for _ in 0..8 {
        let crash = Duration::from_millis(rng.below(150));
        let _ = tokio::time::timeout(crash, run(&lane, settings(&fake), Stop::new())).await;
    }
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    check_balance(&lane, &fake);
    let violations: Vec<_> = fake.store().violations.clone();
    assert_eq!(violations, Vec::<String>::new(), "seed {seed}");
}

/// Crashes at every commit and between: the lane's commits are cut off one by one.
#[tokio::test]
async fn a_crash_at_any_moment_leaves_a_state_to_go_on_from() {
    let fake = BigQuery::start().await;
    fake.set_faults(Faults { lost_ack: 3, latency: Duration::from_millis(4), ..Faults::default() }, 9);
    let mut lane = lane(45, 0, &mut Rng::new(2));
    lane.commit_delay = Duration::from_millis(2);
    for millis in 0..60 {
        let _ = tokio::time::timeout(Duration::from_millis(millis), run(&lane, settings(&fake), Stop::new())).await;
    }
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    check_balance(&lane, &fake);
    assert!(fake.store().answers["already_exists"] > 0, "{:?}", fake.store().answers);
}

#[tokio::test]
async fn rights_and_servers_that_come_back_are_waited_for() {
    for code in [Code::PermissionDenied, Code::Unauthenticated, Code::Unavailable, Code::ResourceExhausted] {
        let fake = BigQuery::start().await;
        fake.set_faults(Faults { code: Some(code), ..Faults::default() }, 1);
        let lane = lane(10, 0, &mut Rng::new(3));
        let heal = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert_eq!(lane.committed().delivered, 0, "{code:?}");
            fake.set_faults(Faults::default(), 1);
        };
        let (ended, ()) = tokio::join!(run(&lane, settings(&fake), Stop::new()), heal);
        ended.unwrap();
        check_balance(&lane, &fake);
        assert!(lane.committed().dead.is_empty(), "{code:?}");
    }
}

/// A row never goes to dead letters because the table is behind the schema.
#[tokio::test]
async fn a_column_the_table_lacks_is_waited_for() {
    let fake = BigQuery::start().await;
    let lane = lane(10, 0, &mut Rng::new(3));
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    let columns = fake.store().tables[TABLE].clone();
    fake.store().tables.get_mut(TABLE).unwrap().as_array_mut().unwrap().remove(1);
    let again = Lane::new("orders", feed::blocks("orders", &lane.blocks()[0].schema, vec![vec![event("z", 1)]; 5]));
    fake.store().rows.clear();
    let heal = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(again.committed().delivered, 0);
        fake.store().tables.insert(TABLE.into(), columns);
    };
    let (ended, ()) = tokio::join!(run(&again, settings(&fake), Stop::new()), heal);
    ended.unwrap();
    check_balance(&again, &fake);
    assert!(again.committed().dead.is_empty());
}

#[tokio::test]
async fn a_spurious_out_of_range_is_tried_again_and_a_lasting_one_stops_the_sink() {
    let fake = BigQuery::start().await;
    fake.set_faults(Faults { out_of_range: 1, ..Faults::default() }, 1);
    let lane = lane(10, 0, &mut Rng::new(6));
    let error = run(&lane, settings(&fake), Stop::new()).await.unwrap_err();
    assert!(error.to_string().contains("lacks acknowledged rows"), "{error}");
    assert_eq!(fake.store().answers["out_of_range"], 2);
    fake.set_faults(Faults::default(), 1);
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    check_balance(&lane, &fake);
}

/// The stream's end is moved by somebody else: rows nobody sent here are never taken for ours.
#[tokio::test]
async fn rows_of_somebody_else_in_our_stream_stop_the_sink() {
    let fake = BigQuery::start().await;
    let schema = feed::schema(PROTO, "t.Event");
    let blocks = feed::blocks("orders", &schema, vec![vec![event("a", 1)]; 200]);
    let mut lane = Lane::new("orders", blocks);
    lane.commit_delay = Duration::from_millis(20);
    let intrude = async {
        until("rows", || !fake.store().rows.is_empty()).await;
        fake.store().streams.values_mut().for_each(|stream| stream.ids.extend(["x".into(), "y".into()]));
    };
    let (ended, ()) = tokio::join!(run(&lane, settings(&fake), Stop::new()), intrude);
    assert!(ended.unwrap_err().to_string().contains("did not put there"));
}

#[tokio::test]
async fn an_expired_stream_or_a_recreated_table_is_left_for_a_new_stream() {
    let fake = BigQuery::start().await;
    let lane = lane(20, 0, &mut Rng::new(8));
    let stop = Stop::new();
    let halfway = async {
        until("some rows", || lane.committed().delivered > 0).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(run(&lane, settings(&fake), stop.clone()), halfway);
    ended.unwrap();
    {
        let mut store = fake.store();
        store.streams.clear();
        store.tables.clear();
    }
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    check_balance(&lane, &fake);
    assert_eq!(fake.store().streams.len(), 1);
}

#[tokio::test]
async fn a_new_schema_version_goes_to_the_same_stream_on_a_new_connection() {
    let fake = BigQuery::start().await;
    let new = feed::schema(PROTO, "t.Event");
    let old = feed::schema("syntax = \"proto3\"; package t; message Event { string name = 1; }", "t.Event");
    let mut blocks = feed::blocks("orders", &new, vec![vec![event("a", 1); 3]; 9]);
    for rows in blocks.iter_mut().filter(|rows| rows.seq % 3 == 0) {
        rows.schema = old.clone();
    }
    let lane = Lane::new("orders", blocks);
    run(&lane, settings(&fake), Stop::new()).await.unwrap();
    check_balance(&lane, &fake);
    assert_eq!(fake.store().streams.len(), 1);
    assert_eq!(fake.store().connections, 6);
}

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::clock::Clock;
use crate::deliver::{Feed as _, Progress};
use crate::journal::{self, Append, Block, Journal};
use crate::process::Recipe;
use crate::record::{FramesBuilder, RecordId, Rows};
use crate::schema::registry::Registry;

const WAIT: Duration = Duration::from_secs(30);

fn journal(directory: &Path) -> Journal {
    let settings = journal::Settings {
        directory: directory.to_owned(),
        agent: "a".into(),
        engine: journal::Engine::default(),
        max_bytes: 1 << 30,
        group_max_delay: Duration::from_millis(1),
        group_max_bytes: 1 << 20,
        cache_bytes: 16 << 20,
        dead_letter_max_bytes: 1 << 20,
    };
    Journal::open(settings, Clock::system()).unwrap()
}

fn registry() -> Registry {
    Registry::load(&crate::schema::Settings::default()).unwrap()
}

fn names() -> Vec<Arc<str>> {
    vec!["fast".into(), "slow".into()]
}

async fn lane(journal: &Journal, registry: &Registry) -> Arc<Lane> {
    let recipe = Recipe { stream: "s".into(), transforms: Vec::new(), dedup: None };
    Lane::open(&"s".into(), journal, registry, Some(recipe), &names()).await.unwrap()
}

/// Appends `count` blocks of ten records each.
async fn append(journal: &Journal, registry: &Registry, count: usize) {
    let schema = registry.message("sluice.v1.LogLine").unwrap();
    for _ in 0..count {
        let mut frames = FramesBuilder::default();
        (0..10).for_each(|_| frames.push(&[10, 1, b'x']));
        let block = Block::new(&"s".into(), schema.fingerprint, &frames.finish(), (1, 2)).unwrap();
        journal.append(Append { blocks: vec![block], ..Append::default() }).await.unwrap();
    }
}

async fn next(feed: &mut LaneFeed) -> Vec<Rows> {
    tokio::time::timeout(WAIT, feed.next(1 << 20)).await.expect("rows in time").unwrap().expect("not stopping")
}

/// Takes rows until the feed stands behind `end`, committing after each call.
async fn take(feed: &mut LaneFeed, end: u64, ids: &mut Vec<RecordId>) {
    while feed.cursor().next < end {
        let rows = next(feed).await;
        let delivered = rows.iter().map(|rows| rows.records.len() as u64).sum();
        ids.extend(rows.iter().flat_map(|rows| rows.records.iter().map(|row| row.id)));
        let next = rows.last().unwrap().seq + 1;
        feed.commit(Progress { next, delivered, ..Progress::default() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sink_gets_every_row_once_over_a_restart_and_at_its_own_pace() {
    let directory = tempfile::tempdir().unwrap();
    let registry = registry();
    let (mut fast_ids, mut slow_ids) = (Vec::new(), Vec::new());

    let before = journal(directory.path());
    let tasks = Tasks::new();
    let first = lane(&before, &registry).await;
    start(&first, Vec::new(), &tasks).await.unwrap();
    let mut fast = LaneFeed::open(first.clone(), "fast".into(), tasks.stop().clone()).unwrap();
    append(&before, &registry, 20).await;
    take(&mut fast, 21, &mut fast_ids).await;
    // In doubt: state alone is journaled, the cursor stays.
    let mut slow = LaneFeed::open(first.clone(), "slow".into(), tasks.stop().clone()).unwrap();
    let in_doubt = Progress { next: 1, state: Bytes::from("in doubt"), ..Progress::default() };
    slow.commit(in_doubt).await.unwrap();
    assert_eq!((first.kept_from(1), first.kept_from(21)), (200, 0), "the slow sink is owed all");
    assert_eq!(before.read("s", 1, usize::MAX).unwrap().len(), 20, "nothing is trimmed before the slow sink passed");
    assert!(tasks.shut_down(WAIT).await);
    before.close().await.unwrap();
    drop((before, first, fast, slow));

    let after = journal(directory.path());
    let tasks = Tasks::new();
    let second = lane(&after, &registry).await;
    start(&second, Vec::new(), &tasks).await.unwrap();
    let mut slow = LaneFeed::open(second.clone(), "slow".into(), tasks.stop().clone()).unwrap();
    assert_eq!(slow.cursor(), deliver::Cursor { next: 1, state: Bytes::from("in doubt") });
    append(&after, &registry, 5).await;
    take(&mut slow, 26, &mut slow_ids).await;
    let mut fast = LaneFeed::open(second.clone(), "fast".into(), tasks.stop().clone()).unwrap();
    take(&mut fast, 26, &mut fast_ids).await;

    assert_eq!(slow_ids, fast_ids, "the same ids in the same order, replayed or not");
    assert_eq!(slow_ids.iter().collect::<BTreeSet<_>>().len(), 250);
    let counts = after.counts("s").unwrap();
    assert_eq!((counts.decided.kept, counts.undecided_records), (250, 0));
    assert_eq!((second.kept_from(0), second.skipped("slow")), (0, 0));
    assert!(tasks.shut_down(WAIT).await);
}

#[tokio::test]
async fn a_feed_ends_when_the_node_stops_and_goes_back_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, registry, tasks) = (journal(directory.path()), registry(), Tasks::new());
    let lane = lane(&journal, &registry).await;
    start(&lane, Vec::new(), &tasks).await.unwrap();
    let mut feed = LaneFeed::open(lane, "fast".into(), tasks.stop().clone()).unwrap();
    append(&journal, &registry, 3).await;
    let first = next(&mut feed).await;
    feed.rewind(1);
    let again = next(&mut feed).await;
    assert_eq!(
        first[0].records.iter().map(|row| row.id).collect::<Vec<_>>(),
        again[0].records.iter().map(|row| row.id).collect::<Vec<_>>()
    );
    tasks.stop().cancel();
    while tokio::time::timeout(WAIT, feed.next(1)).await.expect("an answer in time").unwrap().is_some() {}
    assert!(tasks.shut_down(WAIT).await);
}

#[tokio::test]
async fn a_sink_that_is_added_later_owes_only_what_is_still_there() {
    let directory = tempfile::tempdir().unwrap();
    let (journal, registry, tasks) = (journal(directory.path()), registry(), Tasks::new());
    let recipe = Recipe { stream: "s".into(), transforms: Vec::new(), dedup: None };
    let lane = Lane::open(&"s".into(), &journal, &registry, Some(recipe.clone()), &["fast".into()]).await.unwrap();
    start(&lane, Vec::new(), &tasks).await.unwrap();
    let mut feed = LaneFeed::open(lane, "fast".into(), tasks.stop().clone()).unwrap();
    append(&journal, &registry, 4).await;
    take(&mut feed, 5, &mut Vec::new()).await;
    // An empty commit behind the trim tells that it is done.
    let trimmed = async {
        while !journal.read("s", 1, usize::MAX).unwrap().is_empty() {
            journal.append(Append::default()).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(WAIT, trimmed).await.expect("passed blocks are trimmed");
    let lane = Lane::open(&"s".into(), &journal, &registry, Some(recipe), &names()).await.unwrap();
    assert_eq!((lane.skipped("fast"), lane.skipped("slow")), (0, 40));
    assert!(tasks.shut_down(WAIT).await);
}

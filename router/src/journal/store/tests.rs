use std::ops::ControlFlow;

use super::sled::PIECE_LEN;
use super::*;

const ENGINES: [Engine; 2] = [Engine::Sled, Engine::Redb];

fn put(store: &dyn Store, changes: &[(&str, Option<Vec<u8>>)]) {
    let mut batch = Batch::default();
    for (key, value) in changes {
        match value {
            Some(value) => batch.put(key.as_bytes().to_vec(), Bytes::copy_from_slice(value)),
            None => batch.remove(key.as_bytes().to_vec()),
        }
    }
    store.apply(batch).unwrap();
    store.flush().unwrap();
}

fn all(store: &dyn Store, from: &str, to: &str) -> Vec<(String, usize)> {
    let mut all = Vec::new();
    store
        .range(from.as_bytes(), to.as_bytes(), &mut |key, value| {
            all.push((String::from_utf8(key.to_vec()).unwrap(), value.len()));
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

#[test]
fn values_of_every_length_are_kept_replaced_and_removed_whole() {
    let lens = [0, 1, PIECE_LEN - 1, PIECE_LEN, PIECE_LEN + 1, PIECE_LEN + 4, 2 * PIECE_LEN, 10 * PIECE_LEN + 17];
    for engine in ENGINES {
        let directory = tempfile::tempdir().unwrap();
        let value = |len: usize, salt: usize| (0..len).map(|i| (i * 7 + salt) as u8).collect::<Vec<_>>();
        for (salt, len) in lens.into_iter().enumerate() {
            for (next_salt, next_len) in lens.into_iter().enumerate() {
                let store = open(directory.path(), engine, 1 << 20).unwrap();
                put(&*store, &[("a", Some(value(1, 0))), ("k", Some(value(len, salt))), ("z", Some(value(1, 0)))]);
                assert_eq!(store.get(b"k").unwrap().unwrap(), value(len, salt));
                put(&*store, &[("k", Some(value(next_len, next_salt)))]);
                drop(store);
                let store = open(directory.path(), engine, 1 << 20).unwrap();
                assert_eq!(store.get(b"k").unwrap().unwrap(), value(next_len, next_salt));
                assert_eq!(all(&*store, "b", "z"), [("k".to_owned(), next_len)]);
                put(&*store, &[("k", None), ("a", None), ("z", None)]);
                assert_eq!(store.get(b"k").unwrap(), None);
                let mut left = 0;
                let count = &mut |_: &[u8], _| {
                    left += 1;
                    ControlFlow::Continue(())
                };
                store.range(&[0xff], &[0xff; 9], count).unwrap();
                assert_eq!(left, 0, "pieces of a removed value are left");
            }
        }
    }
}

#[test]
fn the_last_change_of_a_batch_to_a_key_counts() {
    for engine in ENGINES {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), engine, 1 << 20).unwrap();
        let long = Some(vec![1; 3 * PIECE_LEN]);
        put(&*store, &[("a", long.clone()), ("a", None), ("b", long), ("b", Some(vec![2]))]);
        assert_eq!(store.get(b"a").unwrap(), None);
        assert_eq!(store.get(b"b").unwrap().unwrap(), [2][..]);
    }
}

#[test]
fn a_torn_snapshot_does_not_keep_sled_from_opening() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Engine::Sled, 1 << 20).unwrap();
    put(&*store, &[("a", Some(vec![1]))]);
    drop(store);
    let torn = engine_directory(directory.path(), Engine::Sled).join("snap.7FFFFFFFFFFFFFFF.generating");
    // What a kill leaves: a part of a snapshot, without its checksum.
    fs::write(&torn, [1; 100]).unwrap();
    let bare = ::sled::Config::new().path(torn.parent().unwrap()).segment_size(8 << 20).open();
    assert!(bare.is_err(), "sled alone opens with a torn snapshot: this hardening is no longer needed");
    let store = open(directory.path(), Engine::Sled, 1 << 20).unwrap();
    assert_eq!(store.get(b"a").unwrap().unwrap(), [1][..]);
    assert!(!torn.exists());
}

#[test]
fn nothing_goes_to_blob_files_whatever_the_length_of_values() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Engine::Sled, 8 << 20).unwrap();
    let blobs = || fs::read_dir(engine_directory(directory.path(), Engine::Sled).join("blobs")).unwrap().count();
    // Neighbours of every length around a piece, inserted, replaced and removed out of order, so that pages split and
    // merge with the largest values they can hold.
    let lens = [PIECE_LEN, PIECE_LEN, PIECE_LEN - 1, PIECE_LEN + 1, 4 * PIECE_LEN, 20 * PIECE_LEN];
    for round in 0..6_usize {
        for i in 0..60_usize {
            let place = (i * 37) % 60;
            let len = lens[(i + round) % lens.len()];
            let value = (round < 4 || place % 3 > 0).then(|| vec![i as u8; len]);
            put(&*store, &[(&format!("b{place:04}"), value)]);
            assert_eq!(blobs(), 0, "round {round}, value {i} of {len} bytes");
        }
    }
}

#[test]
fn a_flush_is_an_fsync() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Engine::Sled, 1 << 20).unwrap();
    for i in 0..10 {
        let before = fsync::calls();
        put(&*store, &[("a", Some(vec![i]))]);
        assert!(fsync::calls() > before, "a flush without an fsync");
    }
}

//! The seen-set: which keys a stream has let through within its window.
//!
//! A record is a duplicate where its key was *kept* at a time less than the window away from its own. Keys are 128-bit
//! hashes, salted by stream, so the set is exact but for a chance of about 1e-19 at ten billion live keys. The set in
//! memory follows the journal: what a block added is in the commit of the block's verdicts (G4), and at start the set
//! is rebuilt from there.
//!
//! Time here is the record's event time where the plugin gave one that is not in the future, else the time the block
//! was received. What has expired is judged by the latest receive time seen, never by the wall clock: a replay decides
//! the same.
//!
//! Limits: `keys_max` keys in memory. Beyond it the oldest bucket goes first, counted and said once per drop.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::journal::SeenKeys;

/// Buckets a window is divided into: expiry drops whole ones.
const BUCKETS_PER_WINDOW: u64 = 16;
/// 16 bytes of key, 4 bytes of seconds since the bucket's start.
const ENTRY_LEN: usize = 20;

/// Hash of what identifies a record.
pub type Key = u128;

/// Hashes the bytes a dedup plugin gave, salted by stream so that no two streams share a key space.
pub fn key(stream: &str, bytes: &[u8]) -> Key {
    xxhash_rust::xxh3::xxh3_128_with_seed(bytes, xxhash_rust::xxh3::xxh3_64(stream.as_bytes()))
}

/// Keys are hashes already: their low half serves as the table's.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 ^= value;
    }
}

/// A key in halves, so that an entry of the table needs 8-byte alignment only.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Halves(u64, u64);

impl std::hash::Hash for Halves {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

fn halves(key: Key) -> Halves {
    Halves(key as u64, (key >> 64) as u64)
}

/// One stream's seen-set.
pub struct SeenSet {
    window_seconds: u64,
    bucket_seconds: u64,
    keys_max: usize,
    /// Key -> when it was last kept, unix seconds.
    seen: HashMap<Halves, u32, BuildHasherDefault<KeyHasher>>,
    /// Latest receive time, unix seconds.
    watermark_seconds: u64,
    /// Buckets starting before this have been dropped.
    expired_before_seconds: u64,
    evicted: u64,
}

impl SeenSet {
    pub fn new(window: Duration, keys_max: usize) -> SeenSet {
        let window_seconds = window.as_secs().max(1);
        SeenSet {
            window_seconds,
            bucket_seconds: (window_seconds / BUCKETS_PER_WINDOW).max(1),
            keys_max: keys_max.max(1),
            seen: HashMap::default(),
            watermark_seconds: 0,
            expired_before_seconds: 0,
            evicted: 0,
        }
    }

    /// Takes keys back from the journal at start, in any order.
    pub fn load(&mut self, keys: &SeenKeys) {
        for entry in keys.entries.chunks_exact(ENTRY_LEN) {
            let (key, offset) = entry.split_at(16);
            let (Ok(key), Ok(offset)) = (key.try_into(), offset.try_into()) else { continue };
            let time = keys.bucket_start_seconds + u64::from(u32::from_le_bytes(offset));
            let kept = self.seen.entry(halves(u128::from_le_bytes(key))).or_default();
            *kept = (*kept).max(time as u32);
        }
    }

    /// Starts deciding the records of a block received at `received_seconds`.
    pub fn block(&mut self, received_seconds: u64) -> BlockKeys<'_> {
        self.watermark_seconds = self.watermark_seconds.max(received_seconds);
        BlockKeys { received_seconds, set: self, added: BTreeMap::new() }
    }

    /// Drops what can no longer matter. Returns the start before which the journal may drop buckets too, where
    /// that has moved.
    pub fn expire(&mut self) -> Option<u64> {
        let horizon = self.watermark_seconds.saturating_sub(self.window_seconds + self.bucket_seconds);
        let mut before = horizon - horizon % self.bucket_seconds;
        if before > self.expired_before_seconds {
            let oldest = self.watermark_seconds.saturating_sub(self.window_seconds);
            self.seen.retain(|_, time| u64::from(*time) > oldest);
        }
        if self.seen.len() > self.keys_max {
            before = before.max(self.evict());
        }
        (before > self.expired_before_seconds).then(|| {
            self.expired_before_seconds = before;
            before
        })
    }

    /// Drops oldest buckets until the set is an eighth under its limit; returns where the rest starts.
    fn evict(&mut self) -> u64 {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for time in self.seen.values() {
            *counts.entry(u64::from(*time) / self.bucket_seconds).or_default() += 1;
        }
        let (mut left, target) = (self.seen.len(), self.keys_max - self.keys_max / 8);
        let mut before = 0;
        for (bucket, count) in counts {
            if left <= target {
                break;
            }
            left -= count;
            before = (bucket + 1) * self.bucket_seconds;
        }
        let len = self.seen.len();
        self.seen.retain(|_, time| u64::from(*time) >= before);
        self.evicted += (len - self.seen.len()) as u64;
        before
    }

    pub fn len(&self) -> usize {
        self.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Keys dropped before their window had passed because of `keys_max`, since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }
}

/// The keys one block adds.
pub struct BlockKeys<'a> {
    set: &'a mut SeenSet,
    received_seconds: u64,
    added: BTreeMap<u64, BytesMut>,
}

impl BlockKeys<'_> {
    /// Whether a record is a duplicate; if not, its key counts as seen from now on.
    pub fn is_duplicate(&mut self, key: Key, event_seconds: Option<u64>, window_seconds: Option<u64>) -> bool {
        let window = window_seconds.unwrap_or(self.set.window_seconds).min(self.set.window_seconds);
        let time = event_seconds.unwrap_or(self.received_seconds).min(self.received_seconds);
        if let Some(&kept) = self.set.seen.get(&halves(key))
            && time.abs_diff(u64::from(kept)) < window
        {
            return true;
        }
        self.set.seen.insert(halves(key), time as u32);
        let start = time - time % self.set.bucket_seconds;
        let entries = self.added.entry(start).or_default();
        entries.put_u128_le(key);
        entries.put_u32_le((time - start) as u32);
        false
    }

    /// What the block's decision has to make durable.
    pub fn finish(self) -> Vec<SeenKeys> {
        let packed = |(bucket_start_seconds, entries): (u64, BytesMut)| SeenKeys {
            bucket_start_seconds,
            entries: Bytes::from(entries),
        };
        self.added.into_iter().map(packed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(window_seconds: u64) -> SeenSet {
        SeenSet::new(Duration::from_secs(window_seconds), 1_000_000)
    }

    #[test]
    fn a_key_is_a_duplicate_within_the_window_only() {
        let mut set = set(3600);
        let mut at = |seconds, key| set.block(seconds).is_duplicate(key, None, None);
        assert!(!at(1_000_000, 1));
        assert!(at(1_000_000, 1));
        assert!(at(1_003_599, 1), "still within, and a duplicate does not extend it");
        assert!(!at(1_003_600, 1), "the window has passed");
        assert!(!at(1_003_600, 2));
    }

    #[test]
    fn a_restart_forgets_nothing() {
        let mut before = set(3600);
        let mut block = before.block(50_000);
        let fresh =
            (0..1000u128).filter(|&key| !block.is_duplicate(key % 700, Some(49_000 + key as u64), None)).count();
        assert_eq!(fresh, 700);
        let mut after = set(3600);
        block.finish().iter().for_each(|keys| after.load(keys));
        assert_eq!(after.len(), before.len());
        let mut block = after.block(50_001);
        assert!((0..700u128).all(|key| block.is_duplicate(key, Some(49_000 + key as u64), None)));
    }

    #[test]
    fn expiry_drops_only_what_no_record_can_meet() {
        let mut set = set(1600);
        let mut reference: HashMap<u128, u64> = HashMap::new();
        let mut state = 9u64;
        for time in (100_000..130_000).step_by(7) {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let key = u128::from(state >> 33) % 400;
            let expected = reference.get(&key).is_some_and(|kept| time - kept < 1600);
            assert_eq!(set.block(time).is_duplicate(key, None, None), expected, "time {time} key {key}");
            if !expected {
                reference.insert(key, time);
            }
            if let Some(before) = set.expire() {
                assert!(before + 1600 <= time);
            }
        }
        assert!(set.len() <= 400);
    }

    #[test]
    fn the_limit_drops_the_oldest_and_says_how_many() {
        let mut set = SeenSet::new(Duration::from_secs(1600), 100);
        for key in 0..150u64 {
            assert!(!set.block(100_000 + key * 10).is_duplicate(u128::from(key), None, None));
        }
        assert!(set.expire().is_some());
        assert!(set.len() <= 100);
        assert_eq!(set.take_evicted() as usize + set.len(), 150);
        assert!(set.block(101_500).is_duplicate(149, None, None), "the newest is still there");
    }
}

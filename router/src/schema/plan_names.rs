//! Finds a name's place: a hash table that is made once and only read.
//!
//! Open addressing with at most half the slots taken. The names come from the schema, never from records, so an input
//! cannot make its probes longer.

#[derive(Debug)]
pub struct Names {
    /// Place + 1 and the name's place in `names`; 0 = free. The length is a power of two.
    slots: Box<[(u32, u32)]>,
    names: Vec<Box<[u8]>>,
}

impl Names {
    /// Where a name comes twice, its first place counts.
    pub fn new<'a>(all: impl Iterator<Item = (&'a [u8], usize)> + Clone) -> Names {
        let len = (all.clone().count() * 2).next_power_of_two();
        let mut names = Names { slots: vec![(0, 0); len].into_boxed_slice(), names: Vec::new() };
        for (name, place) in all {
            let slot = names.slot(name);
            if names.slots[slot].0 == 0 {
                names.slots[slot] = (place as u32 + 1, names.names.len() as u32);
                names.names.push(name.into());
            }
        }
        names
    }

    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        (self.slots[self.slot(name)].0 as usize).checked_sub(1)
    }

    /// The slot that holds the name, or the free one where it belongs.
    #[inline]
    fn slot(&self, name: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = hash(name) as usize & mask;
        loop {
            let (place, at) = self.slots[slot];
            if place == 0 || *self.names[at as usize] == *name {
                return slot;
            }
            slot = (slot + 1) & mask;
        }
    }
}

/// Mixes eight bytes at a time; the top bits are the good ones, so they come down.
#[inline]
fn hash(name: &[u8]) -> u64 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = name.len() as u64;
    let mut chunks = name.chunks_exact(8);
    for chunk in &mut chunks {
        let word = chunk.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
        hash = (hash.rotate_left(5) ^ word).wrapping_mul(MIX);
    }
    let tail = chunks.remainder().iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
    hash = (hash.rotate_left(5) ^ tail).wrapping_mul(MIX);
    hash >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        for count in [0, 1, 2, 3, 100, 1000] {
            let all: Vec<String> = (0..count).map(|i| format!("field_{}", i * 7)).collect();
            let names = Names::new(all.iter().enumerate().map(|(place, name)| (name.as_bytes(), place)));
            for (place, name) in all.iter().enumerate() {
                assert_eq!(names.find(name.as_bytes()), Some(place));
            }
            for other in ["", "field_", "field_1", "field_00"] {
                assert_eq!(names.find(other.as_bytes()), None);
            }
        }
    }

    #[test]
    fn the_first_place_of_a_name_counts() {
        let names = Names::new([(&b"a"[..], 4), (b"b", 5), (b"a", 6)].into_iter());
        assert_eq!(names.find(b"a"), Some(4));
    }
}

use super::cycle::day_directory;
use super::pending::{Pending, Rename};

fn pending() -> Pending {
    let mut pending = Pending::new(9);
    pending.delivered = 300;
    pending.renames.push(Rename { from: "a/.x.tmp".into(), to: "a/x".into() });
    pending
}

/// Version 1 of the state. Later builds must read it: a node may be upgraded between the two commits of a cycle.
const GOLDEN: &[u8] = b"\x01\x09\0\0\0\0\0\0\0\x2c\x01\0\0\0\0\0\0\x01\0\0\0\x08\0\0\0a/.x.tmp\x03\0\0\0a/x";

#[test]
fn the_journaled_state_keeps_its_format() {
    assert_eq!(pending().encode(), GOLDEN);
    let read = Pending::decode(GOLDEN).unwrap();
    assert_eq!((read.through, read.delivered, read.renames), (9, 300, pending().renames));
}

#[test]
fn a_damaged_state_is_refused() {
    for len in 0..GOLDEN.len() {
        assert!(Pending::decode(&GOLDEN[..len]).is_err(), "cut to {len} bytes");
    }
    let refused = |state: &[u8]| Pending::decode(state).unwrap_err();
    assert_eq!(refused(&[GOLDEN, b"x"].concat()), "journaled state has 1 bytes too many");
    assert_eq!(refused(&[2]), "journaled state has format version 2, this build reads 1");
}

#[test]
fn days_are_dates_also_before_1970() {
    let cases = [(0, "date=1970-01-01"), (-1, "date=1969-12-31"), (20_463, "date=2026-01-10")];
    for (day, expected) in cases {
        assert_eq!(day_directory(day), expected);
    }
    // The first and the last day that nanoseconds in 64 bits reach.
    assert_eq!(day_directory(i64::MIN.div_euclid(86_400_000_000_000)), "date=1677-09-21");
    assert_eq!(day_directory(i64::MAX.div_euclid(86_400_000_000_000)), "date=2262-04-11");
}

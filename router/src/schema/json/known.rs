//! The text forms of well-known types: timestamps, durations, field masks.

use super::number;

/// Seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, between which a Timestamp has a text form.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// Ten thousand years.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;
const NANOS: i64 = 1_000_000_000;

/// Reads RFC 3339 as the Protobuf JSON mapping wants it: capital `T` and `Z`, any offset. Digits beyond nanoseconds are
/// cut off; a leap second is the second before it. Returns seconds and nanoseconds.
pub(super) fn parse_timestamp(text: &[u8]) -> Option<(i64, i32)> {
    let (date_time, rest) = text.split_at_checked(19)?;
    let (nanos, rest) = parse_fraction(rest)?;
    let part = |place: std::ops::Range<usize>| parse_digits(&date_time[place]);
    let (year, month, day) = (part(0..4)?, part(5..7)?, part(8..10)?);
    let (hour, minute, second) = (part(11..13)?, part(14..16)?, part(17..19)?);
    let marks = [4, 7, 10, 13, 16].map(|at| date_time[at]);
    let offset = match rest {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (parse_digits(&[*h1, *h2])?, parse_digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let is_time = hour < 24 && minute < 60 && second <= 60;
    let is_date = (1..=12).contains(&month) && (1..=days_in_month(year, month)).contains(&day);
    if marks != *b"--T::" || !is_date || !is_time {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59) - offset;
    TIMESTAMP_SECONDS.contains(&seconds).then_some((seconds, nanos))
}

/// Reads `-1.5s`.
pub(super) fn parse_duration(text: &[u8]) -> Option<(i64, i32)> {
    let (sign, text) = match text {
        [b'-', text @ ..] => (-1, text),
        text => (1, text),
    };
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let seconds = parse_digits(&text[..len])?;
    let (nanos, rest) = parse_fraction(&text[len..])?;
    (rest == b"s" && seconds <= MAX_DURATION_SECONDS).then_some((sign * seconds, sign as i32 * nanos))
}

/// Nanoseconds of `.5`, and what follows; no fraction is 0.
fn parse_fraction(text: &[u8]) -> Option<(i32, &[u8])> {
    let Some(digits) = text.strip_prefix(b".") else { return Some((0, text)) };
    let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        return None;
    }
    let padded = digits[..len].iter().copied().chain(std::iter::repeat(b'0')).take(9);
    Some((padded.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0')), &digits[len..]))
}

/// One to 18 digits.
fn parse_digits(text: &[u8]) -> Option<i64> {
    let is_number = (1..=18).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, counting years from March so that the leap day is the last (Howard Hinnant's algorithm).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date of a day counted from 1970-01-01: year, month, day.
fn date(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// Seconds and nanoseconds of a time in some unit; `power` is that of ten from the unit to nanoseconds.
pub(super) fn from_epoch(text: &[u8], power: u32) -> Option<(i64, i32)> {
    let nanos = number::scaled(text, power as i32, number::Cut::Off)?;
    let seconds = i64::try_from(nanos.div_euclid(i128::from(NANOS))).ok()?;
    TIMESTAMP_SECONDS.contains(&seconds).then_some((seconds, nanos.rem_euclid(i128::from(NANOS)) as i32))
}

/// Appends RFC 3339 text with 0, 3, 6 or 9 digits; `None` where the year is not 1 to 9999.
pub(super) fn push_timestamp(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Option<()> {
    let seconds = seconds.checked_add(i64::from(nanos).div_euclid(NANOS))?;
    let nanos = i64::from(nanos).rem_euclid(NANOS) as u32;
    if !TIMESTAMP_SECONDS.contains(&seconds) {
        return None;
    }
    let (year, month, day) = date(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400) as u32;
    let parts = [(year as u32, 4), (month, 2), (day, 2), (second / 3600, 2), (second / 60 % 60, 2), (second % 60, 2)];
    for ((value, width), mark) in parts.into_iter().zip(*b"--T::\0") {
        number::push_padded(out, value, width);
        out.push(mark);
    }
    out.pop();
    push_fraction(out, nanos);
    out.push(b'Z');
    Some(())
}

/// Appends `-1.500s`; `None` beyond ten thousand years.
pub(super) fn push_duration(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Option<()> {
    let total = i128::from(seconds) * i128::from(NANOS) + i128::from(nanos);
    let whole = total.unsigned_abs() / NANOS as u128;
    if whole > MAX_DURATION_SECONDS as u128 {
        return None;
    }
    if total < 0 {
        out.push(b'-');
    }
    number::push_unsigned(out, whole as u64);
    push_fraction(out, (total.unsigned_abs() % NANOS as u128) as u32);
    out.push(b's');
    Some(())
}

fn push_fraction(out: &mut Vec<u8>, nanos: u32) {
    let (value, width) = match nanos {
        0 => return,
        _ if nanos.is_multiple_of(1_000_000) => (nanos / 1_000_000, 3),
        _ if nanos.is_multiple_of(1_000) => (nanos / 1_000, 6),
        _ => (nanos, 9),
    };
    out.push(b'.');
    number::push_padded(out, value, width);
}

/// Appends a field mask's path in snake case; `None` where it would not turn back.
pub(super) fn push_snake(out: &mut Vec<u8>, path: &[u8]) -> Option<()> {
    for &byte in path {
        match byte {
            b'A'..=b'Z' => out.extend_from_slice(&[b'_', byte.to_ascii_lowercase()]),
            b'_' => return None,
            _ => out.push(byte),
        }
    }
    Some(())
}

/// Appends a field mask's path in camel case; `None` where it would not turn back.
pub(super) fn push_camel(out: &mut Vec<u8>, path: &[u8]) -> Option<()> {
    let mut bytes = path.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'A'..=b'Z' => return None,
            b'_' => match bytes.next() {
                Some(next @ b'a'..=b'z') => out.push(next.to_ascii_uppercase()),
                _ => return None,
            },
            _ => out.push(byte),
        }
    }
    Some(())
}

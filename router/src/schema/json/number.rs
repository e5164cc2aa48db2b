//! Numbers as JSON spells them: `-12.5e3`.
//!
//! Integers are read exactly, also where they are spelled with a fraction or an exponent: going through a float would
//! round what 53 bits cannot hold.

/// Length of the number that `text` starts with; 0 = none. What follows it is the caller's to judge.
pub(super) fn len(text: &[u8]) -> usize {
    let digits = |at: usize| text[at.min(text.len())..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    match digits(at) {
        0 => return 0,
        // 01 is no number: its 1 stands behind the number 0 and is in nobody's place.
        _ if text[at] == b'0' => at += 1,
        count => at += count,
    }
    if text.get(at) == Some(&b'.') {
        match digits(at + 1) {
            0 => return 0,
            count => at += 1 + count,
        }
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        match digits(at + 1 + sign) {
            0 => return 0,
            count => at += 1 + sign + count,
        }
    }
    at
}

/// Whether all of `text` is a number.
pub(super) fn is_number(text: &[u8]) -> bool {
    !text.is_empty() && len(text) == text.len()
}

/// Digits beyond this are zeros, or the number is out of every range.
const MAX_DIGITS: usize = 38;

/// The value of a number (`is_number`) times ten to the `power`; digits below one are cut off if `cut`, else the number is refused.
/// `None` as well beyond 38 digits.
pub(super) fn scaled(text: &[u8], power: i32, cut: Cut) -> Option<i128> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let split = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = split.map_or((text, 0), |at| (&text[..at], exponent(&text[at + 1..])));
    let fraction_len = mantissa.iter().rev().position(|&byte| byte == b'.').unwrap_or(0);
    let mut power = exponent.checked_sub(i32::try_from(fraction_len).ok()?)?.checked_add(power)?;
    let digits = || mantissa.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0');
    let count = digits().count();
    let trailing = digits().rev().take_while(|&digit| digit == 0).count();
    let leading = digits().take_while(|&digit| digit == 0).count();
    if leading == count {
        return Some(0);
    }
    power = power.checked_add(i32::try_from(trailing).ok()?)?;
    let mut kept = count - leading - trailing;
    if power < 0 {
        match cut {
            Cut::Refused => return None,
            Cut::Off => kept = kept.saturating_sub(usize::try_from(-power).ok()?),
        }
        power = 0;
    }
    let power = usize::try_from(power).ok().filter(|power| kept + power <= MAX_DIGITS)?;
    let value = digits().skip(leading).take(kept).fold(0i128, |value, digit| value * 10 + i128::from(digit));
    let value = if kept == 0 { 0 } else { value * 10i128.pow(power as u32) };
    Some(if negative { -value } else { value })
}

/// What becomes of digits below one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    Refused,
    Off,
}

/// Saturates far beyond any range.
fn exponent(text: &[u8]) -> i32 {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    let add = |value: i32, digit: &u8| (value * 10 + i32::from(digit - b'0')).min(1_000_000);
    sign * digits.iter().fold(0, add)
}

/// The integer that a number (`is_number`) spells; `None` where it is not whole or not between `i64::MIN` and `u64::MAX`.
#[inline]
pub(super) fn integer(text: &[u8]) -> Option<i128> {
    // Up to 18 digits and nothing else: nearly always, and it cannot overflow.
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() <= 18 {
        let mut value = 0i64;
        let mut plain = true;
        for &byte in digits {
            plain &= byte.is_ascii_digit();
            value = value.wrapping_mul(10).wrapping_add(i64::from(byte.wrapping_sub(b'0')));
        }
        if plain {
            return Some(i128::from(if negative { -value } else { value }));
        }
    }
    let value = scaled(text, 0, Cut::Refused)?;
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&value).then_some(value)
}

/// `None` where it is beyond the largest double.
pub(super) fn double(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// `None` where it is beyond the largest float.
pub(super) fn float(text: &[u8]) -> Option<f32> {
    let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

/// Appends an integer in decimal.
#[inline]
pub(super) fn push_unsigned(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[inline]
pub(super) fn push_signed(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_unsigned(out, value.unsigned_abs());
}

/// Appends a decimal of at least `width` digits.
#[inline]
pub(super) fn push_padded(out: &mut Vec<u8>, value: u32, width: usize) {
    let mut left = value;
    let start = out.len();
    out.resize(start + width, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (left % 10) as u8;
        left /= 10;
    }
}

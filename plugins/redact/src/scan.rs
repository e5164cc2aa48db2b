//! Finds patterns in text, in one pass and without a regex engine, whose tables would outweigh the whole plugin.
//!
//! Nothing can match but at a digit that starts a run or at an `@`, so all other bytes cost one comparison. Matches are
//! ASCII, do not overlap, and come in order; where two could begin at one place the order is rrn, card, ipv4.

use std::ops::Range;

use sluice_plugin::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pattern {
    Card,
    Email,
    Ipv4,
    Rrn,
}

impl Pattern {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Pattern::Card => "card",
            Pattern::Email => "email",
            Pattern::Ipv4 => "ipv4",
            Pattern::Rrn => "rrn",
        }
    }
}

pub(crate) fn matches<'a>(text: &'a [u8], patterns: &[Pattern]) -> Matches<'a> {
    let wants = |pattern| patterns.contains(&pattern);
    let (card, email, ipv4, rrn) =
        (wants(Pattern::Card), wants(Pattern::Email), wants(Pattern::Ipv4), wants(Pattern::Rrn));
    Matches { text, at: 0, free: 0, email, digits: [rrn, card, ipv4] }
}

pub(crate) struct Matches<'a> {
    text: &'a [u8],
    at: usize,
    /// End of the match before.
    free: usize,
    email: bool,
    /// Which of rrn, card and ipv4 to look for.
    digits: [bool; 3],
}

/// Gives the end of the match that begins at a place.
type Find = fn(&[u8], usize) -> Option<usize>;

const DIGIT_PATTERNS: [(Pattern, Find); 3] = [(Pattern::Rrn, rrn), (Pattern::Card, card), (Pattern::Ipv4, ipv4)];

impl Iterator for Matches<'_> {
    type Item = (Pattern, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        // One tight loop over what cannot match.
        while let Some(skip) = self.text[self.at..].iter().position(|byte| byte.is_ascii_digit() || *byte == b'@') {
            let at = self.at + skip;
            let byte = self.text[at];
            let found = if byte == b'@' && self.email {
                email(self.text, self.free, at).map(|range| (Pattern::Email, range))
            } else if byte.is_ascii_digit() && !preceded_by(self.text, at, |byte| byte.is_ascii_alphanumeric()) {
                self.digits(at)
            } else {
                None
            };
            if let Some((pattern, range)) = found {
                self.at = range.end;
                self.free = range.end;
                return Some((pattern, range));
            }
            self.at = at + 1;
        }
        self.at = self.text.len();
        None
    }
}

impl Matches<'_> {
    fn digits(&self, at: usize) -> Option<(Pattern, Range<usize>)> {
        let wanted = DIGIT_PATTERNS.iter().zip(self.digits).filter(|(_, wanted)| *wanted);
        wanted.map(|(pattern, _)| pattern).find_map(|(pattern, find)| Some((*pattern, at..find(self.text, at)?)))
    }
}

fn preceded_by(text: &[u8], at: usize, test: impl Fn(u8) -> bool) -> bool {
    at > 0 && test(text[at - 1])
}

fn followed_by(text: &[u8], at: usize, test: impl Fn(u8) -> bool) -> bool {
    text.get(at).is_some_and(|&byte| test(byte))
}

/// End of the card number that begins at `at`: 13 to 19 digits, single spaces or dashes between them, Luhn sum 0.
/// Of several the longest.
fn card(text: &[u8], at: usize) -> Option<usize> {
    let mut digits = [0u8; 19];
    let mut ends = [0usize; 19];
    let mut count = 0;
    let mut place = at;
    while count < digits.len() {
        match text.get(place) {
            Some(byte) if byte.is_ascii_digit() => {
                digits[count] = byte - b'0';
                place += 1;
                ends[count] = place;
                count += 1;
            }
            Some(b' ' | b'-') if count > 0 && followed_by(text, place + 1, |byte| byte.is_ascii_digit()) => place += 1,
            _ => break,
        }
    }
    let is_whole = |count: &usize| !followed_by(text, ends[count - 1], |byte| byte.is_ascii_alphanumeric());
    (13..=count).rev().filter(is_whole).find(|&count| has_luhn_sum(&digits[..count])).map(|count| ends[count - 1])
}

fn has_luhn_sum(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &digit)| {
            let digit = u32::from(digit) << (i % 2);
            if digit > 9 { digit - 9 } else { digit }
        })
        .sum();
    // Nineteen zeros have the sum, and are no card.
    sum.is_multiple_of(10) && digits.iter().any(|&digit| digit != 0)
}

/// Four numbers up to 255 with dots between them, and no fifth.
fn ipv4(text: &[u8], at: usize) -> Option<usize> {
    if preceded_by(text, at, |byte| byte == b'.') {
        return None;
    }
    let mut place = at;
    for part in 0..4 {
        if part > 0 {
            if text.get(place) != Some(&b'.') {
                return None;
            }
            place += 1;
        }
        let len = text[place..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        if len == 0 || len > 3 {
            return None;
        }
        let value = text[place..place + len].iter().fold(0u32, |value, byte| value * 10 + u32::from(byte - b'0'));
        if value > 255 {
            return None;
        }
        place += len;
    }
    let is_longer = followed_by(text, place, |byte| byte.is_ascii_alphanumeric())
        || followed_by(text, place, |byte| byte == b'.') && followed_by(text, place + 1, |byte| byte.is_ascii_digit());
    (!is_longer).then_some(place)
}

/// `YYMMDD-GNNNNNN` with a month and day that exist and a G from 1 to 8. The last digit is no longer a checksum for
/// numbers given since October 2020, so it is not tested.
fn rrn(text: &[u8], at: usize) -> Option<usize> {
    const LEN: usize = 14;
    let number: &[u8; LEN] = text.get(at..at + LEN)?.try_into().ok()?;
    let has_form =
        number.iter().enumerate().all(|(i, byte)| if i == 6 { *byte == b'-' } else { byte.is_ascii_digit() });
    if !has_form || followed_by(text, at + LEN, |byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let two = |i: usize| (number[i] - b'0') * 10 + (number[i + 1] - b'0');
    let is_date = (1..=12).contains(&two(2)) && (1..=31).contains(&two(4));
    (is_date && (b'1'..=b'8').contains(&number[7])).then_some(at + LEN)
}

/// The address around the `@` at `at`; its local part begins at `free` or later.
fn email(text: &[u8], free: usize, at: usize) -> Option<Range<usize>> {
    let is_local = |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let mut start = at;
    while start > free && is_local(text[start - 1]) {
        start -= 1;
    }
    // Quotes and key=value forms around an address are not part of it.
    let local = &text[start..at];
    let skip = local.iter().rposition(|byte| b"='`{|/".contains(byte)).map_or(0, |i| i + 1);
    start += skip;
    while start < at && text[start] == b'.' {
        start += 1;
    }
    if start == at || text[at - 1] == b'.' {
        return None;
    }
    let is_domain = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'-' || **byte == b'.';
    let mut end = at + 1 + text[at + 1..].iter().take_while(is_domain).count();
    while end > at + 1 && matches!(text[end - 1], b'.' | b'-') {
        end -= 1;
    }
    let domain = &text[at + 1..end];
    let mut labels = domain.split(|&byte| byte == b'.');
    let is_plausible = labels.all(|label| !label.is_empty()) && domain.contains(&b'.');
    let top = domain.rsplit(|&byte| byte == b'.').next()?;
    (is_plausible && top.len() >= 2 && top.iter().any(u8::is_ascii_alphabetic)).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: Pattern, text: &str, expected: &[&str]) {
        let found: Vec<_> = matches(text.as_bytes(), &[pattern]).map(|(_, range)| &text[range]).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn cards_have_a_luhn_sum() {
        let check = |text, expected: &[&str]| check(Pattern::Card, text, expected);
        check("pay 4111111111111111 now", &["4111111111111111"]);
        check("4111-1111-1111-1111,5500 0000 0000 0004.", &["4111-1111-1111-1111", "5500 0000 0000 0004"]);
        check("amex 378282246310005", &["378282246310005"]);
        check("4111111111111112", &[]);
        check("id4111111111111111", &[]);
        check("4111111111111111x", &[]);
        check("41111111111111110000000", &[]);
        check("4111  1111 1111 1111", &[]);
        check("0000000000000000", &[]);
        check("411111111111", &[]);
        check("4111 1111 1111 1111 77", &["4111 1111 1111 1111"]);
        check("카드 4111111111111111번", &["4111111111111111"]);
    }

    #[test]
    fn emails_are_taken_whole() {
        let check = |text, expected: &[&str]| check(Pattern::Email, text, expected);
        check("from a.b+c@mail.example.com.", &["a.b+c@mail.example.com"]);
        check("<x@y.io>,user='q@w.de';k=z@z.kr", &["x@y.io", "q@w.de", "z@z.kr"]);
        check("a@b", &[]);
        check("@b.com a@ a@.com a@b..com", &[]);
        check("1@2.3 root@10.0.0.1", &[]);
        check("a@b.co@c.de", &["a@b.co"]);
        check("메일:누구a@b.com입니다", &["a@b.com"]);
        check("...@b.com .a@b.com", &["a@b.com"]);
    }

    #[test]
    fn addresses_have_four_parts() {
        let check = |text, expected: &[&str]| check(Pattern::Ipv4, text, expected);
        check("10.0.0.1 -> 255.255.255.255:80", &["10.0.0.1", "255.255.255.255"]);
        check("256.1.1.1 1.2.3 1.2.3.4.5 v1.2.3.4 1.2.3.4x 1.2.3.1234", &[]);
        check("at 1.2.3.4.", &["1.2.3.4"]);
        check("1.2.3.", &[]);
    }

    #[test]
    fn resident_numbers_have_a_date() {
        let check = |text, expected: &[&str]| check(Pattern::Rrn, text, expected);
        check("주민 900101-1234567.", &["900101-1234567"]);
        check("901301-1234567 900132-1234567 900101-9234567 900101-12345678 1900101-1234567 900101 1234567", &[]);
    }

    #[test]
    fn patterns_share_one_pass() {
        let text = "900101-1234567 a@b.com 4111111111111111@c.de 9.9.9.9";
        let all = [Pattern::Email, Pattern::Ipv4, Pattern::Card, Pattern::Rrn];
        let found: Vec<_> = matches(text.as_bytes(), &all).map(|(pattern, _)| pattern).collect();
        assert_eq!(found, [Pattern::Rrn, Pattern::Email, Pattern::Card, Pattern::Ipv4]);
    }

    #[test]
    fn any_bytes_can_be_searched() {
        let all = [Pattern::Email, Pattern::Ipv4, Pattern::Card, Pattern::Rrn];
        // A cheap generator: every text of the alphabet that a seed spells.
        let alphabet = b"0149.-@ a\xff";
        let mut seed = 7u64;
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let text: Vec<u8> = (0..24).map(|i| alphabet[(seed >> (i * 2)) as usize % alphabet.len()]).collect();
            let mut end = 0;
            for (_, range) in matches(&text, &all) {
                assert!(range.start >= end && range.end > range.start && text[range.clone()].is_ascii());
                end = range.end;
            }
        }
    }
}

//! Scalars with a unit or a form of their own, as they stand in the file: sizes, times, addresses, secrets.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not what it should be, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub what: &'static str,
    pub help: &'static str,
}

const SIZE_HELP: &str = "write a whole number and its unit (B, KiB, MiB, GiB, TiB, or KB, MB, GB, TB), as in 64MiB";
const TIME_HELP: &str = "write a whole number and its unit (ms, s, m, h, d), as in 30s";
const ADDRESS_HELP: &str = "write the address to listen on and the port, as in 127.0.0.1:9600 or [::]:9600";

const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

const TIME_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A size in bytes, as in `64MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A length of time, as in `30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// Address and port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

pub const fn kib<const N: u64>() -> ByteSize {
    ByteSize(N << 10)
}

pub const fn mib<const N: u64>() -> ByteSize {
    ByteSize(N << 20)
}

pub const fn gib<const N: u64>() -> ByteSize {
    ByteSize(N << 30)
}

pub const fn millis<const N: u64>() -> Period {
    Period(Duration::from_millis(N))
}

pub const fn seconds<const N: u64>() -> Period {
    Period(Duration::from_secs(N))
}

pub const fn count<const N: u64>() -> u64 {
    N
}

impl ByteSize {
    pub fn parse(text: &str) -> Result<ByteSize, Refusal> {
        let refusal = Refusal { what: "is not a size", help: SIZE_HELP };
        scaled(text, &SIZE_UNITS).map(ByteSize).ok_or(refusal)
    }
}

impl Period {
    pub fn parse(text: &str) -> Result<Period, Refusal> {
        let refusal = Refusal { what: "is not a duration", help: TIME_HELP };
        scaled(text, &TIME_UNITS).map(|millis| Period(Duration::from_millis(millis))).ok_or(refusal)
    }
}

impl Address {
    pub fn parse(text: &str) -> Result<Address, Refusal> {
        let refusal = Refusal { what: "is not an address with a port", help: ADDRESS_HELP };
        text.parse().map(Address).map_err(|_| refusal)
    }
}

/// `text` as a whole number times one of `units`.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

impl fmt::Display for ByteSize {
    /// In the largest binary unit that holds it exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(name, scale): &&(&str, u64)| (name.contains('i') || *scale == 1) && self.0.is_multiple_of(*scale);
        show_scaled(f, self.0, SIZE_UNITS.iter().find(exact).copied().unwrap_or(("B", 1)))
    }
}

impl fmt::Display for Period {
    /// In the largest unit that holds it exactly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let exact = TIME_UNITS.iter().find(|(_, scale)| millis.is_multiple_of(*scale));
        show_scaled(f, millis, exact.copied().unwrap_or(("ms", 1)))
    }
}

fn show_scaled(f: &mut fmt::Formatter<'_>, value: u64, (unit, scale): (&str, u64)) -> fmt::Result {
    if value == 0 {
        let unit = if unit == "d" { "s" } else { "B" };
        return write!(f, "0{unit}");
    }
    write!(f, "{}{unit}", value / scale)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Secret::SHOWN)
    }
}

impl Secret {
    /// What is printed in its place.
    pub const SHOWN: &str = "<redacted>";
}

/// A scalar that is checked by `shape` before it is deserialized; `x-kind` in its schema names it there. The pattern is
/// for editors, which see `${...}` unreplaced.
macro_rules! scalar {
    ($type:ident, $kind:literal, $pattern:literal, $example:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let text = String::deserialize(deserializer)?;
                $type::parse(&text).map_err(|refusal| serde::de::Error::custom(refusal.what))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "x-kind": $kind, "pattern": $pattern, "examples": [$example] })
            }
        }
    };
}

scalar!(ByteSize, "size", "^[0-9]+ *([KMGT]i?)?B$|[$][{]", "64MiB");
scalar!(Period, "time", "^[0-9]+ *(ms|s|m|h|d)$|[$][{]", "30s");
scalar!(Address, "address", "^.+:[0-9]+$|[$][{]", "127.0.0.1:9600");

/// The check that belongs to an `x-kind`; `None` for a kind that has none.
pub fn check(kind: &str, text: &str) -> Option<Refusal> {
    match kind {
        "size" => ByteSize::parse(text).err(),
        "time" => Period::parse(text).err(),
        "address" => Address::parse(text).err(),
        _ => None,
    }
}

/// What to write where a value of this `x-kind` is wanted and something else stands.
pub fn wanted(kind: &str) -> Option<Refusal> {
    match kind {
        "size" => Some(Refusal { what: "has no unit", help: SIZE_HELP }),
        "time" => Some(Refusal { what: "has no unit", help: TIME_HELP }),
        "address" => Some(Refusal { what: "is not an address with a port", help: ADDRESS_HELP }),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Secret::SHOWN)
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true, "examples": ["${env:NAME}", "${file:PATH}"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_show_the_same() {
        for (text, bytes, shown) in [
            ("64MiB", 64 << 20, "64MiB"),
            ("8 GiB", 8 << 30, "8GiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("10MB", 10_000_000, "10000000B"),
            ("0B", 0, "0B"),
            ("1TiB", 1 << 40, "1TiB"),
        ] {
            let size = ByteSize::parse(text).unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(ByteSize::parse(shown), Ok(size));
        }
        for text in ["", "64", "MiB", "64mib", "-1MiB", "1.5GiB", "64MiB ", "99999999999TiB", "64 M"] {
            assert!(ByteSize::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_read_and_show_the_same() {
        for (text, millis, shown) in [
            ("5ms", 5, "5ms"),
            ("30s", 30_000, "30s"),
            ("90m", 5_400_000, "90m"),
            ("24h", 86_400_000, "1d"),
            ("0s", 0, "0s"),
        ] {
            let period = Period::parse(text).unwrap();
            assert_eq!((period.0.as_millis(), period.to_string().as_str()), (millis, shown), "{text}");
            assert_eq!(Period::parse(shown), Ok(period));
        }
        for text in ["", "30", "24x", "1w", "1h30m", "-5s", "99999999999999999d"] {
            assert!(Period::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_secret_is_shown_nowhere() {
        let secret = Secret("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), Secret::SHOWN);
        assert_eq!(serde_json::to_value(&secret).unwrap(), Secret::SHOWN);
    }
}

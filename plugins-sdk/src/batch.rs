//! A batch through a plugin's function: frames in, verdicts and replaced frames out. The same code runs natively in
//! tests and inside the component.

use std::sync::OnceLock;

use crate::config::Setup;
use crate::key::Key;
use crate::record::{Action, Buffers, Record};
use crate::wire::{push_varint, read_varint};
use crate::{Error, Result};

/// What `#[transform]` implements.
pub trait Transform {
    type State: Send + Sync + 'static;
    fn setup(setup: &Setup<'_>) -> Result<Self::State>;
    fn state() -> &'static OnceLock<Self::State>;
    fn apply(state: &Self::State, record: &mut Record<'_>) -> Result<Action>;
}

/// What `#[dedup]` implements.
pub trait Dedup {
    type State: Send + Sync + 'static;
    fn setup(setup: &Setup<'_>) -> Result<Self::State>;
    fn state() -> &'static OnceLock<Self::State>;
    fn key(state: &Self::State, record: &mut Record<'_>, key: &mut Key) -> Result<()>;
}

/// The verdict bytes of the interface.
pub(crate) const KEEP: u8 = 0;
pub(crate) const DROP: u8 = 1;
pub(crate) const REPLACE: u8 = 2;
pub(crate) const SPLIT: u8 = 3;
pub(crate) const FAILED: u8 = 4;

/// A batch that has been through a transform.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Transformed {
    /// Empty where every record is kept.
    pub(crate) verdicts: Vec<u8>,
    pub(crate) replaced: Vec<u8>,
    pub(crate) errors: Vec<(u32, String)>,
}

/// A batch's keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Keyed {
    pub(crate) keys: Vec<u8>,
    pub(crate) times: Vec<u64>,
    pub(crate) windows: Vec<u32>,
    pub(crate) errors: Vec<(u32, String)>,
}

pub(crate) fn transform(
    frames: &[u8],
    count: u32,
    mut apply: impl FnMut(&mut Record<'_>) -> Result<Action>,
) -> Result<Transformed> {
    let mut out = Transformed::default();
    let mut buffers = Buffers::default();
    for (index, message) in messages(frames).enumerate() {
        let mut record = Record::new(message?, &mut buffers);
        let verdict = match apply(&mut record) {
            Ok(Action::Keep) if !record.is_edited() => KEEP,
            Ok(Action::Keep) => {
                push_frame(&mut out.replaced, record.message());
                REPLACE
            }
            Ok(Action::Drop) => DROP,
            // Nothing in its place is a drop, and has to be counted as one.
            Ok(Action::Split(parts)) if parts.is_empty() => DROP,
            Ok(Action::Split(parts)) => {
                push_varint(&mut out.replaced, parts.len() as u64);
                parts.iter().for_each(|part| push_frame(&mut out.replaced, part));
                SPLIT
            }
            Ok(Action::Refuse(reason)) => {
                out.errors.push((index as u32, reason));
                FAILED
            }
            Err(error) => {
                out.errors.push((index as u32, error.to_string()));
                FAILED
            }
        };
        if verdict != KEEP && out.verdicts.is_empty() {
            out.verdicts.reserve_exact(count as usize);
            out.verdicts.resize(index, KEEP);
        }
        if verdict != KEEP || !out.verdicts.is_empty() {
            out.verdicts.push(verdict);
        }
    }
    Ok(out)
}

pub(crate) fn keys(
    frames: &[u8],
    received_nanos: u64,
    mut apply: impl FnMut(&mut Record<'_>, &mut Key) -> Result<()>,
) -> Result<Keyed> {
    let mut out = Keyed::default();
    let mut buffers = Buffers::default();
    let mut key = Key::default();
    for (index, message) in messages(frames).enumerate() {
        key.clear();
        (key.time_seconds, key.window_seconds) = (None, None);
        if let Err(error) = apply(&mut Record::new(message?, &mut buffers), &mut key) {
            out.errors.push((index as u32, error.to_string()));
            key.clear();
        }
        push_frame(&mut out.keys, &key.bytes);
        column(&mut out.times, index, key.time_seconds, received_nanos / 1_000_000_000);
        column(&mut out.windows, index, key.window_seconds, 0);
    }
    Ok(out)
}

/// A column stays empty until the first record has a value; those before and after get the default.
fn column<T: Copy>(column: &mut Vec<T>, index: usize, value: Option<T>, default: T) {
    if value.is_some() && column.is_empty() {
        column.resize(index, default);
    }
    if value.is_some() || !column.is_empty() {
        column.push(value.unwrap_or(default));
    }
}

pub(crate) fn push_frame(out: &mut Vec<u8>, message: &[u8]) {
    push_varint(out, message.len() as u64);
    out.extend_from_slice(message);
}

/// The messages of a buffer of frames. The router has checked the frames; a length that is wrong all the same ends the
/// batch instead of the plugin.
pub(crate) fn messages(frames: &[u8]) -> impl Iterator<Item = Result<&[u8]>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= frames.len() {
            return None;
        }
        let frame = read_varint(frames, at).and_then(|(len, start)| {
            let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len))?;
            Some((frames.get(start..end)?, end))
        });
        match frame {
            Some((message, end)) => {
                at = end;
                Some(Ok(message))
            }
            None => {
                let error = Error::new(format_args!("read batch: broken frame at byte {at}"));
                at = frames.len();
                Some(Err(error))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(messages: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        messages.iter().for_each(|message| push_frame(&mut out, message));
        out
    }

    #[test]
    fn verdicts_start_with_the_first_change() {
        let records: [&[u8]; 7] =
            [b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03", b"\x08\x04", b"\x08\x05", b"\x08\x06"];
        let batch = frames(&records);
        let out = transform(&batch, 7, |record| match record.u64(1)? {
            1 => Ok(Action::Drop),
            2 => record.set_u64(1, 300).map(|()| Action::Keep),
            3 => Ok(Action::Split(vec![b"ab".to_vec(), vec![]])),
            4 => Ok(Action::Refuse("no".into())),
            5 => Err(Error::new("bad")),
            6 => Ok(Action::Split(Vec::new())),
            _ => Ok(Action::Keep),
        })
        .unwrap();
        assert_eq!(out.verdicts, [KEEP, DROP, REPLACE, SPLIT, FAILED, FAILED, DROP]);
        assert_eq!(out.replaced, b"\x03\x08\xac\x02\x02\x02ab\x00");
        assert_eq!(out.errors, [(4, "no".to_owned()), (5, "bad".to_owned())]);
        let kept = transform(&batch, 7, |_| Ok(Action::Keep)).unwrap();
        assert_eq!(kept, Transformed::default());
        assert!(transform(&[5, 1], 1, |_| Ok(Action::Keep)).is_err());
    }

    #[test]
    fn keys_come_one_per_record() {
        let batch = frames(&[b"\x08\x00", b"\x08\x01", b"\x08\x02", b"\x08\x03"]);
        let out = keys(&batch, 9_000_000_000, |record, key| {
            let id = record.u64(1)?;
            if id > 0 {
                key.push([id as u8]);
            }
            if id == 1 {
                key.set_time(5);
            }
            if id == 2 { Err(Error::new("bad")) } else { Ok(()) }
        })
        .unwrap();
        assert_eq!(out.keys, b"\x00\x02\x01\x01\x00\x02\x01\x03");
        assert_eq!(out.times, [9, 5, 9, 9]);
        assert!(out.windows.is_empty());
        assert_eq!(out.errors, [(2, "bad".to_owned())]);
    }
}

//! Reads a request's body into memory, and decompresses it, within bounds.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::Patience;
use super::answer::Problem;

/// Bytes decompressed at a time.
const STEP_LEN: usize = 64 << 10;
/// Largest window that a zstd body may ask for, as a power of two: what the format's authors tell every decoder to
/// support, and every level up to 19 keeps to.
const WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Encoding, Problem> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Encoding::Identity) };
        let value = String::from_utf8_lossy(value.as_bytes());
        match value.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Encoding::Identity),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "zstd" => Ok(Encoding::Zstd),
            _ => Err(Problem::Encoding { found: value.into_owned() }),
        }
    }
}

/// A request's share of the memory in flight.
#[derive(Debug)]
pub(super) struct Share {
    from: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
}

impl Share {
    pub(super) fn new(from: &Arc<Semaphore>) -> Share {
        Share { from: Arc::clone(from), held: None }
    }

    fn len(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Makes it `len` bytes, if it is less. Does not wait: the client is told to.
    fn grow_to(&mut self, len: usize) -> Result<(), Problem> {
        let Some(more) = len.checked_sub(self.len()).filter(|more| *more > 0) else { return Ok(()) };
        let more = u32::try_from(more).map_err(|_| Problem::Busy)?;
        let more = Arc::clone(&self.from).try_acquire_many_owned(more).map_err(|_| Problem::Busy)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }

    pub(super) fn into_held(self) -> Option<OwnedSemaphorePermit> {
        self.held
    }
}

/// Reads a whole body as it comes.
pub(super) async fn read<B>(
    headers: &HeaderMap,
    body: B,
    max: usize,
    share: &mut Share,
    patience: &Patience,
) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let announced = announced.map(|len| usize::try_from(len).unwrap_or(usize::MAX));
    if announced.is_some_and(|len| len > max) {
        return Err(Problem::Large { max });
    }
    // At once, lest several large bodies be read halfway and none to its end.
    share.grow_to(announced.unwrap_or(0))?;
    let mut read = Vec::with_capacity(announced.unwrap_or(0));
    let deadline = Instant::now() + patience.body;
    let slow = |after: Duration| Problem::Slow { seconds: after.as_secs() };
    let mut body = std::pin::pin!(body);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let frame = timeout(patience.pause.min(left), body.frame()).await;
        let Some(frame) = frame.map_err(|_late| slow(patience.body))? else { return Ok(Bytes::from(read)) };
        let frame = frame.map_err(|error| Problem::Body { reason: error.to_string() })?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + data.len() > max {
            return Err(Problem::Large { max });
        }
        share.grow_to(read.len() + data.len())?;
        read.extend_from_slice(&data);
    }
}

/// Decompresses a whole body. Computes: not for the runtime's threads.
pub(super) fn decompress(encoding: Encoding, body: Bytes, max: usize, share: &mut Share) -> Result<Bytes, Problem> {
    let broken = |error: std::io::Error| Problem::Body { reason: format!("{encoding:?}: {error}").to_lowercase() };
    match encoding {
        Encoding::Identity => Ok(body),
        Encoding::Gzip => read_out(flate2::read::MultiGzDecoder::new(&body[..]), body.len(), max, share, broken),
        Encoding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(&body[..]).map_err(broken)?;
            decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
            read_out(decoder, body.len(), max, share, broken)
        }
    }
}

fn read_out(
    mut decoder: impl Read,
    compressed_len: usize,
    max: usize,
    share: &mut Share,
    broken: impl Fn(std::io::Error) -> Problem,
) -> Result<Bytes, Problem> {
    let mut out = Vec::new();
    let mut step = vec![0; STEP_LEN];
    loop {
        let len = decoder.read(&mut step).map_err(&broken)?;
        if len == 0 {
            return Ok(Bytes::from(out));
        }
        if out.len() + len > max {
            return Err(Problem::Large { max });
        }
        share.grow_to(compressed_len + out.len() + len)?;
        out.extend_from_slice(&step[..len]);
    }
}

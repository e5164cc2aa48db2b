//! Frames on a QUIC stream: see the format in [`crate::link`].

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use quinn::{ReadExactError, RecvStream, SendStream};

use super::Error;
use super::message::{Ack, Gap, Hello, LaneOpen, LaneReady, LaneRefused, SchemaOffer, Welcome};
use crate::journal::RAW_MAX_LEN;
use crate::record::Seq;

const HEADER_LEN: usize = 5;
/// Small messages: names and numbers.
const SMALL_MAX_LEN: usize = 4 << 10;
/// Hello and Welcome list lanes and fingerprints.
const GREETING_MAX_LEN: usize = 256 << 10;
/// A descriptor set with all its imports; large ones are a few hundred KiB.
const SCHEMA_MAX_LEN: usize = 8 << 20;
/// A block's stored form: what does not compress grows by less than this share.
const BLOCK_MAX_LEN: usize = RAW_MAX_LEN + RAW_MAX_LEN / 64;
/// Room made at once for a body; more only as its bytes arrive, so that a length alone costs nothing.
const FIRST_ROOM: usize = 512 << 10;

/// What a frame holds; the number is its kind on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Hello = 1,
    Welcome = 2,
    LaneOpen = 3,
    LaneReady = 4,
    LaneRefused = 5,
    Schema = 6,
    Gap = 7,
    Block = 8,
    Ack = 9,
}

impl Kind {
    fn from_wire(kind: u8) -> Result<Kind, Error> {
        let kinds = [
            Kind::Hello,
            Kind::Welcome,
            Kind::LaneOpen,
            Kind::LaneReady,
            Kind::LaneRefused,
            Kind::Schema,
            Kind::Gap,
            Kind::Block,
            Kind::Ack,
        ];
        kinds.into_iter().find(|&known| known as u8 == kind).ok_or(Error::Kind { kind })
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "hello",
            Kind::Welcome => "welcome",
            Kind::LaneOpen => "lane-open",
            Kind::LaneReady => "lane-ready",
            Kind::LaneRefused => "lane-refused",
            Kind::Schema => "schema",
            Kind::Gap => "gap",
            Kind::Block => "block",
            Kind::Ack => "ack",
        }
    }

    /// Longest body that is read.
    pub fn max_len(self) -> usize {
        match self {
            Kind::Hello | Kind::Welcome => GREETING_MAX_LEN,
            Kind::Schema => SCHEMA_MAX_LEN,
            Kind::Block => BLOCK_MAX_LEN,
            Kind::LaneOpen | Kind::LaneReady | Kind::LaneRefused | Kind::Gap | Kind::Ack => SMALL_MAX_LEN,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    Hello(Hello),
    Welcome(Welcome),
    LaneOpen(LaneOpen),
    LaneReady(LaneReady),
    LaneRefused(LaneRefused),
    Schema(SchemaOffer),
    Gap(Gap),
    /// A block as it lies in the edge's journal. `seq` repeats the one in its header.
    Block {
        seq: Seq,
        stored: Bytes,
    },
    Ack(Ack),
}

impl Frame {
    pub fn kind(&self) -> Kind {
        match self {
            Frame::Hello(_) => Kind::Hello,
            Frame::Welcome(_) => Kind::Welcome,
            Frame::LaneOpen(_) => Kind::LaneOpen,
            Frame::LaneReady(_) => Kind::LaneReady,
            Frame::LaneRefused(_) => Kind::LaneRefused,
            Frame::Schema(_) => Kind::Schema,
            Frame::Gap(_) => Kind::Gap,
            Frame::Block { .. } => Kind::Block,
            Frame::Ack(_) => Kind::Ack,
        }
    }

    /// The error of a frame that is not due.
    pub fn unexpected(&self, expected: &'static str) -> Error {
        Error::Unexpected { expected, found: self.kind().name() }
    }

    /// The frame's bytes, in two parts so that a block is not copied.
    pub fn encode(&self) -> [Bytes; 2] {
        match self {
            Frame::Hello(message) => self.encode_message(message),
            Frame::Welcome(message) => self.encode_message(message),
            Frame::LaneOpen(message) => self.encode_message(message),
            Frame::LaneReady(message) => self.encode_message(message),
            Frame::LaneRefused(message) => self.encode_message(message),
            Frame::Schema(message) => self.encode_message(message),
            Frame::Gap(message) => self.encode_message(message),
            Frame::Ack(message) => self.encode_message(message),
            Frame::Block { seq, stored } => {
                let mut head = BytesMut::with_capacity(HEADER_LEN + 8);
                head.put_u32_le((8 + stored.len()) as u32);
                head.put_u8(Kind::Block as u8);
                head.put_u64_le(*seq);
                [head.freeze(), stored.clone()]
            }
        }
    }

    fn encode_message(&self, message: &impl prost::Message) -> [Bytes; 2] {
        let len = message.encoded_len();
        let mut out = BytesMut::with_capacity(HEADER_LEN + len);
        out.put_u32_le(len as u32);
        out.put_u8(self.kind() as u8);
        out.put_slice(&message.encode_to_vec());
        [out.freeze(), Bytes::new()]
    }

    /// Reads a body. The block of a block frame shares `body`; it is not checked here.
    pub fn decode(kind: Kind, body: Bytes) -> Result<Frame, Error> {
        let wrong = |source| Error::Message { kind: kind.name(), source };
        Ok(match kind {
            Kind::Hello => Frame::Hello(Hello::decode(body).map_err(wrong)?),
            Kind::Welcome => Frame::Welcome(Welcome::decode(body).map_err(wrong)?),
            Kind::LaneOpen => Frame::LaneOpen(LaneOpen::decode(body).map_err(wrong)?),
            Kind::LaneReady => Frame::LaneReady(LaneReady::decode(body).map_err(wrong)?),
            Kind::LaneRefused => Frame::LaneRefused(LaneRefused::decode(body).map_err(wrong)?),
            Kind::Schema => Frame::Schema(SchemaOffer::decode(body).map_err(wrong)?),
            Kind::Gap => Frame::Gap(Gap::decode(body).map_err(wrong)?),
            Kind::Ack => Frame::Ack(Ack::decode(body).map_err(wrong)?),
            Kind::Block => {
                let seq = body.first_chunk::<8>().ok_or(Error::Short { len: body.len() })?;
                Frame::Block { seq: Seq::from_le_bytes(*seq), stored: body.slice(8..) }
            }
        })
    }
}

/// Kind and length of the frame that comes next, within bounds.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub kind: Kind,
    pub len: usize,
}

/// Reads frames off a stream. Its futures are not cancel safe: a reader that was dropped inside a frame is of no use.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
}

impl FrameReader {
    pub fn new(stream: RecvStream) -> FrameReader {
        FrameReader { stream }
    }

    /// The next frame; `None` where the peer ended the stream between frames.
    pub async fn next(&mut self) -> Result<Option<Frame>, Error> {
        match self.header().await? {
            Some(header) => Ok(Some(self.body(header).await?)),
            None => Ok(None),
        }
    }

    /// The first half of `next`, for a reader that wants to make room before it takes the body.
    pub async fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut header = [0; HEADER_LEN];
        match self.stream.read_exact(&mut header).await {
            Ok(()) => {}
            Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(ReadExactError::FinishedEarly(_)) => return Err(Error::Cut),
            Err(ReadExactError::ReadError(error)) => return Err(error.into()),
        }
        let [a, b, c, d, kind] = header;
        let kind = Kind::from_wire(kind)?;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > kind.max_len() {
            return Err(Error::Length { kind: kind.name(), len, max: kind.max_len() });
        }
        Ok(Some(Header { kind, len }))
    }

    /// The second half of `next`.
    pub async fn body(&mut self, header: Header) -> Result<Frame, Error> {
        let mut body = BytesMut::with_capacity(header.len.min(FIRST_ROOM));
        while body.len() < header.len {
            let chunk = self.stream.read_chunk(header.len - body.len(), true).await?.ok_or(Error::Cut)?;
            body.extend_from_slice(&chunk.bytes);
        }
        Frame::decode(header.kind, body.freeze())
    }
}

/// Writes one frame. On return it is in the stream's send buffer.
pub async fn write(stream: &mut SendStream, frame: &Frame) -> Result<(), Error> {
    let mut parts = frame.encode();
    stream.write_all_chunks(&mut parts).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were() {
        let frames = [
            Frame::Hello(Hello { major: 1, agent: "edge-1".into(), epoch: 7, ..Hello::default() }),
            Frame::Welcome(Welcome { accepted: true, known: vec![Bytes::from_static(&[1; 16])], ..Welcome::default() }),
            Frame::LaneOpen(LaneOpen { stream: "playback".into(), epoch: 7 }),
            Frame::LaneReady(LaneReady { last: u64::MAX }),
            Frame::LaneRefused(LaneRefused { reason: "no".into(), retryable: true }),
            Frame::Schema(SchemaOffer { message: "a.B".into(), ..SchemaOffer::default() }),
            Frame::Gap(Gap { next: 9 }),
            Frame::Block { seq: 3, stored: Bytes::from_static(b"stored") },
            Frame::Ack(Ack { seq: 3 }),
        ];
        for frame in frames {
            let wire: Vec<u8> = frame.encode().iter().flatten().copied().collect();
            let len = u32::from_le_bytes(wire[..4].try_into().unwrap()) as usize;
            assert_eq!(len, wire.len() - HEADER_LEN, "{frame:?}");
            let kind = Kind::from_wire(wire[4]).unwrap();
            assert_eq!(Frame::decode(kind, Bytes::from(wire).slice(HEADER_LEN..)).unwrap(), frame);
        }
    }

    #[test]
    fn damaged_bodies_are_refused() {
        assert!(matches!(Frame::decode(Kind::Block, Bytes::from_static(b"1234567")), Err(Error::Short { len: 7 })));
        assert!(matches!(Frame::decode(Kind::Ack, Bytes::from_static(b"\x0f")), Err(Error::Message { .. })));
        assert!(matches!(Kind::from_wire(0), Err(Error::Kind { kind: 0 })));
        assert!(matches!(Kind::from_wire(10), Err(Error::Kind { kind: 10 })));
    }
}

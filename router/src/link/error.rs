//! What can go wrong on the link, in words for the operator of either end.

use std::net::SocketAddr;
use std::path::PathBuf;

use quinn::{ConnectionError, VarInt};

use crate::journal::BlockError;

/// Why one end closed a connection, as a QUIC application error code. The reason phrase says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CloseCode {
    /// The process is shutting down.
    Stopping = 0,
    /// Hello was not accepted.
    Refused = 1,
    /// The peer broke the protocol or sent damaged data.
    Protocol = 2,
    /// A newer connection of the same agent took over.
    Superseded = 3,
    /// Central's journal stopped: nothing can be acknowledged.
    Journal = 4,
}

impl CloseCode {
    pub fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key file cannot be used.
    #[error("read {what} {path}: {problem}")]
    File { what: &'static str, path: PathBuf, problem: String },
    #[error("set up tls with {path}")]
    Tls {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("set up tls: {reason}")]
    Crypto { reason: String },
    #[error("listen on {address}")]
    Bind {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("open {count} lanes on one link: at most {max}")]
    Lanes { count: usize, max: u32 },
    #[error("read schemas for the link")]
    Journal {
        #[source]
        source: crate::journal::Error,
    },
    /// The stream or connection ended: reconnect.
    #[error("link lost: {reason}")]
    Lost { reason: String },
    #[error("read frame: kind {kind} is unknown")]
    Kind { kind: u8 },
    #[error("read frame {kind}: {len} bytes are more than {max}")]
    Length { kind: &'static str, len: usize, max: usize },
    #[error("read frame: stream ended inside of it")]
    Cut,
    #[error("read frame {kind}")]
    Message {
        kind: &'static str,
        #[source]
        source: prost::DecodeError,
    },
    #[error("read frame block: {len} bytes are too few")]
    Short { len: usize },
    #[error("read block {seq}")]
    Block {
        seq: u64,
        #[source]
        source: BlockError,
    },
    #[error("read frame: {found} where {expected} is due")]
    Unexpected { expected: &'static str, found: &'static str },
    /// The peer did something the protocol forbids.
    #[error("{reason}")]
    Protocol { reason: String },
}

impl Error {
    /// The error with its sources on one line, for a log field or a close reason.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

impl From<quinn::ReadError> for Error {
    fn from(error: quinn::ReadError) -> Error {
        match error {
            quinn::ReadError::ConnectionLost(error) => error.into(),
            other => Error::Lost { reason: other.to_string() },
        }
    }
}

impl From<quinn::WriteError> for Error {
    fn from(error: quinn::WriteError) -> Error {
        match error {
            quinn::WriteError::ConnectionLost(error) => error.into(),
            other => Error::Lost { reason: other.to_string() },
        }
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Error {
        Error::Lost { reason: explain(&error) }
    }
}

/// TLS alerts arrive as QUIC errors from here on (RFC 9001, section 4.8).
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// Why a connection ended, in words that name the side whose certificate is at fault.
pub fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TransportError(error) if CRYPTO_ERRORS.contains(&u64::from(error.code)) => {
            format!("the peer's certificate or tls version is not accepted here: {}", error.reason)
        }
        ConnectionError::ConnectionClosed(close) if CRYPTO_ERRORS.contains(&u64::from(close.error_code)) => {
            format!("the peer does not accept this side's certificate or tls version: {close}")
        }
        ConnectionError::ApplicationClosed(close) => {
            format!("closed by the peer: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TimedOut => "no answer: timed out".to_owned(),
        other => other.to_string(),
    }
}

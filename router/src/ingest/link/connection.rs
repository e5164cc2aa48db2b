//! One edge's connection: handshake, greeting, and its lanes until it ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::turns::Edge;
use super::{GREETING_TIMEOUT, LARGE_BLOCKS_MAX, STOP_GRACE, Shared, lane};
use crate::journal::NAME_MAX_LEN;
use crate::link::frame::{self, Frame, FrameReader};
use crate::link::message::{Hello, Welcome, fingerprint};
use crate::link::{CloseCode, Error, PROGRAM, PROTOCOL_MAJOR, PROTOCOL_MINOR, explain, tls};

/// A greeted edge.
pub(super) struct Peer {
    pub(super) edge: Edge,
    /// DNS names of its certificate: the agents it speaks for. A renamed edge has two for as long as its journal holds
    /// blocks under the old name.
    pub(super) names: Vec<String>,
    pub(super) generation: u64,
    pub(super) connection: quinn::Connection,
    /// Permits for large blocks being read.
    pub(super) large: Arc<Semaphore>,
}

/// The control stream; nothing is sent on it after the greeting, but closing it early would look like an error.
type Control = (SendStream, FrameReader);

/// Serves a connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, incoming: quinn::Incoming) {
    let remote = incoming.remote_address();
    let connection = match handshake(incoming).await {
        Ok(connection) => connection,
        Err(reason) => {
            if let Some(not_logged) = shared.note_failure() {
                tracing::warn!(%remote, reason, not_logged, "link handshake failed");
            }
            return;
        }
    };
    match greet(&shared, &connection).await {
        Ok((peer, hello, _control)) => {
            let (agent, epoch) = (&peer.edge.0, peer.edge.1);
            tracing::info!(agent = %agent, epoch, %remote, program = hello.program, lanes = ?hello.lanes, "edge connected");
            let peer = Arc::new(peer);
            let reason = serve_lanes(&shared, &peer).await;
            shared.turns.leave(&peer.edge, peer.generation);
            tracing::info!(agent = %peer.edge.0, %remote, reason, "edge disconnected");
        }
        Err(error) => {
            let reason = error.chain();
            tracing::warn!(%remote, reason, "edge refused");
            connection.close(CloseCode::Refused.code(), close_reason(&reason));
        }
    }
}

/// A close reason has to fit into one packet.
pub(super) fn close_reason(text: &str) -> &[u8] {
    let end = text.len().min(900);
    &text.as_bytes()[..end]
}

async fn handshake(incoming: quinn::Incoming) -> Result<quinn::Connection, String> {
    let connecting = incoming.accept().map_err(|error| explain(&error))?;
    match timeout(GREETING_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err("timed out".to_owned()),
    }
}

/// Hello and Welcome. A refusal is told to the edge before it is returned.
async fn greet(shared: &Shared, connection: &quinn::Connection) -> Result<(Peer, Hello, Control), Error> {
    let slow = |_| Error::Protocol { reason: "no hello in time".to_owned() };
    let names = certificate_names(connection)?;
    let (mut send, recv) = timeout(GREETING_TIMEOUT, connection.accept_bi()).await.map_err(slow)??;
    let mut reader = FrameReader::new(recv);
    let hello = match timeout(GREETING_TIMEOUT, reader.next()).await.map_err(slow)?? {
        Some(Frame::Hello(hello)) => hello,
        Some(other) => return Err(other.unexpected("hello")),
        None => return Err(Error::Cut),
    };
    if let Some(refusal) = refusal(&hello, &names) {
        let reason = format!("edge {:?}: {refusal}", hello.agent);
        frame::write(&mut send, &Frame::Welcome(Welcome { refusal, ..welcome(false) })).await?;
        // Closing at once would overtake the welcome.
        let _ = send.finish();
        let _ = timeout(GREETING_TIMEOUT, connection.closed()).await;
        return Err(Error::Protocol { reason });
    }
    let edge = (Arc::from(hello.agent.as_str()), hello.epoch);
    let generation = shared.generation.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(older) = shared.turns.enter(Edge::clone(&edge), generation, connection.clone()) {
        older.close(CloseCode::Superseded.code(), b"a newer connection of the same agent took over");
    }
    let is_known = |bytes: &bytes::Bytes| fingerprint(bytes).is_some_and(|known| shared.schemas.knows(known));
    let known = hello.fingerprints.iter().filter(|bytes| is_known(bytes)).cloned().collect();
    if let Err(error) = frame::write(&mut send, &Frame::Welcome(Welcome { known, ..welcome(true) })).await {
        shared.turns.leave(&edge, generation);
        return Err(error);
    }
    let large = Arc::new(Semaphore::new(LARGE_BLOCKS_MAX));
    let peer = Peer { edge, names, generation, connection: connection.clone(), large };
    Ok((peer, hello, (send, reader)))
}

fn welcome(accepted: bool) -> Welcome {
    Welcome {
        major: PROTOCOL_MAJOR,
        minor: PROTOCOL_MINOR,
        accepted,
        program: PROGRAM.to_owned(),
        known: Vec::new(),
        refusal: String::new(),
    }
}

/// Why a hello is not accepted, for the edge's operator.
fn refusal(hello: &Hello, names: &[String]) -> Option<String> {
    if hello.major != PROTOCOL_MAJOR {
        return Some(format!(
            "link protocol {}.{} ({}) is spoken there, {PROTOCOL_MAJOR}.{PROTOCOL_MINOR} ({PROGRAM}) here: update the older",
            hello.major, hello.minor, hello.program
        ));
    }
    if hello.agent.is_empty() || hello.agent.len() > NAME_MAX_LEN {
        return Some(format!("the agent id has {} bytes, allowed are 1 to {NAME_MAX_LEN}", hello.agent.len()));
    }
    if !names.contains(&hello.agent) {
        return Some(format!(
            "the agent calls itself {:?}, but its certificate is for {names:?}: make one with `sluice pki agent {}`",
            hello.agent, hello.agent
        ));
    }
    None
}

fn certificate_names(connection: &quinn::Connection) -> Result<Vec<String>, Error> {
    let wrong = |reason: &str| Error::Protocol { reason: format!("read the edge's certificate: {reason}") };
    let identity = connection.peer_identity().ok_or_else(|| wrong("there is none"))?;
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| wrong("it is not X.509"))?;
    let leaf = chain.first().ok_or_else(|| wrong("there is none"))?;
    tls::dns_names(leaf).map_err(|error| wrong(&error))
}

/// Starts a task for each lane stream; returns why the connection ended, when all its lanes have ended.
async fn serve_lanes(shared: &Arc<Shared>, peer: &Arc<Peer>) -> String {
    let stop = shared.tasks.stop();
    let mut lanes: FuturesUnordered<JoinHandle<()>> = FuturesUnordered::new();
    // The edge's stream credit bounds how many there can be.
    let reason = loop {
        tokio::select! {
            accepted = peer.connection.accept_bi() => match accepted {
                Ok((send, recv)) => lanes.push(start_lane(shared, peer, send, recv)),
                Err(error) => break explain(&error),
            },
            Some(_) = lanes.next(), if !lanes.is_empty() => {}
            () = stop.cancelled() => break "central is stopping".to_owned(),
        }
    };
    let ended = async { while lanes.next().await.is_some() {} };
    if stop.is_cancelled() {
        let _ = timeout(STOP_GRACE, ended).await;
        peer.connection.close(CloseCode::Stopping.code(), b"central is stopping");
    } else {
        ended.await;
    }
    reason
}

fn start_lane(shared: &Arc<Shared>, peer: &Arc<Peer>, send: SendStream, recv: RecvStream) -> JoinHandle<()> {
    let (tasks, shared, peer) = (&shared.tasks, Arc::clone(shared), Arc::clone(peer));
    let tasks = tasks.clone();
    tasks.spawn("link lane", lane::serve(shared, peer, send, FrameReader::new(recv)))
}

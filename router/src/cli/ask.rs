//! Asks a running node's admin port.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Longest wait for the node to take the connection, and for each part of its answer.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Largest answer: some 100,000 streams.
const ANSWER_MAX_BYTES: u64 = 64 << 20;

/// Body of what the node at `admin` answers to a GET of `path`.
pub(super) fn get(admin: &str, path: &str) -> anyhow::Result<String> {
    let address = admin.to_socket_addrs().context("resolve address")?.next().context("resolve address: none found")?;
    let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX).context("connect (is the node up?)")?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    // Version 1.0: the answer comes whole, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {admin}\r\n\r\n").context("send request")?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer).context("read answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("read answer: it is cut short")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the node answered {status}: {}", body.trim_end());
    }
    Ok(body.to_owned())
}

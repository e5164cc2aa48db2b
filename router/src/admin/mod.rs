//! What is seen from outside: /livez, /readyz, /metrics, /ledger.
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
}

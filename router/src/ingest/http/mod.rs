//! Accepts records over HTTP.
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    /// Larger bodies are answered 413.
    pub body_max_bytes: usize,
    /// Bodies being handled at once, in bytes; beyond it requests are answered 429.
    pub in_flight_max_bytes: usize,
    pub gather: super::gather::Settings,
}

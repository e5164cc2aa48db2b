//! Both ends of the link together, over real QUIC on loopback.

mod fixture;
mod hostile;
mod proxy;
mod schemas;
mod transfer;

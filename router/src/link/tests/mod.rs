//! Both ends of the link together, over real QUIC on loopback.

mod fixture;
mod full;
mod hostile;
mod proxy;
mod schemas;
mod transfer;

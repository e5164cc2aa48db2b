//! A UDP proxy between the ends that loses packets, goes dark, and can be pointed elsewhere.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

use super::fixture::Random;
use crate::tasks::Tasks;

pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    target: SocketAddr,
    is_dark: bool,
    /// Packets lost of a hundred.
    loss_percent: u64,
    random: Random,
}

impl State {
    fn passes(&mut self) -> bool {
        !self.is_dark && self.random.below(100) >= self.loss_percent
    }
}

impl Proxy {
    /// Its tasks end with the test's runtime.
    pub(super) async fn start(target: SocketAddr, loss_percent: u64, seed: u64) -> Proxy {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { target, is_dark: false, loss_percent, random: Random(seed) }));
        let tasks = Tasks::new();
        let (inner, starter) = (Arc::clone(&state), tasks.clone());
        tasks.spawn("proxy", async move {
            let mut upstreams: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut packet = vec![0; 65_536];
            while let Ok((len, client)) = socket.recv_from(&mut packet).await {
                let target = {
                    let mut state = inner.lock().unwrap();
                    state.passes().then_some(state.target)
                };
                let Some(target) = target else { continue };
                if let Entry::Vacant(vacant) = upstreams.entry(client) {
                    let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    let (back, socket, inner) = (Arc::clone(&upstream), Arc::clone(&socket), Arc::clone(&inner));
                    starter.spawn("proxy back", async move {
                        let mut packet = vec![0; 65_536];
                        while let Ok(len) = back.recv(&mut packet).await {
                            if inner.lock().unwrap().passes() {
                                let _ = socket.send_to(&packet[..len], client).await;
                            }
                        }
                    });
                    vacant.insert(upstream);
                }
                let _ = upstreams[&client].send_to(&packet[..len], target).await;
            }
        });
        Proxy { address, state }
    }

    pub(super) fn set_dark(&self, is_dark: bool) {
        self.state.lock().unwrap().is_dark = is_dark;
    }

    pub(super) fn set_target(&self, target: SocketAddr) {
        self.state.lock().unwrap().target = target;
    }
}

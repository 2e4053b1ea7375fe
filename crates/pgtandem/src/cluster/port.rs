//! TCP ports for our servers.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below the ports the kernel gives to outgoing connections (32768 up on Linux): a server that is
/// down for a while must find its port free when it comes back.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that was free a moment ago and that no other server of this process has.
#[derive(Debug)]
pub(super) struct Port(u16);

impl Port {
    pub fn reserve() -> Port {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        // Processes start at different places, so they seldom look at the same port at once.
        let seed = uuid::Uuid::new_v4().as_u128();
        let width = RANGE.end - RANGE.start;
        let first = (seed % u128::from(width)) as u16;
        let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let port = (0..width)
            .map(|step| RANGE.start + (first + step) % width)
            .find(|port| !taken.contains(port) && free(port))
            // The server will say that it is taken.
            .unwrap_or(RANGE.start + first);
        taken.insert(port);
        Port(port)
    }

    pub fn number(&self) -> u16 {
        self.0
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

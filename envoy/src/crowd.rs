//! Many requests at once over few connections: HTTP/2, so that sockets are not what bounds them.

use std::net::SocketAddr;

use crate::client::{Connection, Pending, Protocol, Request};

/// Clients that share a few HTTP/2 connections; dropping it closes them.
#[derive(Debug)]
pub struct Crowd(Vec<Connection>);

impl Crowd {
    /// Opens so many connections to `address`.
    ///
    /// # Errors
    /// If one can't be made.
    pub fn open(address: SocketAddr, connections: usize) -> anyhow::Result<Self> {
        let open = |_| Connection::open(address, Protocol::H2);
        (0..connections.max(1))
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Sends all of `requests` at once, spread over the connections, without waiting for the
    /// responses; these are in the requests' order.
    pub fn start(&self, requests: impl IntoIterator<Item = Request>) -> Vec<Pending> {
        let connections = self.0.iter().cycle();
        let pairs = requests.into_iter().zip(connections);
        pairs
            .map(|(request, connection)| connection.start(request))
            .collect()
    }
}

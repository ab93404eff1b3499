//! The UDP services.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UdpSocket;

use super::super::datagrams;
use super::{Book, Network, port};
use crate::pattern;

/// The largest payload of a UDP datagram over IPv4, in bytes.
const LARGEST: usize = 65_507;

#[derive(Debug, Clone, Copy)]
enum Service {
    Echo,
    Discard,
    Client,
    OtherPort,
    OtherAddress,
    Sized,
    Burst,
}

const SERVICES: [(u16, Service); 7] = [
    (port::ECHO, Service::Echo),
    (port::DISCARD, Service::Discard),
    (port::CLIENT, Service::Client),
    (port::FROM_OTHER_PORT, Service::OtherPort),
    (port::FROM_OTHER_ADDRESS, Service::OtherAddress),
    (port::SIZED, Service::Sized),
    (port::BURST, Service::Burst),
];

/// Starts the services on all `addresses`; must run inside a runtime.
pub(super) fn start(addresses: &[IpAddr], book: &Arc<Book>) -> io::Result<()> {
    for (port, service) in SERVICES {
        let sockets: Vec<Arc<UdpSocket>> = addresses
            .iter()
            .map(|address| datagrams(SocketAddr::new(*address, port)).map(Arc::new))
            .collect::<io::Result<_>>()?;
        for (index, address) in addresses.iter().enumerate() {
            let other = match service {
                Service::OtherPort => Some(Arc::new(datagrams(SocketAddr::new(*address, port::STRANGER))?)),
                Service::OtherAddress => other_address(addresses, index).map(|at| sockets[at].clone()),
                _ => None,
            };
            let (socket, book) = (sockets[index].clone(), book.clone());
            let server = SocketAddr::new(*address, port);
            tokio::spawn(async move {
                let mut buffer = vec![0; 65_536];
                loop {
                    // An error here is an ICMP message about an earlier answer; the next datagram is none the worse.
                    let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
                    book.enter(Network::Udp, server, client).add_bytes(length);
                    answer(service, &socket, other.as_deref(), client, &buffer[..length]).await;
                }
            });
        }
    }
    Ok(())
}

/// The place of the next address of the same family.
fn other_address(addresses: &[IpAddr], index: usize) -> Option<usize> {
    let count = addresses.len();
    (1..count)
        .map(|step| (index + step) % count)
        .find(|at| addresses[*at].is_ipv4() == addresses[index].is_ipv4())
}

async fn answer(
    service: Service,
    socket: &UdpSocket,
    other: Option<&UdpSocket>,
    client: SocketAddr,
    data: &[u8],
) {
    // An answer that cannot be sent is a lost datagram.
    match service {
        Service::Echo => drop(socket.send_to(data, client).await),
        Service::Discard => {}
        Service::Client => drop(socket.send_to(format!("{client}\n").as_bytes(), client).await),
        Service::OtherPort | Service::OtherAddress => {
            if let Some(other) = other {
                let _ = other.send_to(data, client).await;
            }
        }
        Service::Sized => {
            let bytes = pattern::bytes(number(data).min(LARGEST));
            let _ = socket.send_to(&bytes, client).await;
        }
        Service::Burst => {
            for index in 0..number(data) {
                let _ = socket.send_to(index.to_string().as_bytes(), client).await;
            }
        }
    }
}

fn number(data: &[u8]) -> usize {
    std::str::from_utf8(data).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

//! Our own sockets by what their packets look like, so that one that comes back is known at sight.

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;

use crate::handle::{Handle, Stage};

/// What a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A SYN without ACK, which begins a connection, and its sequence number.
    Syn(u32),
    /// A reset.
    Reset,
    /// TCP: any other segment.
    Tcp,
    /// UDP.
    Udp,
}

/// A socket. TCP: both ends, since the kernel gives one port to several connections. UDP: the port; its address, which
/// changes as it is connected, is asked for when a packet has that port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Tcp {
        own: (IpAddr, u16),
        peer: (IpAddr, u16),
    },
    Udp {
        v4: bool,
        port: u16,
    },
    /// Of another network namespace, with an address that somebody else may have here: its packets cannot come back.
    Elsewhere(u64),
}

const SHARDS: usize = 16;

/// The sockets that are alive.
#[derive(Debug)]
pub(crate) struct Registry {
    shards: Vec<Mutex<HashMap<Key, Handle>>>,
    hasher: DefaultHashBuilder,
    elsewhere: AtomicU64,
}

/// Whose a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Not ours.
    Other,
    /// Ours.
    Own,
    /// Ours, if its source is an address of this host.
    OwnIfLocal,
    /// Somebody else's as it looks, and ours if something on the way has given it its source, which then is an address of
    /// this host. It goes nowhere, and nothing follows from it: anybody can send the like.
    Doubtful,
}

impl Default for Registry {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: DefaultHashBuilder::default(), elsewhere: AtomicU64::new(0) }
    }
}

impl Registry {
    /// Enters a TCP socket from this address to that.
    pub(crate) fn tcp(self: &Arc<Self>, own: SocketAddr, peer: SocketAddr, handle: Handle) -> Registered {
        self.enter(Key::Tcp { own: (own.ip(), own.port()), peer: (peer.ip(), peer.port()) }, handle)
    }

    /// Enters a UDP socket with this address, which may be the unspecified one.
    pub(crate) fn udp(self: &Arc<Self>, own: SocketAddr, handle: Handle) -> Registered {
        self.enter(Key::Udp { v4: own.is_ipv4(), port: own.port() }, handle)
    }

    /// Enters a socket of another network namespace.
    pub(crate) fn elsewhere(self: &Arc<Self>, handle: Handle) -> Registered {
        self.enter(Key::Elsewhere(self.elsewhere.fetch_add(1, Relaxed)), handle)
    }

    fn enter(self: &Arc<Self>, key: Key, handle: Handle) -> Registered {
        if let Some(shard) = self.shard(&key) {
            shard.lock().insert(key, handle);
        }
        Registered { registry: Arc::clone(self), key, handle }
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<HashMap<Key, Handle>>> {
        self.shards.get((self.hasher.hash_one(key) >> 48) as usize % SHARDS)
    }

    /// Whose a segment between these ends is. They are ours until the connection is
    /// over, which the kernel knows first: it frees the port when a reset arrives, and gives it to a client that asks
    /// meanwhile. It is the other way round with a client that has closed its socket while its SYN was on the way here: we
    /// may have its port by now, and the number tells them apart. So it does with a program whose socket is bound to the
    /// device: of sockets that are bound to different ones each may have the same ends.
    ///
    /// A reset is no proof: the kernel answers with it by itself what is meant for a socket that is closed, and nothing
    /// follows from it wherever it comes to.
    fn of_ends(&self, key: &Key, transport: Transport) -> Owner {
        let Some(shard) = self.shard(key) else { return Owner::Other };
        let shard = shard.lock();
        let Some(handle) = shard.get(key) else { return Owner::Other };
        match (handle.stage(), transport) {
            (Some(Stage::Over), _) => Owner::Other,
            // Where it was answered it has not come back.
            (Some(Stage::Connected), Transport::Syn(_)) | (Some(_), Transport::Reset) => Owner::Doubtful,
            (Some(Stage::Connecting), Transport::Syn(number)) => match handle.syn_sent() {
                Some(ours) if ours != number => Owner::Doubtful,
                _ => Owner::Own,
            },
            // It has sent nothing else yet.
            (Some(Stage::Connecting), _) => Owner::Doubtful,
            _ => Owner::Own,
        }
    }

    /// Whose a datagram from `src` is. As long as a socket of ours has the port, the kernel lets nobody else have it at the
    /// same address (`udp_lib_lport_inuse`, net/ipv4/udp.c), but anybody at another: a connected socket has one address,
    /// and sends from there alone. With another it is ours only behind a masquerade. One that was reset has no port any more.
    fn of_port(&self, src: SocketAddr) -> Owner {
        let key = Key::Udp { v4: src.is_ipv4(), port: src.port() };
        let Some(shard) = self.shard(&key) else { return Owner::Other };
        let shard = shard.lock();
        let Some(handle) = shard.get(&key) else { return Owner::Other };
        match handle.own() {
            Some(own) if own.port() != src.port() => Owner::Other,
            Some(own) if !own.ip().is_unspecified() && own.ip() != src.ip() => Owner::Doubtful,
            // A container may use the same port by an address of its own.
            _ => Owner::OwnIfLocal,
        }
    }

    /// Whose a packet from `src` to `dst` is.
    pub(crate) fn owner(&self, transport: Transport, src: SocketAddr, dst: SocketAddr) -> Owner {
        let tcp = Key::Tcp { own: (src.ip(), src.port()), peer: (dst.ip(), dst.port()) };
        match transport {
            Transport::Syn(_) | Transport::Reset | Transport::Tcp => self.of_ends(&tcp, transport),
            Transport::Udp => self.of_port(src),
        }
    }

    /// Resets the sockets with a peer that `doomed` says so of, given their own address and their peer's. Returns how many.
    pub(crate) fn reset(&self, mut doomed: impl FnMut(IpAddr, IpAddr) -> bool) -> usize {
        let mut all = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            all.extend(shard.iter().filter_map(|(key, handle)| match key {
                Key::Tcp { own, peer } => Some((*key, own.0, peer.0)),
                Key::Udp { .. } | Key::Elsewhere(_) => {
                    handle.ends().map(|(own, peer)| (*key, own.ip(), peer.ip()))
                }
            }));
        }
        // Not under the lock, which every new connection takes: the question may take a while.
        all.retain(|(_, own, peer)| doomed(*own, *peer));
        let mut count = 0;
        for (key, ..) in all {
            let Some(shard) = self.shard(&key) else { continue };
            let shard = shard.lock();
            count += usize::from(shard.get(&key).is_some_and(|handle| handle.reset()));
        }
        count
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

/// A socket's place among our own; it is given up before the socket is closed.
#[derive(Debug)]
pub struct Registered {
    registry: Arc<Registry>,
    key: Key,
    handle: Handle,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(shard) = self.registry.shard(&self.key) {
            let mut shard = shard.lock();
            // A socket that was reset has given its port back, perhaps to another one of ours.
            if shard.get(&self.key) == Some(&self.handle) {
                shard.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Egress;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn sockets_are_known_for_as_long_as_they_live() {
        let egress = Egress::unprotected_for_loopback_tests();
        let registry = Arc::clone(&egress.registry);
        let server = listener().await;
        let (server, to) = (&server, server.local_addr().unwrap());
        let stream = egress.connect_tcp(to).await.unwrap();
        let own = stream.local_addr().unwrap();
        assert_eq!(registry.owner(Transport::Tcp, own, to), Owner::Own);
        // The kernel may give the same port to a connection to somewhere else.
        assert_eq!(registry.owner(Transport::Tcp, own, at("192.0.2.1:80")), Owner::Other);
        assert_eq!(registry.owner(Transport::Tcp, to, own), Owner::Other);
        assert_eq!(registry.owner(Transport::Udp, own, to), Owner::Other);
        let (stream, registered) = stream.into_parts();
        assert_eq!(registry.owner(Transport::Tcp, own, to), Owner::Own);
        drop(registered);
        assert_eq!(registry.len(), 0);
        drop(stream);

        let socket = egress.udp(oneway_route::Family::V4).unwrap();
        let port = socket.local_addr().unwrap().port();
        let from = SocketAddr::new([198, 51, 100, 7].into(), port);
        assert_eq!(registry.owner(Transport::Udp, from, to), Owner::OwnIfLocal);
        assert_eq!(
            registry.owner(Transport::Udp, SocketAddr::new(at("[::1]:1").ip(), port), to),
            Owner::Other
        );
        // 127.0.0.1 is this host, 198.51.100.7 is not.
        assert!(egress.returned(
            Transport::Udp,
            SocketAddr::new([127, 0, 0, 1].into(), port),
            at("192.0.2.1:9")
        ));
        assert!(!egress.returned(Transport::Udp, from, at("192.0.2.2:9")));
        assert!(egress.check(at("192.0.2.1:9").ip()).is_err());
        egress.check(at("192.0.2.2:9").ip()).unwrap();
        drop(socket);
        assert_eq!(registry.len(), 0);
        // A connection that nobody accepts, and one that is given up.
        assert!(egress.connect_tcp(at("127.0.0.1:1")).await.is_err());
        assert_eq!(registry.len(), 0);
        drop(server.accept().await);
    }

    #[tokio::test]
    async fn the_ends_of_a_connection_that_is_over_are_another_ones() {
        let egress = Egress::unprotected_for_loopback_tests();
        let server = listener().await;
        let to = server.local_addr().unwrap();
        let stream = egress.connect_tcp(to).await.unwrap();
        let own = stream.local_addr().unwrap();
        let (theirs, _) = server.accept().await.unwrap();
        // It has begun: this is of a socket that is bound to another device. It is not carried either.
        assert!(egress.returned(Transport::Syn(1), own, to));
        assert_eq!(egress.returned_packets(), 0);
        egress.check_addr(to).unwrap();
        socket2::SockRef::from(&theirs).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(theirs);
        stream.readable().await.unwrap();
        // Reset, and not closed yet: the kernel has the port for anybody, who is carried.
        let other = bound_stream(own);
        assert!(!egress.returned(Transport::Syn(1), own, to));
        assert!(!egress.returned(Transport::Tcp, own, to));
        egress.check_addr(to).unwrap();
        drop((other, stream));
    }

    #[tokio::test]
    async fn what_comes_back_of_a_living_connection_is_known() {
        let egress = Egress::unprotected_for_loopback_tests();
        let server = listener().await;
        let to = server.local_addr().unwrap();
        let stream = egress.connect_tcp(to).await.unwrap();
        let own = stream.local_addr().unwrap();
        // The kernel's answer to what came for a client that had our port before.
        assert!(egress.returned(Transport::Reset, own, to));
        assert_eq!(egress.returned_packets(), 0);
        egress.check_addr(to).unwrap();
        assert!(egress.returned(Transport::Tcp, own, to));
        assert_eq!(egress.returned_packets(), 1);
        assert!(egress.check_addr(to).is_err());
    }

    #[allow(clippy::disallowed_methods, reason = "another program's socket")]
    fn bound_stream(at: SocketAddr) -> socket2::Socket {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&at.into()).unwrap();
        socket
    }

    #[tokio::test]
    async fn a_port_of_ours_at_another_address_is_somebody_elses() {
        let egress = Egress::unprotected_for_loopback_tests();
        let relay = egress.udp_for(at("127.0.0.1:9")).unwrap();
        let own = relay.local_addr().unwrap();
        // Anybody may have it: it is not ours that it would be taken from.
        let other = SocketAddr::new([127, 0, 0, 2].into(), own.port());
        let theirs = bound(other);
        // Nothing follows from it. It is dropped, as it could be ours behind a masquerade.
        assert!(egress.returned(Transport::Udp, other, at("192.0.2.1:9")));
        egress.check(at("192.0.2.1:9").ip()).unwrap();
        assert_eq!(egress.returned_packets(), 0);
        let foreign = SocketAddr::new([198, 51, 100, 7].into(), own.port());
        assert!(!egress.returned(Transport::Udp, foreign, at("192.0.2.1:9")));
        assert!(egress.returned(Transport::Udp, own, at("127.0.0.1:9")));
        assert!(egress.check(at("127.0.0.1:9").ip()).is_err());
        drop(theirs);

        // Of one without an address nobody can have the port anywhere.
        let socket = egress.udp(oneway_route::Family::V4).unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(egress.returned(
            Transport::Udp,
            SocketAddr::new([127, 0, 0, 2].into(), port),
            at("192.0.2.2:9")
        ));
        assert!(egress.check(at("192.0.2.2:9").ip()).is_err());
    }

    #[allow(clippy::disallowed_methods, reason = "another program's socket")]
    fn bound(at: SocketAddr) -> std::net::UdpSocket {
        std::net::UdpSocket::bind(at).unwrap()
    }

    #[allow(clippy::disallowed_methods, reason = "the server of a test")]
    async fn listener() -> tokio::net::TcpListener {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn a_reset_socket_fails_and_the_others_do_not() {
        use tokio::io::AsyncReadExt;

        let egress = Egress::unprotected_for_loopback_tests();
        let server = listener().await;
        let to = server.local_addr().unwrap();
        let mut doomed = egress.connect_tcp(to).await.unwrap();
        let (mut theirs, _) = server.accept().await.unwrap();
        let other = listener().await;
        let kept = egress.connect_tcp(other.local_addr().unwrap()).await.unwrap();
        let relay = egress.udp_for(at("127.0.0.1:9")).unwrap();
        let own = doomed.local_addr().unwrap().ip();
        let port = relay.local_addr().unwrap();
        assert_eq!(egress.registry.owner(Transport::Udp, port, to), Owner::OwnIfLocal);
        assert_eq!(egress.reset(|ours, _| ours != own), 0);
        let mut seen = Vec::new();
        // Both connected sockets are asked about, and the datagram socket, whose peer it still has.
        let count = egress.reset(|ours, peer| {
            seen.push((ours, peer));
            false
        });
        assert_eq!((count, seen.len()), (0, 3));
        assert_eq!(egress.reset(|_, _| true), 3);
        let error = doomed.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let error = theirs.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(relay.send(b"x").await.is_err(), "it has no peer any more");
        // Nor its port: the kernel may give that to any program.
        assert_eq!(egress.registry.owner(Transport::Udp, port, to), Owner::Other);
        drop(kept);
    }
}

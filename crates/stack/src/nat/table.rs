//! Finding a connection by either of its names, and giving names away.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use hashbrown::{DefaultHashBuilder, HashTable};
use parking_lot::{Mutex, RwLock};

use super::expiry::Expiry;
use super::{Conn, State};

/// The names that the table may give away, and its limits.
#[derive(Clone, Debug)]
pub struct NatConfig {
    /// First of the IPv4 addresses that stand in for clients.
    pub first_peer_v4: Ipv4Addr,
    /// First of the IPv6 addresses that stand in for clients.
    pub first_peer_v6: Ipv6Addr,
    /// How many addresses of each family follow, at least 1. Each gives 64,000 names for each listener.
    pub peers: u32,
    /// Connections at most, closing ones included; further ones are refused.
    pub max_connections: usize,
}

/// Why a connection was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The client's connection is there already.
    #[error("the connection is there already")]
    Exists,
    /// Every name that could be tried is in use.
    #[error("no free port: too many connections from one source port")]
    NoPort,
    /// The limit of connections is reached.
    #[error("too many connections")]
    TooMany,
}

type Table<T> = RwLock<HashTable<Arc<Conn<T>>>>;

/// Each table is split so that workers seldom meet on a lock.
const SHARDS: usize = 32;
/// The lowest port given to a peer: below it, some systems' firewalls look twice.
const FIRST_PORT: u16 = 1024;
/// Names tried at random after the client's own port was taken at every peer.
const RANDOM_TRIES: u32 = 64;

/// The connections, by the client's name (`client`, `target`) and by the kernel's (`peer`, `local`).
///
/// Shared between workers: the kernel may hand any packet to any queue. Readers do not wait for readers.
#[derive(Debug)]
pub struct Nat<T> {
    config: NatConfig,
    hasher: DefaultHashBuilder,
    by_client: Vec<Table<T>>,
    by_local: Vec<Table<T>>,
    expiry: Mutex<Expiry<T>>,
    count: AtomicUsize,
    random: AtomicU64,
}

impl<T> Nat<T> {
    /// An empty table.
    pub fn new(config: NatConfig) -> Self {
        let hasher = DefaultHashBuilder::default();
        let random = AtomicU64::new(hasher.hash_one(0x6f6e_6577_6179_u64));
        let tables = || (0..SHARDS).map(|_| RwLock::new(HashTable::new())).collect();
        Self {
            config,
            by_client: tables(),
            by_local: tables(),
            expiry: Mutex::new(Expiry::default()),
            count: AtomicUsize::new(0),
            random,
            hasher,
        }
    }

    /// The connection that the client's side calls so.
    pub fn by_client(&self, client: SocketAddr, target: SocketAddr) -> Option<Arc<Conn<T>>> {
        let hash = self.hash(client, target);
        let shard = shard(&self.by_client, hash)?.read();
        shard.find(hash, |c| c.client == client && c.target == target).cloned()
    }

    /// The connection that the kernel's side calls so.
    pub fn by_local(&self, peer: SocketAddr, local: SocketAddr) -> Option<Arc<Conn<T>>> {
        let hash = self.hash(peer, local);
        let shard = shard(&self.by_local, hash)?.read();
        shard.find(hash, |c| c.peer == peer && c.local == local).cloned()
    }

    /// Gives a new connection a name of its own. It starts in [`State::Dialing`].
    ///
    /// A closed connection of the same client's name loses that name, but keeps the kernel's until it expires: a name
    /// that the kernel may still use is never given away.
    pub fn open(
        &self,
        client: SocketAddr,
        target: SocketAddr,
        local: SocketAddr,
        data: T,
    ) -> Result<Arc<Conn<T>>, OpenError> {
        if self.count.load(Ordering::Relaxed) >= self.config.max_connections {
            return Err(OpenError::TooMany);
        }
        let hash = self.hash(client, target);
        let Some(shard) = shard(&self.by_client, hash) else { return Err(OpenError::NoPort) };
        let mut shard = shard.write();
        if let Ok(entry) = shard.find_entry(hash, |c| c.client == client && c.target == target) {
            if entry.get().state() != State::Closed {
                return Err(OpenError::Exists);
            }
            entry.remove();
        }
        let conn = self.name(client, target, local, data)?;
        shard.insert_unique(hash, Arc::clone(&conn), |c| self.hash(c.client, c.target));
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(conn)
    }

    /// No socket holds the connection any more. Its names are free once its last segments have passed
    /// ([`Nat::expire`]).
    pub fn close(&self, now: Instant, conn: &Arc<Conn<T>>) {
        conn.set_closed();
        self.expiry.lock().push(now, Arc::clone(conn));
    }

    /// The kernel never heard of the connection (the dial failed): its names are free at once.
    pub fn forget(&self, conn: &Arc<Conn<T>>) {
        conn.set_closed();
        self.remove(conn);
    }

    /// Frees the names of the closed connections that are due at `now`. To be called about once a second.
    pub fn expire(&self, now: Instant) {
        loop {
            let due = self.expiry.lock().pop_due(now);
            match due {
                Some(conn) => self.remove(&conn),
                None => return,
            }
        }
    }

    /// Connections, the closing ones included.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Closed connections whose names are not free yet.
    pub fn closing(&self) -> usize {
        self.expiry.lock().len()
    }

    fn remove(&self, conn: &Arc<Conn<T>>) {
        let hash = self.hash(conn.client, conn.target);
        if let Some(shard) = shard(&self.by_client, hash)
            && let Ok(entry) = shard.write().find_entry(hash, |c| Arc::ptr_eq(c, conn))
        {
            entry.remove();
        }
        let hash = self.hash(conn.peer, conn.local);
        if let Some(shard) = shard(&self.by_local, hash)
            && let Ok(entry) = shard.write().find_entry(hash, |c| Arc::ptr_eq(c, conn))
        {
            entry.remove();
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Finds a free name: the client's own port at one of the peers, so that a client's ports stay as random as they
    /// were; then others.
    fn name(
        &self,
        client: SocketAddr,
        target: SocketAddr,
        local: SocketAddr,
        data: T,
    ) -> Result<Arc<Conn<T>>, OpenError> {
        let own = (0..self.config.peers.max(1)).map(|n| (n, client.port()));
        let random = (0..RANDOM_TRIES).map(|_| self.random_name());
        let mut candidates = own.filter(|(_, port)| *port >= FIRST_PORT).chain(random);
        let mut data = Some(data);
        loop {
            let (n, port) = candidates.next().ok_or(OpenError::NoPort)?;
            let peer = SocketAddr::new(self.peer(local.is_ipv4(), n), port);
            let hash = self.hash(peer, local);
            let shard = shard(&self.by_local, hash).ok_or(OpenError::NoPort)?;
            if shard.read().find(hash, |c| c.peer == peer && c.local == local).is_some() {
                continue;
            }
            let mut shard = shard.write();
            if shard.find(hash, |c| c.peer == peer && c.local == local).is_none() {
                let data = data.take().ok_or(OpenError::NoPort)?;
                let conn = Arc::new(Conn::new(client, target, peer, local, data));
                shard.insert_unique(hash, Arc::clone(&conn), |c| self.hash(c.peer, c.local));
                return Ok(conn);
            }
        }
    }

    fn random_name(&self) -> (u32, u16) {
        let seed = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let random = self.hasher.hash_one(seed);
        let port = FIRST_PORT + (random % u64::from(u16::MAX - FIRST_PORT)) as u16;
        ((random >> 32) as u32 % self.config.peers.max(1), port)
    }

    fn peer(&self, v4: bool, n: u32) -> IpAddr {
        if v4 {
            Ipv4Addr::from_bits(self.config.first_peer_v4.to_bits().wrapping_add(n)).into()
        } else {
            Ipv6Addr::from_bits(self.config.first_peer_v6.to_bits().wrapping_add(u128::from(n))).into()
        }
    }

    fn hash(&self, a: SocketAddr, b: SocketAddr) -> u64 {
        self.hasher.hash_one((a, b))
    }
}

fn shard<T>(tables: &[Table<T>], hash: u64) -> Option<&Table<T>> {
    // The table itself uses the low bits for the slot and the top seven for the tag.
    tables.get((hash >> 48) as usize % SHARDS)
}

#[cfg(test)]
mod tests;

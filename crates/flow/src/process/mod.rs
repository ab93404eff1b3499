//! Which user and which program a flow belongs to: asked only where a rule wants to know.
//!
//! The system says whose a socket is in some microseconds; to find the program that has it, all programs may have to
//! be looked through, which takes milliseconds. So answers are remembered, and [`Owners::find`] is for a thread that
//! may wait.

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux/diag.rs"]
mod diag;
#[cfg(all(feature = "fuzzing", any(target_os = "linux", target_os = "android")))]
#[path = "linux/fuzzing.rs"]
pub mod fuzzing;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "listener/linux.rs"]
mod listener;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "listener/unsupported.rs"]
mod listener;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux.rs"]
mod system;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "unsupported.rs"]
mod system;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "linux/text.rs"]
mod text;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::Network;

pub use system::SocketTable;

/// How long an answer holds. After that the port may be another program's.
const HOLDS: Duration = Duration::from_secs(5);

/// Answers that are remembered.
const REMEMBERED: usize = 4096;

/// A program that has a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// The last part of its path; or, where the path is not known, the name that the system has for it.
    pub name: Box<str>,
    /// The file that it runs, empty if not known.
    pub path: Box<str>,
}

/// Whose a flow is. `None` is what could not be found: a flow of another machine or namespace has no socket here, and
/// a program may end before it is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: Option<u32>,
    /// The program.
    pub process: Option<Arc<Process>>,
    /// What the system calls its process (`comm`), 15 bytes at most: of a script its own name, and not its interpreter's.
    pub comm: Option<Arc<str>>,
    /// Its process, and the one that started that.
    pub pids: Option<(u32, u32)>,
    /// The number of the control group (version 2) that the socket was made in, which the system tells everybody.
    pub cgroup: Option<u64>,
}

/// Who accepts connections at an address of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// The user's number.
    pub uid: u32,
    /// Every process that has the listening socket; none where nobody may look.
    pub pids: Vec<u32>,
    /// The program of the first of them.
    pub process: Option<Arc<Process>>,
    /// What the system calls it, see [`Owner::comm`].
    pub comm: Option<Arc<str>>,
    /// Its control group of version 2, as `/proc/PID/cgroup` shows it.
    pub cgroup: Option<String>,
    /// The number of the control group that the socket was made in.
    pub cgroup_id: Option<u64>,
}

/// Who listens at a TCP address, or at that port of every address, in the calling thread's network namespace; `None` when
/// nobody does, or the system does not tell. May take milliseconds.
pub fn listener(at: SocketAddr) -> Option<Listener> {
    listener::find(at)
}

/// Whether the TCP socket from `source` to `destination`, in the calling thread's network namespace, is an orphan (tcp(7)):
/// all programs that had it have closed it, and the system is still about to end its connection. What only half is closed by
/// `shutdown` is none. False where the system knows of no such socket, or does not tell. May take milliseconds.
pub fn is_orphan(source: SocketAddr, destination: SocketAddr) -> bool {
    system::is_orphan(source, destination)
}

/// Finds the owners of flows.
#[derive(Debug, Default)]
pub struct Owners {
    known: Mutex<HashMap<(Network, SocketAddr), Answer>>,
    system: Mutex<system::Sockets>,
}

#[derive(Debug)]
struct Answer {
    owner: Owner,
    /// Whether the program was looked for, too.
    with_process: bool,
    at: Instant,
}

impl Owners {
    /// Finds those of another network namespace's flows. Their processes are looked for among those that are seen here.
    pub fn of(table: SocketTable) -> Self {
        Self { system: Mutex::new(system::Sockets::of(table)), ..Self::default() }
    }

    /// What is remembered about a flow from `source`. Never waits.
    pub fn known(&self, network: Network, source: SocketAddr, with_process: bool) -> Option<Owner> {
        let known = self.known.lock();
        let answer = known.get(&(network, source))?;
        let enough = answer.at.elapsed() < HOLDS && (answer.with_process || !with_process);
        enough.then(|| answer.owner.clone())
    }

    /// Asks the system about a flow, and remembers the answer. May take milliseconds if the program is wanted.
    pub fn find(
        &self,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
        with_process: bool,
    ) -> Owner {
        let owner = self.system.lock().find(network, source, destination, with_process);
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, answer| now.saturating_duration_since(answer.at) < HOLDS);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert((network, source), Answer { owner: owner.clone(), with_process, at: now });
        owner
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own socket, on loopback")]
    fn a_socket_of_this_program_is_its_own() {
        let owners = Owners::default();
        let exe = std::env::current_exe().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (source, target) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            assert_eq!(owners.known(Network::Tcp, source, true), None);
            let owner = owners.find(Network::Tcp, source, target, true);
            assert_eq!(owner.process.as_ref().map(|process| &*process.path), exe.to_str());
            assert_eq!(owners.known(Network::Tcp, source, true), Some(owner));

            let udp = UdpSocket::bind(address).unwrap();
            let owner = owners.find(Network::Udp, udp.local_addr().unwrap(), target, false);
            assert!(owner.uid.is_some() && owner.process.is_none());
            assert_eq!(owners.known(Network::Udp, udp.local_addr().unwrap(), true), None);
        }
        // A socket that takes IPv4 as well, seen from IPv4.
        let both = UdpSocket::bind("[::]:0").unwrap();
        let port = both.local_addr().unwrap().port();
        let source = SocketAddr::from(([127, 0, 0, 1], port));
        let owner = owners.find(Network::Udp, source, "192.0.2.1:53".parse().unwrap(), true);
        assert_eq!(owner.process.map(|process| process.path.clone()).as_deref(), exe.to_str());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own sockets, on loopback")]
    fn only_what_is_closed_is_an_orphan() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let _accepted = listener.accept().unwrap();
            let (source, target) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let second = client.try_clone().unwrap();
            assert!(!is_orphan(source, target));
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(!is_orphan(source, target), "its half is closed");
            drop(client);
            assert!(!is_orphan(source, target), "another descriptor is open");
            drop(second);
            assert!(is_orphan(source, target), "{address}");
            assert!(!is_orphan(source, source), "there is none");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own socket, on loopback")]
    fn a_listener_is_found_by_its_address() {
        let exe = std::env::current_exe().unwrap();
        for (bound, asked) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "127.0.0.1"),
        ] {
            let socket = TcpListener::bind(bound).unwrap();
            let at = SocketAddr::new(asked.parse().unwrap(), socket.local_addr().unwrap().port());
            let found = listener(at).unwrap_or_else(|| panic!("nobody listens at {at}"));
            assert_eq!(found.pids, [std::process::id()], "{bound}");
            assert_eq!(found.process.map(|process| process.path.clone()).as_deref(), exe.to_str());
            // A connection of its own belongs to the same process.
            let client = std::net::TcpStream::connect(at).unwrap();
            let (source, target) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let owner = Owners::default().find(Network::Tcp, source, target, true);
            assert_eq!(owner.pids.map(|(own, _)| own), Some(std::process::id()));
            let listening = listener(at).and_then(|found| found.cgroup_id);
            assert_eq!(owner.cgroup, listening, "both were made in the same control group");
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(listener(free), None, "it is closed again");
    }

    #[test]
    fn nobody_has_a_socket_that_is_not_there() {
        let owners = Owners::default();
        let owner = owners.find(
            Network::Tcp,
            "192.0.2.1:1".parse().unwrap(),
            "198.51.100.1:443".parse().unwrap(),
            true,
        );
        assert_eq!(owner, Owner::default());
    }

    #[test]
    fn what_is_remembered_has_a_limit() {
        let owners = Owners::default();
        for port in 0..=REMEMBERED as u16 + 9 {
            let source = SocketAddr::from(([192, 0, 2, 1], port));
            owners.find(Network::Icmp, source, source, false);
        }
        assert!(owners.known.lock().len() <= REMEMBERED);
    }
}

//! Which user and which program a flow belongs to: asked only where a rule wants to know.
//!
//! The system says whose a socket is in some microseconds; to find the program that has it, all programs may have to
//! be looked through, which takes milliseconds, and much longer where somebody sees to that. So answers are remembered,
//! looks have a limit, and those for one user's sockets wait for one another and for nobody else's.

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
#[path = "linux/programs.rs"]
mod programs;
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
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

pub use self::system::SocketTable;
use self::system::{Programs, Socket};
use crate::Network;

/// How long an answer about a UDP socket holds. After that the port may be another program's.
const HOLDS: Duration = Duration::from_secs(5);

/// The same of a TCP connection, whose question is asked once: long enough for the rules to be gone through. Who closes with
/// a reset leaves its ports to the next at once.
const HOLDS_TCP: Duration = Duration::from_secs(1);

/// Sockets that may have sent the same datagram, and whose programs are looked for. Those of one server that has more of
/// them at its port are of one user, but of no program that is known.
const SENDERS: usize = 16;

/// Answers that are remembered.
const REMEMBERED: usize = 4096;

/// How long a flow waits for others of its user, before its program counts as not found.
const PATIENCE: Duration = Duration::from_secs(1);

/// Users whose programs are looked for. Who has a thousand users of their own (user_namespaces(7)) takes no more threads.
const USERS: usize = 128;

/// A program that has a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Process {
    /// The last part of its path; or, where the path is not known, the name that the system has for it.
    pub name: Box<str>,
    /// The file that it runs, empty if not known.
    pub path: Box<str>,
}

/// Whose a flow is. `None` is what could not be found: a flow of another machine or namespace has no socket here, and
/// a program may end before it is looked for. The same is what differs between several sockets that may have sent a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The user's number.
    pub uid: Option<u32>,
    /// The program.
    pub process: Option<Arc<Process>>,
    /// What the system calls its process (`comm`), 15 bytes at most: of a script its own name, and not its interpreter's.
    pub comm: Option<Arc<str>>,
    /// Its process, and the one that started that: of each socket that may be the flow's.
    pub pids: Vec<(u32, u32)>,
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

impl Owner {
    /// What is known for sure where a flow is one of these owners'. A rule must not take one user for another who has got hold
    /// of the same port.
    fn common(owners: impl IntoIterator<Item = Self>) -> Self {
        let both = |mut one: Self, mut other: Self| Self {
            uid: one.uid.filter(|_| one.uid == other.uid),
            process: one.process.take().filter(|process| Some(process) == other.process.as_ref()),
            comm: one.comm.take().filter(|comm| Some(comm) == other.comm.as_ref()),
            pids: {
                one.pids.append(&mut other.pids);
                one.pids
            },
            cgroup: one.cgroup.filter(|_| one.cgroup == other.cgroup),
        };
        owners.into_iter().reduce(both).unwrap_or_default()
    }
}

/// Network, source and destination: with `IP_LOCAL_PORT_RANGE` (ip(7)) anybody may connect to elsewhere from the port of
/// another user's connection.
type Ends = (Network, SocketAddr, SocketAddr);

/// Whether this process may see which programs of other users have which sockets: `CAP_SYS_PTRACE` and `CAP_DAC_READ_SEARCH` on
/// Linux. Without them such a program is not found.
pub fn sees_programs() -> bool {
    system::sees_programs()
}

/// Finds the owners of flows.
#[derive(Debug, Default)]
pub struct Owners {
    known: Mutex<HashMap<Ends, Answer>>,
    sockets: Mutex<system::Sockets>,
    users: Mutex<HashMap<u32, Arc<User>>>,
}

/// What is known of the programs that have one user's sockets.
#[derive(Debug)]
struct User {
    /// One look at a time. Who waits for it holds no thread.
    turn: Arc<Semaphore>,
    programs: Mutex<Programs>,
}

impl Default for User {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), programs: Mutex::default() }
    }
}

#[derive(Debug)]
struct Answer {
    owner: Owner,
    /// Whether the program was looked for, too.
    with_process: bool,
    until: Instant,
}

impl Owners {
    /// Finds those of another network namespace's flows. Their processes are looked for among those that are seen here.
    pub fn of(table: SocketTable) -> Self {
        Self { sockets: Mutex::new(system::Sockets::of(table)), ..Self::default() }
    }

    /// What is remembered about a flow. Never waits.
    pub fn known(
        &self,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
        with_process: bool,
    ) -> Option<Owner> {
        let known = self.known.lock();
        let answer = known.get(&(network, source, destination))?;
        let enough = Instant::now() < answer.until && (answer.with_process || !with_process);
        enough.then(|| answer.owner.clone())
    }

    /// Asks the system about a flow, and remembers the answer.
    pub async fn find(
        self: &Arc<Self>,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
        with_process: bool,
    ) -> Owner {
        let ends = (network, source, destination);
        let owners = Arc::clone(self);
        // A task is cancelled only when the runtime ends, and then nobody asks again.
        let sockets = spawn_blocking(move || owners.sockets(ends)).await.unwrap_or_default();
        let mut found = Vec::with_capacity(sockets.len());
        for socket in &sockets {
            found.push(match self.user(*socket, with_process && sockets.len() <= SENDERS) {
                Some(user) => in_turn(user, *socket).await,
                None => socket.owner(),
            });
        }
        self.remember(ends, found, with_process)
    }

    /// The same on a thread that may wait. May take a quarter of a second if the program is wanted.
    pub fn find_waiting(
        &self,
        network: Network,
        source: SocketAddr,
        destination: SocketAddr,
        with_process: bool,
    ) -> Owner {
        let ends = (network, source, destination);
        let sockets = self.sockets(ends);
        let owner = |socket: &Socket| match self.user(*socket, with_process && sockets.len() <= SENDERS) {
            Some(user) => user.programs.lock().find(*socket),
            None => socket.owner(),
        };
        self.remember(ends, sockets.iter().map(owner).collect(), with_process)
    }

    fn sockets(&self, (network, source, destination): Ends) -> Vec<Socket> {
        self.sockets.lock().find(network, source, destination)
    }

    /// What is known of the programs of a socket's user, if that is wanted.
    fn user(&self, socket: Socket, wanted: bool) -> Option<Arc<User>> {
        if wanted { self.of_user(socket.uid()) } else { None }
    }

    fn of_user(&self, uid: u32) -> Option<Arc<User>> {
        let mut users = self.users.lock();
        if users.len() >= USERS && !users.contains_key(&uid) {
            users.retain(|_, user| Arc::strong_count(user) > 1);
            if users.len() >= USERS {
                return None;
            }
        }
        Some(Arc::clone(users.entry(uid).or_default()))
    }

    fn remember(&self, ends: Ends, found: Vec<Owner>, with_process: bool) -> Owner {
        let owner = Owner::common(found);
        let now = Instant::now();
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, answer| now < answer.until);
        }
        if known.len() >= REMEMBERED {
            known.clear();
        }
        let until = now + if ends.0 == Network::Tcp { HOLDS_TCP } else { HOLDS };
        known.insert(ends, Answer { owner: owner.clone(), with_process, until });
        owner
    }
}

/// Looks for the program of a socket when those before it have been looked for.
async fn in_turn(user: Arc<User>, socket: Socket) -> Owner {
    let turn = tokio::time::timeout(PATIENCE, Arc::clone(&user.turn).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return socket.owner() };
    let look = spawn_blocking(move || {
        let owner = user.programs.lock().find(socket);
        drop(turn);
        owner
    });
    look.await.unwrap_or_else(|_| socket.owner())
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
            assert_eq!(owners.known(Network::Tcp, source, target, true), None);
            let owner = owners.find_waiting(Network::Tcp, source, target, true);
            assert_eq!(owner.process.as_ref().map(|process| &*process.path), exe.to_str());
            assert_eq!(owners.known(Network::Tcp, source, target, true), Some(owner));
            // Another user's connection from the same port.
            let elsewhere = "192.0.2.1:443".parse().unwrap();
            assert_eq!(owners.known(Network::Tcp, source, elsewhere, true), None);

            let udp = UdpSocket::bind(address).unwrap();
            let owner = owners.find_waiting(Network::Udp, udp.local_addr().unwrap(), target, false);
            assert!(owner.uid.is_some() && owner.process.is_none());
            assert_eq!(owners.known(Network::Udp, udp.local_addr().unwrap(), target, true), None);
        }
        // A socket that takes IPv4 as well, seen from IPv4.
        let both = UdpSocket::bind("[::]:0").unwrap();
        let port = both.local_addr().unwrap().port();
        let source = SocketAddr::from(([127, 0, 0, 1], port));
        let owner = owners.find_waiting(Network::Udp, source, "192.0.2.1:53".parse().unwrap(), true);
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
            let owner = Owners::default().find_waiting(Network::Tcp, source, target, true);
            assert_eq!(owner.pids.iter().map(|(own, _)| *own).collect::<Vec<_>>(), [std::process::id()]);
            let listening = listener(at).and_then(|found| found.cgroup_id);
            assert_eq!(owner.cgroup, listening, "both were made in the same control group");
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(listener(free), None, "it is closed again");
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own sockets, on loopback")]
    fn all_sockets_at_a_port_may_have_sent_a_datagram() {
        // IP_PKTINFO (ip(7)) gives a datagram another source than the address that its socket is bound to.
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = one.local_addr().unwrap();
        let destination = "192.0.2.1:53".parse().unwrap();
        let senders = || system::Sockets::default().find(Network::Udp, source, destination).len();
        assert_eq!(senders(), 1);
        let other = UdpSocket::bind(("127.0.0.2", source.port())).unwrap();
        assert_eq!(senders(), 2);
        let both = UdpSocket::bind(("::1", source.port())).unwrap();
        assert_eq!(senders(), 3);
        let found = Owners::default().find_waiting(Network::Udp, source, destination, true);
        let exe = std::env::current_exe().unwrap();
        assert_eq!(found.process.map(|process| process.path.clone()).as_deref(), exe.to_str());
        assert_eq!(found.pids.len(), 3, "all are this program's");
        drop(one);
        assert_eq!(senders(), 0, "what others at that port are bound to is another address");
        drop((other, both));
    }

    #[test]
    fn what_differs_between_senders_is_not_known() {
        let process = |path: &str| Some(Arc::new(Process { name: "x".into(), path: path.into() }));
        let owner = |uid, path, pid| Owner {
            uid: Some(uid),
            process: process(path),
            comm: Some("x".into()),
            pids: vec![(pid, 1)],
            cgroup: Some(7),
        };
        let one = owner(1000, "/a/x", 30);
        assert_eq!(Owner::common([one.clone()]), one);
        let others_port = Owner::common([one.clone(), owner(1001, "/a/x", 31), owner(1000, "/a/x", 32)]);
        assert_eq!(others_port.uid, None);
        assert_eq!(others_port.process, process("/a/x"));
        assert_eq!(others_port.pids, [(30, 1), (31, 1), (32, 1)], "any of them may close a circle");
        let other_program = Owner::common([one.clone(), owner(1000, "/b/x", 31)]);
        assert_eq!((other_program.uid, other_program.process), (Some(1000), None));
        let not_found = Owner { process: None, comm: None, cgroup: None, ..owner(1000, "", 31) };
        let unlike = Owner::common([one, not_found]);
        assert_eq!((unlike.uid, unlike.process, unlike.comm, unlike.cgroup), (Some(1000), None, None, None));
        assert_eq!(Owner::common([]), Owner::default());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own sockets, on loopback")]
    fn one_users_look_holds_up_nobody_elses() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (source, target) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let owners = Arc::new(Owners::default());
        let own = owners.find_waiting(Network::Tcp, source, target, false).uid.unwrap();
        let find = || runtime.block_on(owners.find(Network::Tcp, source, target, true));
        let turns: Vec<Arc<User>> = (1..=3).map(|n| owners.of_user(own + n).unwrap()).collect();
        let held: Vec<_> = turns.iter().map(|user| user.programs.lock()).collect();
        assert!(find().process.is_some(), "others' looks last");
        drop(held);
        let same = owners.of_user(own).unwrap();
        let turn = same.turn.try_acquire().unwrap();
        let found = find();
        assert_eq!((found.process, found.uid), (None, Some(own)), "its own user's does");
        drop(turn);
        assert!(find().process.is_some());
    }

    #[test]
    fn users_have_a_limit() {
        let owners = Owners::default();
        let held: Vec<Arc<User>> = (0..USERS as u32).map(|uid| owners.of_user(uid).unwrap()).collect();
        assert!(owners.of_user(USERS as u32).is_none(), "all of them are being looked for");
        assert!(owners.of_user(3).is_some());
        drop(held);
        assert!(owners.of_user(USERS as u32).is_some());
        assert!(owners.users.lock().len() <= USERS);
    }

    #[test]
    fn nobody_has_a_socket_that_is_not_there() {
        let owners = Owners::default();
        let owner = owners.find_waiting(
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
            owners.find_waiting(Network::Icmp, source, source, false);
        }
        assert!(owners.known.lock().len() <= REMEMBERED);
    }
}

//! Which program has a socket, from `/proc`: one that has it has a link `/proc/PID/fd/N` to `socket:[INODE]`.
//!
//! A socket that was sent away in another one (`SCM_RIGHTS`, unix(7)) and not received yet is in nobody's folder, so that
//! whoever likes makes a look one in vain, through as many descriptors as they hold. What that takes is taken off their
//! user's time.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway_file::limit;
use rustix::thread::CapabilitySet;

use super::system::Socket;
use super::{Owner, Process, text};

/// How long one look may take: some hundred thousand descriptors.
const LOOK: Duration = Duration::from_millis(250);

/// How much of it goes to the processes of each user that is not the socket's.
const OTHERS: Duration = Duration::from_millis(50);

/// Of what looks in vain have taken, this part of the time that goes by is forgotten: they keep a tenth of a processor busy.
const SHARE: u32 = 10;

/// How long a look may take after too many in vain: enough for the programs of before.
const LEAST: Duration = Duration::from_millis(5);

/// How long it holds that nobody has a socket.
const IN_VAIN: Duration = Duration::from_secs(1);

/// Programs whose sockets are looked through first: who opens one connection opens others.
const RECENT: usize = 8;

/// Sockets whose programs are remembered.
const REMEMBERED: usize = 1024;

/// A program, what its process is called, and its process with the one that started it.
type Found = (Arc<Process>, Option<Arc<str>>, (u32, u32));

/// What was found in `/proc` before of one user's sockets.
#[derive(Debug)]
pub(super) struct Programs {
    recent: VecDeque<u32>,
    /// By inode: the link that led there, and the program.
    known: HashMap<u32, (PathBuf, Found)>,
    /// By inode: until when nobody has it.
    in_vain: HashMap<u32, Instant>,
    /// What looks in vain have taken, as of `at`.
    spent: Duration,
    at: Instant,
}

impl Default for Programs {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            known: HashMap::new(),
            in_vain: HashMap::new(),
            spent: Duration::ZERO,
            at: Instant::now(),
        }
    }
}

impl Programs {
    /// Whose a socket is. All those that are asked for are of one user.
    pub(super) fn find(&mut self, socket: Socket) -> Owner {
        let Socket { uid, inode, .. } = socket;
        let found = if inode == 0 { None } else { self.program(uid, inode) };
        let Some((process, comm, pids)) = found else { return socket.owner() };
        Owner { process: Some(process), comm, pids: vec![pids], ..socket.owner() }
    }

    fn program(&mut self, uid: u32, inode: u32) -> Option<Found> {
        let wanted = format!("socket:[{inode}]");
        if let Some((link, process)) = self.known.get(&inode)
            && leads_to(link, &wanted)
        {
            return Some(process.clone());
        }
        let now = Instant::now();
        if self.in_vain.get(&inode).is_some_and(|until| now < *until) {
            return None;
        }
        let until = now + self.left(now);
        let Some((pid, link)) = self.look(uid, &wanted, until) else {
            self.spent = (self.spent + now.elapsed()).min(LOOK);
            if self.in_vain.len() >= REMEMBERED {
                self.in_vain.clear();
            }
            self.in_vain.insert(inode, Instant::now() + IN_VAIN);
            return None;
        };
        self.recent.retain(|known| *known != pid);
        self.recent.push_front(pid);
        self.recent.truncate(RECENT);
        let process = (Arc::new(program(pid)?), comm(pid), (pid, parent(pid).unwrap_or(0)));
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(inode, (link, process.clone()));
        Some(process)
    }

    /// How long a look may take now.
    fn left(&mut self, now: Instant) -> Duration {
        self.spent = self.spent.saturating_sub(now.saturating_duration_since(self.at) / SHARE);
        self.at = now;
        (LOOK - self.spent).max(LEAST)
    }

    fn look(&self, uid: u32, wanted: &str, until: Instant) -> Option<(u32, PathBuf)> {
        let recent = self.recent.iter().find_map(|pid| Some((*pid, socket_of(*pid, wanted, until)?)));
        recent.or_else(|| holders(uid, wanted, until).next())
    }
}

/// As [`super::sees_programs`].
///
/// Another user's `/proc/PID/fd` is opened with `CAP_DAC_READ_SEARCH` (`proc_fd_permission`, fs/proc/fd.c); what is in it is read
/// with `CAP_SYS_PTRACE` (`proc_fd_access_allowed`, fs/proc/base.c), which also root needs of a process that may do more
/// (`cap_ptrace_access_check`, security/commoncap.c). In a user namespace both are about its own processes, which are those whose
/// traffic comes here.
pub(super) fn sees_programs() -> bool {
    let Ok(sets) = rustix::thread::capabilities(None) else { return false };
    let reads = CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE;
    sets.effective.contains(CapabilitySet::SYS_PTRACE) && sets.effective.intersects(reads)
}

/// The processes that have a socket: a server may have split itself.
pub(super) fn all_holders(uid: u32, inode: u32) -> Vec<u32> {
    let wanted = format!("socket:[{inode}]");
    holders(uid, &wanted, Instant::now() + LOOK).map(|(pid, _)| pid).collect()
}

/// The same with their links. Those of the socket's user are looked through first; then root's, who may make sockets as
/// anybody, and everybody else's, since a process may have become another user's after it has made its socket. Newer ones come
/// before older ones: those that run for long are among the recent.
fn holders(uid: u32, wanted: &str, until: Instant) -> impl Iterator<Item = (u32, PathBuf)> {
    let all = fs::read_dir("/proc").into_iter().flatten();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // The folder belongs to the effective user, also of a process whose files are root's (`task_dump_owner`, fs/proc/base.c).
    let of = |pid| Some((fs::metadata(format!("/proc/{pid}")).ok()?.uid(), pid));
    let mut all: Vec<(u32, u32)> = pids.filter_map(of).collect();
    all.sort_unstable_by_key(|(of, pid)| (*of != uid, *of, Reverse(*pid)));
    let mut group = (uid, until);
    all.into_iter().filter_map(move |(of, pid)| {
        if of != group.0 {
            group = (of, until.min(Instant::now() + OTHERS));
        }
        Some((pid, socket_of(pid, wanted, group.1)?))
    })
}

/// The link of a program to a socket.
fn socket_of(pid: u32, wanted: &str, until: Instant) -> Option<PathBuf> {
    if Instant::now() >= until {
        return None;
    }
    let links = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = links.take_while(|_| Instant::now() < until);
    links.filter_map(|entry| Some(entry.ok()?.path())).find(|link| leads_to(link, wanted))
}

fn leads_to(link: &Path, wanted: &str) -> bool {
    fs::read_link(link).is_ok_and(|target| target.as_os_str() == wanted)
}

pub(super) fn comm(pid: u32) -> Option<Arc<str>> {
    Some(text::comm(&of_process(pid, "comm")?))
}

fn parent(pid: u32) -> Option<u32> {
    text::parent(&of_process(pid, "stat")?)
}

/// A file of a process (`proc_pid(5)`).
pub(super) fn of_process(pid: u32, file: &str) -> Option<Vec<u8>> {
    oneway_file::read(format!("/proc/{pid}/{file}").as_ref(), limit::PROC).ok()
}

pub(super) fn program(pid: u32) -> Option<Process> {
    if let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) {
        return Some(text::program(&path.to_string_lossy()));
    }
    // Another user's program shows its name only.
    Some(Process { name: comm(pid)?.as_ref().into(), path: "".into() })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    use super::*;

    /// One that this process has, whoever its user is.
    fn own(socket: &UdpSocket) -> u32 {
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap().strip_prefix("socket:[").unwrap();
        text.strip_suffix(']').unwrap().parse().unwrap()
    }

    fn myself() -> u32 {
        fs::metadata("/proc/self").unwrap().uid()
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own socket, on loopback")]
    fn a_process_may_have_become_another_users() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = own(&socket);
        // On a busy machine the time may be up before this process is come to.
        let patience = Instant::now() + Duration::from_secs(10);
        for uid in [myself(), myself() + 1] {
            let found = loop {
                let found = Programs::default().program(uid, inode).map(|(.., (pid, _))| pid);
                let holders = all_holders(uid, inode);
                if found.is_some() && !holders.is_empty() || Instant::now() > patience {
                    break (found, holders);
                }
            };
            assert_eq!(found, (Some(std::process::id()), vec![std::process::id()]), "{uid}");
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own sockets, on loopback")]
    fn a_look_in_vain_is_not_repeated_at_once() {
        let mut programs = Programs::default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = own(&socket);
        programs.in_vain.insert(inode, Instant::now() + Duration::from_secs(60));
        assert_eq!(programs.program(myself(), inode), None);
        assert_eq!(programs.spent, Duration::ZERO, "nothing was looked at");
        programs.in_vain.insert(inode, Instant::now());
        assert!(programs.program(myself(), inode).is_some());
        assert_eq!(programs.spent, Duration::ZERO, "it was not in vain");

        for inode in 0..3 {
            assert_eq!(programs.program(myself(), u32::MAX - inode), None);
        }
        assert!(programs.spent > Duration::ZERO && programs.spent <= LOOK);
        assert_eq!(programs.in_vain.len(), 1 + 3);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own sockets, on loopback")]
    fn looks_in_vain_take_a_part_of_the_time() {
        let mut programs = Programs::default();
        let start = programs.at;
        assert_eq!(programs.left(start), LOOK);
        programs.spent = LOOK;
        assert_eq!(programs.left(start), LEAST);
        assert_eq!(programs.left(start + Duration::from_secs(1)), Duration::from_millis(100));
        assert_eq!(programs.left(start + Duration::from_secs(60)), LOOK);

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wanted = format!("socket:[{}]", own(&socket));
        let now = Instant::now();
        assert_eq!(programs.look(myself(), &wanted, now), None, "there is no time");
        assert!(programs.look(myself(), &wanted, now + Duration::from_secs(60)).is_some());
    }
}

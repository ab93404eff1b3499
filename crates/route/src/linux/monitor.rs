//! Netlink's multicast groups (`include/uapi/linux/rtnetlink.h`, `nfnetlink.h`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::nexthop::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP};
use crate::error::RouteError;
use crate::monitor::Changes;
use crate::os::cgroup::Root;

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV6_RULE: u32 = 19;
/// Some of the switches of devices, `rp_filter` among them (`devinet_conf_proc`, net/ipv4/devinet.c).
const RTNLGRP_IPV4_NETCONF: u32 = 24;
/// Where routes name objects, nothing but the object may change (`nexthop_replace_notify`, net/ipv4/nexthop.c).
const RTNLGRP_NEXTHOP: u32 = 32;
const NFNLGRP_NFTABLES: u32 = 7;

const ROUTING: [u32; 9] = [
    RTNLGRP_LINK,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV4_RULE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_IPV6_RULE,
    RTNLGRP_IPV4_NETCONF,
    RTNLGRP_NEXTHOP,
];

/// One message of these is a few hundred bytes; the kernel puts several of a dump together, but no announcements.
const DATAGRAM: usize = 32 * 1024;
/// Datagrams taken in one go, so that a flood ends a wait nevertheless.
const BATCH: usize = 4096;

#[derive(Debug)]
pub(crate) struct Monitor {
    routing: Subscription,
    /// None where the kernel has no nftables.
    nftables: Option<Subscription>,
    /// None where there are no control groups of version 2.
    cgroups: Option<Groups>,
    waker: Waker,
}

impl Monitor {
    pub(crate) fn open() -> Result<Self, RouteError> {
        let open = |what| move |source| RouteError::Open { what, source };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| RouteError::Open { what: "routing", source: e.into() })?;
        Ok(Self {
            routing: Subscription::open(protocols::NETLINK_ROUTE, &ROUTING).map_err(open("routing"))?,
            nftables: Subscription::open(protocols::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]).ok(),
            cgroups: Groups::open(),
            waker: Waker(Arc::new(event)),
        })
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    pub(crate) fn wait(&mut self, at_most: Duration) -> Result<Changes, RouteError> {
        let deadline = Instant::now() + at_most;
        let fail = |e: Errno| RouteError::Talk { what: "announce changes".into(), source: e.into() };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
            let mut waiting = vec![
                PollFd::new(&self.routing.socket, PollFlags::IN),
                PollFd::new(&*self.waker.0, PollFlags::IN),
            ];
            if let Some(nftables) = &self.nftables {
                waiting.push(PollFd::new(&nftables.socket, PollFlags::IN));
            }
            if let Some(cgroups) = &self.cgroups {
                waiting.push(PollFd::new(&cgroups.events, PollFlags::IN));
            }
            match poll(&mut waiting, Some(&timeout)) {
                Ok(0) => return Ok(Changes::default()),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(e) => return Err(fail(e)),
            }
            let mut changes = Changes { woken: self.waker.take(), ..Changes::default() };
            self.routing.take(&mut changes).map_err(fail)?;
            if let Some(nftables) = &mut self.nftables {
                nftables.take(&mut changes).map_err(fail)?;
            }
            if let Some(cgroups) = &self.cgroups {
                changes.cgroups |= cgroups.take();
            }
            if changes != Changes::default() || Instant::now() >= deadline {
                return Ok(changes);
            }
        }
    }
}

/// What the file system announces of the groups directly below the root (inotify(7)).
#[derive(Debug)]
struct Groups {
    events: OwnedFd,
}

impl Groups {
    fn open() -> Option<Self> {
        let root = Root::open().ok()?;
        let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok()?;
        let wanted = inotify::WatchFlags::CREATE | inotify::WatchFlags::DELETE | inotify::WatchFlags::ONLYDIR;
        inotify::add_watch(&events, root.path().as_str(), wanted).ok()?;
        Some(Self { events })
    }

    /// Takes what is waiting; the queue has a limit of its own (`max_queued_events`).
    fn take(&self) -> bool {
        let mut any = false;
        for _ in 0..BATCH {
            match rustix::io::read(&self.events, &mut [0_u8; 4096]) {
                Ok(length) if length > 0 => any = true,
                Err(Errno::INTR) => {}
                _ => break,
            }
        }
        any
    }
}

/// A socket that some groups' announcements come to.
#[derive(Debug)]
struct Subscription {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Subscription {
    fn open(protocol: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        // All have numbers up to 32 and so a bit in the address.
        let groups = groups.iter().fold(0, |bits, group| bits | 1 << (group - 1));
        socket.bind(&SocketAddr::new(0, groups))?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM] })
    }

    /// Takes what is waiting.
    fn take(&mut self, changes: &mut Changes) -> Result<(), Errno> {
        for _ in 0..BATCH {
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            match rustix::net::recv(&self.socket, &mut self.buffer[..], flags) {
                Ok((_, length)) if length > self.buffer.len() => changes.lost = true,
                Ok((_, length)) => note(changes, self.buffer.get(..length).unwrap_or_default()),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => changes.lost = true,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// Notes the types of a datagram's messages (`struct nlmsghdr`).
pub(super) fn note(changes: &mut Changes, mut rest: &[u8]) {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    while let (Some(length), Some(kind)) =
        (rest.first_chunk::<4>(), rest.get(4..).and_then(<[u8]>::first_chunk::<2>))
    {
        match u16::from_ne_bytes(*kind) {
            // RTM_NEWLINK, RTM_NEWNETCONF and those that delete.
            16 | 17 | 80 | 81 => changes.links = true,
            20 | 21 => changes.addresses = true,
            24 | 25 | RTM_NEWNEXTHOP | RTM_DELNEXTHOP => changes.routes = true,
            32 | 33 => changes.rules = true,
            kind if kind >> 8 == NFNL_SUBSYS_NFTABLES => changes.nftables = true,
            _ => {}
        }
        let length = u32::from_ne_bytes(*length) as usize;
        let Some(next) = length.checked_next_multiple_of(4).filter(|_| length >= 16) else { return };
        rest = rest.get(next..).unwrap_or_default();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn wake(&self) {
        // It fails only when the counter is full, and then it is readable already.
        let _ = rustix::io::write(self.0.as_fd(), &1_u64.to_ne_bytes());
    }

    fn take(&self) -> bool {
        rustix::io::read(self.0.as_fd(), &mut [0; 8]).is_ok()
    }
}

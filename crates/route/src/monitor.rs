//! Tells when the host's routing may have changed.

use std::time::Duration;

use crate::error::RouteError;
use crate::os;

/// What may have changed since the last look. Who has changed it is not told: our own changes are among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// A device came, went, or went up or down.
    pub links: bool,
    /// An address.
    pub addresses: bool,
    /// A route of any table.
    pub routes: bool,
    /// A policy rule.
    pub rules: bool,
    /// Something in nftables.
    pub nftables: bool,
    /// A control group directly below the root came or went.
    pub cgroups: bool,
    /// The kernel dropped messages (`ENOBUFS`): anything may have changed.
    pub lost: bool,
    /// A [`Waker`] was used.
    pub woken: bool,
}

impl Changes {
    /// Whether the host has changed.
    pub fn any(&self) -> bool {
        self.routing() || self.nftables || self.cgroups
    }

    /// Whether links, addresses, routes or rules have changed.
    pub fn routing(&self) -> bool {
        self.links || self.addresses || self.routes || self.rules || self.lost
    }

    /// These and those.
    pub fn add(&mut self, more: Self) {
        self.links |= more.links;
        self.addresses |= more.addresses;
        self.routes |= more.routes;
        self.rules |= more.rules;
        self.nftables |= more.nftables;
        self.cgroups |= more.cgroups;
        self.lost |= more.lost;
        self.woken |= more.woken;
    }
}

/// Listens to the kernel's announcements for the network namespace of the thread that made it: links, addresses, routes
/// and rules of IPv4 and IPv6, and nftables; and to the file system's about control groups.
#[derive(Debug)]
pub struct Monitor(os::Monitor);

impl Monitor {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`RouteError::Open`].
    pub fn open() -> Result<Self, RouteError> {
        os::Monitor::open().map(Self)
    }

    /// What ends [`Monitor::wait`] early, from any thread.
    pub fn waker(&self) -> Waker {
        Waker(self.0.waker())
    }

    /// Waits until something has changed, or a [`Waker`] was used, or the time is over, and takes all that is waiting.
    ///
    /// # Errors
    /// [`RouteError::Talk`].
    pub fn wait(&mut self, at_most: Duration) -> Result<Changes, RouteError> {
        self.0.wait(at_most)
    }
}

/// Ends [`Monitor::wait`].
#[derive(Debug, Clone)]
pub struct Waker(os::Waker);

impl Waker {
    /// The wait under way ends; without one, the next.
    pub fn wake(&self) {
        self.0.wake();
    }
}

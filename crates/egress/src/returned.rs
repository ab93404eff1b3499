//! The last defence: packets of our own that come back from the TUN, and what follows from that.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use oneway_route::{Family, Safeguard};

use crate::forbidden::canonical;
use crate::reach::is_local;
use crate::registry::Owner;
use crate::{Egress, Quarantined, Transport};

impl Egress {
    /// Whether a packet that was read from the TUN is one of our own sockets'. If so it is to be dropped, and nothing more
    /// is sent to where it goes until [`Egress::close_breaker`]. One that any program may have sent to look like ours is to be
    /// dropped, too, and nothing follows.
    ///
    /// To be asked for packets of no known flow. It costs one look into a hash table.
    pub fn returned(&self, transport: Transport, src: SocketAddr, dst: SocketAddr) -> bool {
        if self.apart || self.without.has(Safeguard::Detector) {
            // A program there may have the same port as a socket of ours here.
            return false;
        }
        let ours = match self.registry.owner(transport, src, dst) {
            Owner::Other => false,
            Owner::Own => true,
            Owner::OwnIfLocal => is_local(&*self.oracle, src.ip()).unwrap_or(false),
            Owner::Doubtful => return is_local(&*self.oracle, src.ip()).unwrap_or(true),
        };
        if ours {
            self.breaker.trip(canonical(dst).ip(), Instant::now());
        }
        ours
    }

    /// An echo request of ours came back. Whether it is to be dropped.
    pub fn echo_returned(&self, dst: IpAddr) -> bool {
        let detects = !self.without.has(Safeguard::Detector);
        if detects {
            self.breaker.trip(dst.to_canonical(), Instant::now());
        }
        detects
    }

    /// How many packets ever came back.
    pub fn returned_packets(&self) -> u64 {
        self.breaker.returned()
    }

    /// Calls `alarm`, from whatever thread, whenever packets came back to a destination for the first time.
    pub fn on_return(&self, alarm: impl Fn() + Send + Sync + 'static) {
        self.breaker.set_alarm(Box::new(alarm));
    }

    /// What nothing is sent to, and whether it is time to try whether that is over.
    pub fn quarantined(&self, now: Instant) -> Vec<(Quarantined, bool)> {
        self.breaker.list(now)
    }

    /// When the next of them is to be tried.
    pub fn next_try(&self) -> Option<Instant> {
        self.breaker.next()
    }

    /// Sends nothing to a whole family any more.
    pub fn quarantine_family(&self, family: Family, now: Instant) {
        self.breaker.open_family(family, now);
    }

    /// It still loops: try again after twice the pause.
    pub fn keep_breaker_open(&self, which: Quarantined, now: Instant) {
        self.breaker.keep(which, now);
    }

    /// It does not loop any more.
    pub fn close_breaker(&self, which: Quarantined, now: Instant) {
        self.breaker.close(which, now);
    }

    /// Resets the connected sockets that `doomed` says so of, given their own address and their peer's: their owners get
    /// `ECONNRESET`. Returns how many.
    pub fn reset(&self, doomed: impl FnMut(IpAddr, IpAddr) -> bool) -> usize {
        self.registry.reset(doomed)
    }
}

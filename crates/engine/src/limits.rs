//! How much of anything there may be. At a limit the new one is refused politely and the old ones live.

use std::time::Duration;

use crate::config::{LimitsConfig, StackKind, Wait};

/// How many of something there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of all sources together.
    pub all: usize,
    /// Of one source.
    pub of_source: usize,
}

impl Share {
    /// One source may have them all.
    const fn whole(all: usize) -> Self {
        Self { all, of_source: all }
    }

    /// One source leaves a quarter to the others.
    const fn fair(all: usize) -> Self {
        Self { all, of_source: all / 4 * 3 }
    }
}

/// The limits of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections, closing ones included.
    pub tcp_connections: usize,
    /// Connections whose outbound is being dialled.
    pub dialing: Share,
    /// How long a dial may take for which nobody but its client sets a limit: the time for which a client must repeat its
    /// SYN at least (RFC 9293, 3.8.3, R2 of a SYN). The kernel gives up before, after `tcp_syn_retries` (tcp(7)), unless it
    /// is told to be more patient.
    pub dial: Duration,
    /// UDP sessions: client sockets.
    pub udp_sessions: Share,
    /// Bytes of memory that datagrams of all sessions may take while they wait for their outbound, at first or when a
    /// SOCKS5 proxy has ended the association.
    pub udp_backlog: usize,
    /// DNS queries of one worker that wait for an upstream.
    pub dns_queries: usize,
    /// Echo sessions: running `ping`s.
    pub echo_sessions: Share,
    /// How long a half-closed connection may be silent.
    pub half_closed: Duration,
    /// How long a UDP session lives without a datagram (RFC 4787, REQ-5: not below 2 minutes).
    pub udp_idle: Duration,
    /// The same for a session with a well-known service that answers once, as DNS does (RFC 4787, REQ-5, the
    /// exception).
    pub udp_idle_short: Duration,
    /// How long an echo session lives without a request.
    pub echo_idle: Duration,
    /// How long a connected outbound waits for its client to finish the handshake.
    pub accept: Duration,
}

impl Limits {
    /// With fewer, connections would be accepted that nothing could carry, and what was changed could not be undone.
    pub const LEAST_DESCRIPTORS: u64 = 256;

    /// Limits for a process that may open `descriptors` files.
    ///
    /// A TCP connection holds two with the system stack, the client's and the outbound's, and one with our own, which
    /// has no socket for the client. One that holds more, as a tunnel and a DNS query do, counts as several. A quarter is kept
    /// for datagram sessions, pipes and everything else.
    pub fn for_descriptors(descriptors: u64, stack: StackKind) -> Self {
        let descriptors = usize::try_from(descriptors)
            .unwrap_or(usize::MAX)
            .clamp(Self::LEAST_DESCRIPTORS as usize, 1 << 24);
        let spare = (descriptors / 4).max(64);
        let each = match stack {
            StackKind::User => 1,
            StackKind::System => 2,
        };
        let flows = (descriptors - spare) / each;
        Self {
            tcp_connections: flows.max(64),
            dialing: Share::fair((flows / 2).max(32)),
            dial: Duration::from_secs(180),
            udp_sessions: Share::whole((spare * 3 / 4).max(32)),
            udp_backlog: 16 << 20,
            // Each may ask several upstreams, with a socket for each.
            dns_queries: (spare / 8).clamp(16, 1024),
            echo_sessions: Share::whole((spare / 16).clamp(8, 1024)),
            half_closed: Duration::from_secs(300),
            udp_idle: Duration::from_secs(120),
            udp_idle_short: Duration::from_secs(20),
            echo_idle: Duration::from_secs(20),
            accept: Duration::from_secs(20),
        }
    }

    /// The same where other hosts are served as well, of which none is to keep the others out, nor this host. Where there is this
    /// host alone, all of its programs are behind one address or two, and nobody else is in want.
    #[must_use]
    pub const fn for_other_hosts(self) -> Self {
        Self {
            udp_sessions: Share::fair(self.udp_sessions.all),
            echo_sessions: Share::fair(self.echo_sessions.all),
            ..self
        }
    }

    /// The same where the kernel hands out so many ports. Each datagram session has one, and what has none left cannot so much
    /// as ask for a name, whether it is captured or not: half of them are for others.
    #[must_use]
    pub fn within_ports(self, ports: usize) -> Self {
        let Share { all, .. } = self.udp_sessions;
        Self { udp_sessions: Share::whole(all.min(ports / 2).max(1)), ..self }
    }

    /// The same with what the user wants otherwise.
    #[must_use]
    pub fn with(self, config: &LimitsConfig) -> Self {
        Self { half_closed: config.half_closed.map_or(self.half_closed, Wait::get), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_ports_are_for_others() {
        let limits = Limits::for_descriptors(1 << 20, StackKind::User);
        assert_eq!(limits.clone().within_ports(28_232).udp_sessions, Share::whole(14_116));
        assert_eq!(limits.clone().within_ports(1 << 24).udp_sessions, limits.udp_sessions);
        assert_eq!(limits.within_ports(1).udp_sessions, Share::whole(1));
    }

    #[test]
    fn whatever_there_is_one_source_cannot_have_it_all() {
        for stack in [StackKind::User, StackKind::System] {
            for descriptors in [0, 256, 1024, 65_536, 1 << 24, u64::MAX] {
                let alone = Limits::for_descriptors(descriptors, stack);
                let limits = alone.clone().for_other_hosts();
                for share in [limits.dialing, limits.udp_sessions, limits.echo_sessions] {
                    assert!(share.of_source > 0 && share.of_source < share.all, "{descriptors}: {share:?}");
                }
                assert!(limits.dialing.all < limits.tcp_connections, "{descriptors}");
                for share in [alone.udp_sessions, alone.echo_sessions] {
                    assert_eq!(share.of_source, share.all, "this host has all that there is");
                }
            }
        }
    }
}

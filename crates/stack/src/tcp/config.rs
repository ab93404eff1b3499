//! What connections of one stack have in common.

use std::time::Duration;

use oneway_wire::emit::HOP_LIMIT;
use oneway_wire::ip::{IPV4_HEADER_LEN, IPV6_HEADER_LEN};
use oneway_wire::tcp::HEADER_LEN;

/// The properties of a stack's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest packet of the device, or of the path to the peer where that is known to carry less, 576 to 65535 bytes:
    /// what is not exceeded, and what the peer is asked not to exceed.
    pub mtu: u16,
    /// Whether the device takes superpackets and cuts them (TSO, or the same in software).
    pub superpackets: bool,
    /// Received bytes that one connection may hold: its largest receive window. At least 4096.
    pub receive_limit: u32,
    /// Bytes that one connection may hold to be sent, sent and unacknowledged ones among them.
    pub send_limit: u32,
    /// How long an acknowledgment may wait for data to travel with. RFC 9293 3.8.6.3 bounds it to 0.5 s, whatever stands
    /// here.
    pub delayed_ack: Duration,
    /// Probes on an idle connection; RFC 9293 3.8.4: off by default.
    pub keep_alive: Option<KeepAlive>,
    /// How long a connection that was closed from here keeps its ports: 2 MSL of RFC 9293 3.3.2.
    pub time_wait: Duration,
    /// How long unacknowledged data, or a probed peer, may stay without an answer: R2 of RFC 9293 3.8.3, which asks for
    /// at least 100 s.
    pub give_up: Duration,
    /// The same for a SYN without an answer; RFC 9293 3.8.3 asks for at least 3 minutes of a SYN that opens actively.
    pub give_up_syn: Duration,
    /// Hop limit, or time to live, of what is sent.
    pub hop_limit: u8,
    /// DSCP of what is sent, in the upper six bits of the traffic class or type of service.
    pub traffic_class: u8,
}

/// RFC 9293 3.8.4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Silence before the first probe; RFC 9293 asks for no less than two hours by default.
    pub idle: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub probes: u8,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mtu: u16::MAX,
            superpackets: true,
            receive_limit: 512 * 1024,
            send_limit: 1024 * 1024,
            delayed_ack: Duration::from_millis(5),
            keep_alive: None,
            // The peer is a program on this host or behind its bridge: nothing of the old connection is under way for
            // minutes there, and a new SYN takes the place safely before (RFC 6191).
            time_wait: Duration::from_secs(4),
            give_up: Duration::from_secs(300),
            give_up_syn: Duration::from_secs(180),
            hop_limit: HOP_LIMIT,
            traffic_class: 0,
        }
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: Duration::from_secs(2 * 3600), interval: Duration::from_secs(75), probes: 9 }
    }
}

impl Config {
    /// The maximum segment size to announce: the MTU without the fixed headers (RFC 9293 3.7.1, RFC 6691).
    pub(super) fn announced_mss(&self, v6: bool) -> u16 {
        self.mtu.max(576) - headers(v6)
    }

    /// The shift that a window of `receive_limit` needs (RFC 7323 2.2).
    pub(super) fn window_shift(&self) -> u8 {
        (0..14).find(|shift| u64::from(self.receive_limit) <= u64::from(u16::MAX) << shift).unwrap_or(14)
    }
}

/// Length of the IP and TCP headers without options.
pub(super) const fn headers(v6: bool) -> u16 {
    (if v6 { IPV6_HEADER_LEN } else { IPV4_HEADER_LEN } + HEADER_LEN) as u16
}

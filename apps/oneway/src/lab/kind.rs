//! The kinds of loops, and where each was seen.

use serde::Serialize;

/// A kind of loop. `docs/loop-avoidance.md` draws the way of its packets.
#[derive(Debug, Serialize)]
pub(crate) struct Kind {
    /// Its number.
    pub(crate) id: &'static str,
    /// What comes back.
    pub(crate) name: &'static str,
    /// The reports of it, or the programs.
    pub(crate) seen: &'static str,
}

const fn kind(id: &'static str, name: &'static str, seen: &'static str) -> Kind {
    Kind { id, name, seen }
}

/// All of them.
pub(crate) static ALL: [Kind; 15] = [
    kind("L1", "the way to the proxy server is captured", "every design without protection"),
    kind("L2", "a direct connection of the proxy's own is captured", "sing-box#4086"),
    kind("L3", "the TUN's own network is sent to", "sing-box#4367, #4415, #4455; v2rayN#9897"),
    kind("L4", "IPv6 is not protected, IPv4 is", "sing-box#4309, #4178"),
    kind("L5", "the uplink is lost, and the TUN is taken for it", "sing-tun#9, mihomo#1011"),
    kind("L6", "a bound socket's packet is forwarded back into the TUN", "mihomo#3186, #3229"),
    kind("L7", "another virtual device is taken for the uplink", "mihomo#3122"),
    kind("L8", "a stale fake address is dialled as if it were real", "leaf, mihomo"),
    kind("L9", "the own look-up goes to a resolver that asks by way of us", "sing-box#3637, mihomo#2633"),
    kind("L10", "a proxy on this host is captured itself", "every peer, left to the user"),
    kind("L11", "somebody's rule leads what is exempt into the TUN", "tailscale#21146, #19796"),
    kind("L12", "the own listener, the own public address", "OpenWrt-momo#33, ztunnel#233"),
    kind("L13", "ICMP echo is relayed into itself", "mihomo"),
    kind("L14", "protecting a socket failed, and nobody looked", "firezone#14363, shadowsocks-rust"),
    kind("L15", "captured before protected, at the start", "wg-quick on macOS"),
];

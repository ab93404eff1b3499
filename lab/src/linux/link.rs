//! Devices, addresses and sysctls of a namespace, by netlink.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State, Stats64,
};

use crate::client::wait_until;
use crate::error::LabError;
use crate::ns::NetNs;

/// What the kernel counted on a device since it was made. `rx` is what the device handed to the network stack:
/// for a TUN device these are the packets that its program wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Packets received; a superpacket counts once.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent; a superpacket counts once.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets thrown away on reception.
    pub rx_dropped: u64,
    /// Packets thrown away instead of being sent.
    pub tx_dropped: u64,
}

/// A device of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is set up (`IFF_UP`), with or without carrier.
    pub up: bool,
    /// Whether it can send now: up, with carrier, and the kernel has taken notice of that (`IF_OPER_UP`). `lo` never
    /// says so.
    pub operational: bool,
    /// Its maximum transmission unit in bytes.
    pub mtu: u32,
    /// What it counted.
    pub counters: LinkCounters,
}

impl NetNs {
    /// Joins this namespace to `peer` by a pair of Ethernet devices, both down.
    ///
    /// # Errors
    /// [`LabError::Netlink`], as for everything below.
    pub fn veth(&self, name: &str, peer: &NetNs, peer_name: &str) -> Result<(), LabError> {
        let mut far = LinkMessage::default();
        far.attributes.push(LinkAttribute::IfName(peer_name.to_owned()));
        far.attributes.push(LinkAttribute::NetNsFd(peer.fd().as_raw_fd()));
        let mut near = LinkMessage::default();
        near.attributes.push(LinkAttribute::IfName(name.to_owned()));
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]));
        self.netlink(
            || format!("make the pair of devices \"{name}\" and \"{peer_name}\""),
            |netlink| netlink.change(Message::NewLink(near), NLM_F_CREATE | NLM_F_EXCL),
        )
    }

    /// Makes a bridge, down.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn bridge(&self, name: &str) -> Result<(), LabError> {
        self.add_link(name, InfoKind::Bridge)
    }

    /// Makes a dummy device, down.
    ///
    /// # Errors
    /// [`LabError::Netlink`]; also when the kernel has no dummy driver.
    pub fn dummy(&self, name: &str) -> Result<(), LabError> {
        self.add_link(name, InfoKind::Dummy)
    }

    fn add_link(&self, name: &str, kind: InfoKind) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        self.netlink(
            || format!("make the device \"{name}\""),
            |netlink| netlink.change(Message::NewLink(link), NLM_F_CREATE | NLM_F_EXCL),
        )
    }

    /// Puts the device `name` into the bridge `bridge`.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn attach(&self, name: &str, bridge: &str) -> Result<(), LabError> {
        let bridge = self.link_index(bridge)?;
        self.set_link(name, "put into a bridge", |link| {
            link.attributes.push(LinkAttribute::Controller(bridge));
        })
    }

    /// Sets the device up.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn up(&self, name: &str) -> Result<(), LabError> {
        self.set_link(name, "set up", |link| {
            link.header.flags = LinkFlags::Up;
            link.header.change_mask = LinkFlags::Up;
        })
    }

    /// Waits until the device can send. After a change of carrier the kernel may take a second until it sends again
    /// (net/core/link_watch.c).
    ///
    /// # Errors
    /// [`LabError::Deadline`] after five seconds.
    pub fn wait_operational(&self, name: &str) -> Result<(), LabError> {
        let what = format!("the device \"{name}\" in namespace \"{}\" is operational", self.name());
        let operational = || self.link(name).is_ok_and(|link| link.operational);
        wait_until(Duration::from_secs(5), &what, operational).map(drop)
    }

    /// Sets the device down; the kernel then removes its routes and, for IPv6, its addresses.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn down(&self, name: &str) -> Result<(), LabError> {
        self.set_link(name, "set down", |link| link.header.change_mask = LinkFlags::Up)
    }

    /// Has the device send without asking for its neighbours' Ethernet addresses (`IFF_NOARP`).
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn set_noarp(&self, name: &str) -> Result<(), LabError> {
        self.set_link(name, "switch off ARP of", |link| {
            link.header.flags = LinkFlags::Noarp;
            link.header.change_mask = LinkFlags::Noarp;
        })
    }

    /// Sets the device's maximum transmission unit, in bytes.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), LabError> {
        self.set_link(name, "set the MTU of", |link| link.attributes.push(LinkAttribute::Mtu(mtu)))
    }

    /// Deletes the device; of a pair, both ends.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn delete_link(&self, name: &str) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.header.index = self.link_index(name)?;
        self.netlink(
            || format!("delete the device \"{name}\""),
            |netlink| netlink.change(Message::DelLink(link), 0),
        )
    }

    fn set_link(&self, name: &str, what: &str, edit: impl FnOnce(&mut LinkMessage)) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.header.index = self.link_index(name)?;
        edit(&mut link);
        self.netlink(
            || format!("{what} the device \"{name}\""),
            |netlink| netlink.change(Message::SetLink(link), 0),
        )
    }

    /// The number of the device `name`.
    ///
    /// # Errors
    /// [`LabError::Netlink`], with `ENODEV` when there is no such device.
    pub fn link_index(&self, name: &str) -> Result<u32, LabError> {
        Ok(self.link(name)?.index)
    }

    /// What the kernel counted on the device `name`.
    ///
    /// # Errors
    /// [`LabError::Netlink`], with `ENODEV` when there is no such device.
    pub fn link_counters(&self, name: &str) -> Result<LinkCounters, LabError> {
        Ok(self.link(name)?.counters)
    }

    /// The device `name` as it is now.
    ///
    /// # Errors
    /// [`LabError::Netlink`], with `ENODEV` when there is no such device.
    pub fn link(&self, name: &str) -> Result<LinkState, LabError> {
        let mut wanted = LinkMessage::default();
        wanted.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let answer = self.netlink(
            || format!("find the device \"{name}\""),
            |netlink| netlink.get(Message::GetLink(wanted)),
        )?;
        Ok(link_state(answer).unwrap_or(LinkState {
            index: 0,
            name: name.to_owned(),
            up: false,
            operational: false,
            mtu: 0,
            counters: LinkCounters::default(),
        }))
    }

    /// All devices, in the kernel's order.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn links(&self) -> Result<Vec<LinkState>, LabError> {
        let answers = self.netlink(
            || "list the devices".to_owned(),
            |netlink| netlink.dump(Message::GetLink(LinkMessage::default())),
        )?;
        Ok(answers.into_iter().filter_map(link_state).collect())
    }

    /// Gives the device an address. IPv6 addresses are usable at once, without duplicate address detection.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn add_address(&self, name: &str, address: IpNet) -> Result<(), LabError> {
        let message = self.address_message(name, address)?;
        self.netlink(
            || format!("add the address {address} to \"{name}\""),
            |netlink| netlink.change(Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE),
        )?;
        if address.addr().is_ipv6() && self.link(name)?.up {
            // The kernel adds the route by which it takes packets for the address in the background
            // (addrconf_dad_work in net/ipv6/addrconf.c).
            let what = format!("the address {address} of \"{name}\" in namespace \"{}\" works", self.name());
            wait_until(Duration::from_secs(5), &what, || self.is_local(address.addr()).unwrap_or(false))?;
        }
        Ok(())
    }

    /// Takes an address from the device.
    ///
    /// # Errors
    /// [`LabError::Netlink`].
    pub fn delete_address(&self, name: &str, address: IpNet) -> Result<(), LabError> {
        let message = self.address_message(name, address)?;
        self.netlink(
            || format!("delete the address {address} of \"{name}\""),
            |netlink| netlink.change(Message::DelAddress(message), 0),
        )
    }

    fn address_message(&self, name: &str, address: IpNet) -> Result<AddressMessage, LabError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.scope = AddressScope::Universe;
        message.header.index = self.link_index(name)?;
        message.attributes.push(AddressAttribute::Local(address.addr()));
        message.attributes.push(AddressAttribute::Address(address.addr()));
        match address {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
            }
            IpNet::V4(_) => {}
            IpNet::V6(_) => {
                message.header.flags = AddressHeaderFlags::Nodad;
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        Ok(message)
    }

    /// Writes a sysctl; `key` is relative to `/proc/sys/net`, as in `ipv4/ip_forward`.
    ///
    /// # Errors
    /// [`LabError::Sysctl`].
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| std::fs::write(path, value))?.map_err(|source| self.sysctl_error(key, source))
    }

    /// Reads a sysctl; `key` is relative to `/proc/sys/net`. White space at the end is cut off.
    ///
    /// # Errors
    /// [`LabError::Sysctl`].
    pub fn sysctl(&self, key: &str) -> Result<String, LabError> {
        let path = format!("/proc/sys/net/{key}");
        let text =
            self.run(|| std::fs::read_to_string(path))?.map_err(|source| self.sysctl_error(key, source))?;
        Ok(text.trim_end().to_owned())
    }

    fn sysctl_error(&self, key: &str, source: std::io::Error) -> LabError {
        LabError::Sysctl { key: key.to_owned(), name: self.name().to_owned(), source }
    }
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn link_state(message: Message) -> Option<LinkState> {
    let Message::NewLink(link) = message else { return None };
    let mut state = LinkState {
        index: link.header.index,
        name: String::new(),
        up: link.header.flags.contains(LinkFlags::Up),
        operational: false,
        mtu: 0,
        counters: LinkCounters::default(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => state.name = name,
            LinkAttribute::Mtu(mtu) => state.mtu = mtu,
            LinkAttribute::OperState(oper) => state.operational = oper == State::Up,
            LinkAttribute::Stats64(stats) => state.counters = counters(&stats),
            _ => {}
        }
    }
    Some(state)
}

fn counters(stats: &Stats64) -> LinkCounters {
    LinkCounters {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        rx_dropped: stats.rx_dropped,
        tx_dropped: stats.tx_dropped,
    }
}

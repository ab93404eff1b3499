//! The single values of a configuration, each parsed into a type that cannot hold a wrong one.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;

use ipnet::IpNet;

/// Why a text is no valid value: a phrase such as `"tunn" is no capture mode; use tun, redirect or tproxy`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(pub(super) String);

/// Declares an enumeration whose variants are written as fixed words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $what:literal, { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant,)+ }

        impl $name {
            /// Every word that is accepted, in the order of the documentation.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for this value, as it is written in a configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(word: &str) -> Result<Self, InvalidValue> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(InvalidValue(format!("{word:?} is no {}; use {}", $what, either(Self::WORDS)))),
                }
            }
        }
    };
}

pub(super) use words;

words!(
    /// How traffic is taken in.
    CaptureMode, "capture mode", {
        /// Through a TUN device.
        Tun = "tun",
        /// By the netfilter REDIRECT target, TCP only.
        Redirect = "redirect",
        /// By the netfilter TPROXY target.
        Tproxy = "tproxy",
    }
);

words!(
    /// Which TCP/IP implementation ends the captured connections.
    StackKind, "stack", {
        /// oneway's own, in user space.
        User = "user",
        /// The operating system's, reached by address translation.
        System = "system",
    }
);

words!(
    /// How our own sockets are kept out of the capture.
    Protect, "protection", {
        /// The strongest that this host allows, verified.
        Auto = "auto",
        /// A bit of the firewall mark (`SO_MARK`).
        Mark = "mark",
        /// The same, and rules that end the decision about packets with that bit.
        MarkTerminal = "mark-terminal",
        /// The same, and no route into the capture device counts for them (`suppress_ifgroup`).
        MarkIfgroup = "mark-ifgroup",
        /// Binding to the uplink (`SO_BINDTODEVICE`).
        Bind = "bind",
        /// A policy rule for the sockets' source address and ports.
        SourceRule = "source-rule",
        /// A host route for each proxy server.
        HostRoute = "host-route",
        /// The same, with `0/1` and `128/1` in main over an untouched default route.
        HostRouteHalves = "host-route-halves",
        /// A network namespace that is not captured.
        Netns = "netns",
    }
);

words!(
    /// What is done with captured DNS queries.
    DnsMode, "DNS mode", {
        /// Answered with addresses that stand for the names.
        FakeIp = "fake-ip",
        /// Answered with what the upstream says.
        Real = "real",
        /// Carried like any other traffic.
        Off = "off",
    }
);

words!(
    /// What is done with this host's resolver settings.
    HostResolver, "resolver setting", {
        /// Changed where what programs ask would go past the capture.
        Auto = "auto",
        /// Changed, or nothing is captured.
        Always = "always",
        /// Left alone.
        Off = "off",
    }
);

words!(
    /// How much is logged.
    LogLevel, "log level", {
        /// Failures that end the program.
        Error = "error",
        /// And what the user should look at.
        Warn = "warn",
        /// And the steps of start and stop.
        Info = "info",
        /// And each flow.
        Debug = "debug",
        /// And each packet.
        Trace = "trace",
    }
);

words!(
    /// The form of the log lines.
    LogFormat, "log format", {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json",
    }
);

/// The name of a network interface: 1 to 15 bytes without `/`, `:`, `%` and white space, not `.` or `..`
/// (`dev_valid_name` in net/core/dev.c; `%` would make the kernel invent a number).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidValue;
    fn from_str(name: &str) -> Result<Self, InvalidValue> {
        let wrong = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%');
        if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(wrong) {
            return Err(InvalidValue(format!(
                "{name:?} is no interface name; use 1 to 15 bytes without `/`, `:`, `%` and blanks"
            )));
        }
        Ok(Self(name.to_owned()))
    }
}

/// A network namespace: a name of `ip netns`, or a path with a `/` in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetnsName(String);

impl NetnsName {
    /// The name or path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NetnsName {
    type Err = InvalidValue;
    fn from_str(name: &str) -> Result<Self, InvalidValue> {
        // PATH_MAX, with its end.
        if name.is_empty() || name.len() > 4_095 || name == "." || name == ".." || name.contains('\0') {
            return Err(InvalidValue(format!(
                "{name:?} is no network namespace; use a name that `ip netns list` shows, or a path"
            )));
        }
        Ok(Self(name.to_owned()))
    }
}

/// One bit of the firewall mark.
///
/// A single bit, because the rule that captures tests `mark & bit == 0`: with several bits a foreign mark that
/// shares only one of them would be taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MarkBit(NonZeroU32);

impl MarkBit {
    /// The bit as a mask, a power of two.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for MarkBit {
    type Error = InvalidValue;
    fn try_from(mark: u32) -> Result<Self, InvalidValue> {
        NonZeroU32::new(mark).filter(|mark| mark.is_power_of_two()).map(Self).ok_or_else(|| {
            InvalidValue(format!("{mark:#x} is no single bit; use a power of two such as 0x10000000"))
        })
    }
}

impl FromStr for MarkBit {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u32::from_str_radix(hex, 16),
            None => text.parse(),
        };
        number.map_err(|_| InvalidValue(format!("{text:?} is no number of 32 bits")))?.try_into()
    }
}

/// The MTU of the TUN device in bytes: 1280 (what IPv6 needs, RFC 8200, 5) to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mtu(u16);

impl Mtu {
    /// The MTU in bytes.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidValue;
    fn try_from(mtu: u32) -> Result<Self, InvalidValue> {
        u16::try_from(mtu)
            .ok()
            .filter(|mtu| *mtu >= 1280)
            .map(Self)
            .ok_or_else(|| InvalidValue(format!("{mtu} is no MTU; use 1280 to 65535")))
    }
}

impl FromStr for Mtu {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse::<u32>()
            .map_err(|_| InvalidValue(format!("{text:?} is no MTU; use 1280 to 65535")))?
            .try_into()
    }
}

/// The number of a user that may be excluded. `u32::MAX` stands for "no user" in the kernel and is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(u32);

impl Uid {
    /// The user's number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Uid {
    type Error = InvalidValue;
    fn try_from(uid: u32) -> Result<Self, InvalidValue> {
        if uid == u32::MAX { Err(no_uid(&uid.to_string())) } else { Ok(Self(uid)) }
    }
}

impl FromStr for Uid {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse::<u32>().map_err(|_| no_uid(text))?.try_into()
    }
}

fn no_uid(text: &str) -> InvalidValue {
    InvalidValue(format!("{text:?} is no user number; use 0 to 4294967294, as `id -u NAME` prints it"))
}

/// A set of destinations: an address prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(IpNet);

impl Prefix {
    /// The prefix; its host bits are zero.
    pub const fn net(self) -> IpNet {
        self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Prefix {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.into()));
        }
        let net: IpNet =
            text.parse().map_err(|_| InvalidValue(format!("{text:?} is no prefix; {CIDR_HINT}")))?;
        if net.trunc() != net {
            return Err(InvalidValue(format!("{text:?} has host bits set; the prefix is {}", net.trunc())));
        }
        Ok(Self(net))
    }
}

const CIDR_HINT: &str = "use an address and a length such as 192.0.2.0/24 or 2001:db8::/32";

/// An address of the TUN device with the length of its prefix. The prefix has room for at least one peer, and
/// the address is an ordinary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunAddress(IpNet);

impl TunAddress {
    /// The address with the length of its prefix.
    pub const fn net(self) -> IpNet {
        self.0
    }
}

impl fmt::Display for TunAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TunAddress {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let net: IpNet = text.parse().map_err(|_| {
            InvalidValue(format!("{text:?} is no address with a prefix length; use one such as 10.8.0.1/24"))
        })?;
        let address = net.addr();
        let wrong =
            |why: &str| Err(InvalidValue(format!("{text:?} cannot be an address of a TUN device: {why}")));
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return wrong("it is unspecified, multicast or loopback");
        }
        // Two host bits leave room for the network, the device, a peer and the broadcast address.
        if net.max_prefix_len() - net.prefix_len() < 2 {
            return wrong("its prefix has no room for a peer; use /30 (IPv4) or /126 (IPv6) or shorter");
        }
        if address == net.network() || (address.is_ipv4() && address == net.broadcast()) {
            return wrong("it is the network's or the broadcast address");
        }
        Ok(Self(net))
    }
}

/// The descriptor number of an open TUN device. It is duplicated at the start: whoever opened it keeps it, and closes it when it is
/// done with the device, after the engine has stopped. From the start on, neither descriptor blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TunFd(i32);

impl TunFd {
    /// The descriptor's number, never negative.
    pub const fn get(self) -> i32 {
        self.0
    }
}

impl TryFrom<u32> for TunFd {
    type Error = InvalidValue;
    fn try_from(fd: u32) -> Result<Self, InvalidValue> {
        i32::try_from(fd).map(Self).map_err(|_| {
            InvalidValue(format!("{fd} is no file descriptor; give the number of one that is open"))
        })
    }
}

impl FromStr for TunFd {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse::<u32>()
            .map_err(|_| {
                InvalidValue(format!("{text:?} is no file descriptor; give the number of one that is open"))
            })?
            .try_into()
    }
}

/// `a, b or c`.
pub(super) fn either(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

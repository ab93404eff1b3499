//! The messages on the control socket, which are also what `--json` prints.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::report::{Doctor, Why, WhyQuestion};
use crate::reloaded::Reloaded;

/// What a client asks of the running instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// How it is doing.
    Status,
    /// Which flows it carries.
    Flows,
    /// Whether each way out is free of loops.
    Doctor,
    /// What would become of a packet, and why.
    Why(WhyQuestion),
    /// Stop and undo every change; answered when that is done.
    Stop,
    /// Keep what was set up with a time limit.
    Confirm,
    /// Read the configuration again and put it into force.
    Reload,
    /// Let a group of type `select` take this member for new flows.
    Select {
        /// The group.
        group: String,
        /// One of its members.
        member: String,
    },
}

/// What the running instance answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "data", rename_all = "kebab-case")]
pub enum ControlReply {
    /// To [`ControlRequest::Status`].
    Status(Box<Status>),
    /// To [`ControlRequest::Flows`].
    Flows(Vec<FlowInfo>),
    /// To [`ControlRequest::Doctor`].
    Doctor(Box<Doctor>),
    /// To [`ControlRequest::Why`].
    Why(Box<Why>),
    /// To [`ControlRequest::Stop`]: everything is undone, and the process is about to end.
    Stopped,
    /// To [`ControlRequest::Confirm`]: it is kept. `false` if there was nothing to confirm.
    Confirmed(bool),
    /// To [`ControlRequest::Reload`]: it is in force.
    Reloaded(Box<Reloaded>),
    /// To [`ControlRequest::Reload`]: the new configuration is wrong, or cannot be put into force; that of before stays.
    Rejected(String),
    /// To [`ControlRequest::Select`]: it is taken, and will be after a restart.
    Selected,
    /// The request was not understood, not allowed, or failed.
    Error(String),
}

/// How a running instance is doing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since traffic was first captured.
    pub uptime_s: u64,
    /// The stack in use: `system` or `user`.
    pub stack: String,
    /// The name of the TUN device.
    pub tun: String,
    /// How this host's own traffic is taken in: `tun`, `redirect` or `tproxy`.
    #[serde(default)]
    pub capture: String,
    /// The port that the packet filter hands it to, but with `tun`.
    #[serde(default)]
    pub port: Option<u16>,
    /// Whether what cannot be captured is refused.
    #[serde(default)]
    pub strict: bool,
    /// What traffic leaves by, per address family.
    pub uplink: UplinkStatus,
    /// What keeps our own sockets out of the capture.
    pub protect: ProtectStatus,
    /// The outbounds, sorted by name.
    pub outbounds: Vec<OutboundStatus>,
    /// How often the configuration was read again.
    #[serde(default)]
    pub reloads: u64,
    /// Seconds since that was last done; `None` if it never was.
    #[serde(default)]
    pub reloaded_s: Option<u64>,
    /// The DNS upstreams asked by TLS that have not answered when they were last asked.
    #[serde(default)]
    pub failing_upstreams: Vec<FailingUpstream>,
    /// Why rules on programs match less than they say, if they do.
    #[serde(default)]
    pub blind: Option<String>,
    /// What was counted since the start.
    pub counters: Counters,
    /// Whether a loop is excluded.
    pub loops: LoopVerdict,
    /// What the watch over the host has seen and done.
    #[serde(default)]
    pub guard: GuardStatus,
}

/// The uplink of each address family; `None` while there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// The interface that IPv4 leaves by.
    pub ipv4: Option<String>,
    /// The interface that IPv6 leaves by.
    pub ipv6: Option<String>,
}

/// What keeps our own sockets out of the capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectStatus {
    /// The strategy in use, such as `mark`.
    pub strategy: String,
    /// How it does so on this host, in one sentence.
    pub explanation: String,
}

/// How an outbound is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundStatus {
    /// Its name.
    pub name: String,
    /// Its type, such as `socks5`.
    pub kind: String,
    /// The proxy server as `host:port`, if it has one.
    pub server: Option<String>,
    /// Whether it works, as far as flows have shown.
    pub health: Health,
    /// Why the last flow through it failed, if one did.
    pub last_error: Option<String>,
    /// What a group chooses from; empty for all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
}

/// How a member of a group is doing, as that group sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Whether it works, as far as is known.
    pub works: bool,
    /// Whether a flow to some destination would take it now. Groups that balance have several such members.
    pub taken: bool,
    /// How long its last check took, in microseconds.
    pub check_us: Option<u64>,
}

/// A DNS upstream that does not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailingUpstream {
    /// The server, as a URL.
    pub server: String,
    /// Why.
    pub error: String,
}

/// Whether an outbound works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// The last flow through it was carried.
    Up,
    /// The last flow through it failed because of the outbound itself.
    Down,
    /// No flow has gone through it.
    #[default]
    Unknown,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Unknown => "unknown",
        })
    }
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets at the TUN device.
    pub tun: TunCounters,
    /// TCP connections.
    pub tcp: TcpCounters,
    /// UDP sessions.
    pub udp: UdpCounters,
    /// Payload carried for clients, TCP and UDP together.
    pub bytes: Bytes,
    /// DNS queries that were answered here.
    pub dns: DnsCounters,
}

/// DNS queries that were answered here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// What names are answered with: `fake-ip`, `real` or `off`.
    pub mode: String,
    /// Queries that came.
    pub queries: u64,
    /// Answered with a fake address.
    pub fake: u64,
    /// Answered from the cache.
    pub cached: u64,
    /// Passed on to upstreams.
    pub forwarded: u64,
    /// Answered with SERVFAIL.
    pub failed: u64,
    /// Messages that could not be parsed, of clients and of upstreams; dropped.
    pub malformed: u64,
    /// Messages that answered something that was not asked; dropped.
    pub spoofed: u64,
    /// Our own questions that a resolver on this host sent back to us.
    pub loops: u64,
    /// Names that have a fake address now.
    pub names: u64,
}

/// Packets at the TUN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunCounters {
    /// Read from it.
    pub packets_read: u64,
    /// Written to it.
    pub packets_written: u64,
    /// Read and found to break the rules of its protocol.
    pub malformed: u64,
    /// Read and answered with RST or ICMP because nothing may go there.
    pub refused: u64,
    /// Read and discarded without an answer.
    pub dropped: u64,
}

/// TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpCounters {
    /// Connected since the start.
    pub opened: u64,
    /// Connected now.
    pub active: u64,
    /// Not connected, because of a rule, a limit or the target.
    pub refused: u64,
    /// Of those refused, how many because of a limit of ours.
    #[serde(default)]
    pub limited: u64,
    /// Of those opened, how many carried so much that the kernel was told to rename their packets by itself
    /// (`--stack system`).
    #[serde(default)]
    pub shortened: u64,
}

/// UDP sessions, one for each client socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpCounters {
    /// Made since the start.
    pub opened: u64,
    /// Alive now.
    pub active: u64,
    /// Refused, because of a rule, a limit or the outbound.
    pub refused: u64,
}

/// Bytes of payload in each direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// From the client to the target.
    pub up: u64,
    /// From the target to the client.
    pub down: u64,
}

/// Whether a loop is excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopVerdict {
    /// The verdict.
    pub verdict: Verdict,
    /// What it rests on, in one sentence.
    pub why: String,
}

/// A verdict on loops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Each path out of here was asked of the kernel and does not come back.
    #[serde(rename = "proven")]
    Proven,
    /// The kernel says of one path that it does, or packets of our own have come back.
    #[serde(rename = "LOOPS")]
    Loops,
    /// It could not be shown for each path.
    #[default]
    #[serde(rename = "not proven")]
    NotProven,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Proven => "proven",
            Self::Loops => "LOOPS",
            Self::NotProven => "not proven",
        })
    }
}

/// What the watch over the host has seen and done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Changes of ours to this host that somebody had removed and that were made again.
    pub restored: u64,
    /// Which those were, the latest first; not all of them.
    pub latest: Vec<String>,
    /// How often the plan was changed because the host has: its uplinks, or other programs' rules.
    pub moved: u64,
    /// Flows that were reset because their uplink is gone.
    pub flows_reset: u64,
    /// Packets of our own that came back from the TUN; each was dropped.
    pub returned: u64,
    /// Where nothing is sent any more because of that.
    pub quarantined: Vec<String>,
    /// Seconds in which far more packets were written to the TUN than were read from it.
    pub alarms: u64,
    /// Flows of a proxy on this host that would have been sent to it again; each was refused.
    #[serde(default)]
    pub circles: u64,
    /// Networks of ours that somebody else has too since then, and what of theirs: they are out of reach.
    #[serde(default)]
    pub overlaps: Vec<String>,
    /// Why something of ours that somebody has removed is not there again.
    #[serde(default)]
    pub missing: Option<String>,
}

/// One live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// A number that no other flow of this run has.
    pub id: u64,
    /// `tcp`, `udp` or `icmp`.
    pub network: String,
    /// The client's socket.
    pub source: SocketAddr,
    /// Where the client wants to go, as `address:port`, or as `name:port (address)` where its name is known. The address may be
    /// a fake one.
    pub target: String,
    /// The rule that matched: `MATCH` if it was the final outbound, `excluded program` if its program is excluded by name.
    pub rule: String,
    /// The outbound that carries it.
    pub outbound: String,
    /// Payload carried so far.
    pub bytes: Bytes,
    /// Seconds since its first packet.
    pub age_s: u64,
    /// What it is doing: `dialling` until its outbound is connected, then `open`, also where one half is closed.
    pub state: String,
}

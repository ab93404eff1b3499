//! What `why` and `doctor` find out, as it goes over the control socket and as `--json` prints it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A verdict on one way out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LoopFree {
    /// Everything that was asked says that nothing comes back.
    #[serde(rename = "proven")]
    Proven,
    /// It could not be asked, or the answers differ.
    #[default]
    #[serde(rename = "not proven")]
    NotProven,
    /// Packets of our own would come back.
    #[serde(rename = "LOOPS")]
    Loops,
}

impl fmt::Display for LoopFree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Proven => "proven",
            Self::NotProven => "not proven",
            Self::Loops => "LOOPS",
        })
    }
}

/// The answer of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// Whether it is about a running instance; otherwise about what `run` would do.
    pub running: bool,
    /// The worst of all.
    pub verdict: LoopFree,
    /// The capture device.
    pub tun: String,
    /// What keeps our own sockets out.
    pub protect: String,
    /// The ways out.
    pub paths: Vec<PathReport>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// One way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// The outbound.
    pub outbound: String,
    /// What leaves by it: `IPv4 TCP`, or `name proxy.example`.
    pub path: String,
    /// The verdict.
    pub loop_free: LoopFree,
    /// What it rests on.
    pub why: String,
    /// The devices that packets leave by.
    pub via: Vec<String>,
}

/// What `why` is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyQuestion {
    /// Where to.
    pub addr: SocketAddr,
    /// The name that has this address, if one was given.
    pub host: Option<String>,
    /// UDP instead of TCP.
    pub udp: bool,
    /// Who sends it.
    pub uid: u32,
    /// The address that the program is bound to, or that of a client whose packet this host forwards.
    pub from: Option<IpAddr>,
}

/// The answer of `why`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Whether it is about a running instance; otherwise about what `run` would do.
    pub running: bool,
    /// Where to.
    pub target: String,
    /// `tcp` or `udp`.
    pub network: String,
    /// The way of the program's own packet.
    pub program: Way,
    /// Whether that way leads to us.
    pub captured: bool,
    /// What is decided at the device before any rule; only of what is captured.
    pub guard: Option<String>,
    /// The rule that decides, and the outbound; only of what the guard lets pass.
    pub rule: Option<String>,
    /// What would have come before it, had more been known than the question says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_asked: Option<String>,
    /// The outbound.
    pub outbound: Option<String>,
    /// The group that chose the outbound, if the rule names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What we would send, and where it goes.
    pub dials: Vec<Dial>,
    /// The worst of all.
    pub loop_free: LoopFree,
    /// Why it cannot loop, or that it does.
    pub why: String,
}

/// One address that a socket of ours connects or sends to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// The address.
    pub address: SocketAddr,
    /// Whose it is: `the destination` or `the proxy`.
    pub whose: String,
    /// What the guard of outgoing sockets says.
    pub guard: String,
    /// The way of our packet; none when no socket is made.
    pub way: Option<Way>,
    /// The verdict.
    pub loop_free: LoopFree,
    /// What it rests on.
    pub why: String,
}

/// A routing decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// The packet: mark, device, user.
    pub packet: String,
    /// The rule that decided, as `ip rule` lists it.
    pub rule: Option<String>,
    /// The route that decided, as `ip route` lists it.
    pub route: Option<String>,
    /// The device that it leaves by.
    pub device: Option<String>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The source address that it gets.
    pub source: Option<IpAddr>,
    /// What becomes of it: `unicast`, `local`, `unreachable`, …
    pub kind: String,
    /// Who says so: `the kernel`, or `the model` where there is nothing to ask the kernel about yet.
    pub says: String,
    /// What was assumed about rules that look at more than this.
    pub assumed: Vec<String>,
}

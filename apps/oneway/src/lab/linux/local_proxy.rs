//! L10: the proxy is a program of this host, and its own connections are captured, and sent to it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use oneway::config::Safeguard::Circle;
use oneway_lab::program::{Oneway, Program};
use oneway_lab::servers::{SocksOptions, SocksServer, origin};
use oneway_lab::topology::{Simple, address, port};
use oneway_lab::{LabError, NetNs};

use super::run::SELF;
use super::{Prop, Props, Scene, dial, words};

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port::SOCKS);

pub(super) fn scene() -> Scene {
    Scene {
        options: words(&["--proxy", &format!("socks5://{LISTEN}")]),
        without: vec![Circle],
        prepare,
        ignite: |lab| dial(lab, &address::ORIGIN.ports(origin::port::HTTP)),
        ..Scene::default()
    }
}

/// The server in its own process: whose flows are whose is told by that.
struct Proxy(#[expect(dead_code, reason = "it is killed when it is dropped")] Oneway);

impl Prop for Proxy {}

fn prepare(lab: &Simple) -> Result<Props, LabError> {
    let program = Program::new(&lab.host, SELF, ["lab-part", &LISTEN.to_string()]);
    let server = program.ready("ready:", Duration::from_secs(5)).start()?;
    Ok(Some(Box::new(Proxy(server))))
}

/// The server, in that process.
pub(super) fn serve(here: &NetNs, listen: &[SocketAddr]) -> Result<SocksServer, LabError> {
    SocksServer::start(here, listen, SocksOptions::default())
}

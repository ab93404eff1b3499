//! The process outside, until the program runs.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ipnet::IpNet;
use oneway_route::{Change, Protect, Request, Snapshot};

use super::{ApartError, ApartTun, Made, Wish, descriptors};
use crate::assemble;
use crate::config::{
    CaptureMode, Config, ConfigError, ConfigErrors, DnsMode, DnsUpstream, FaultSpec, HostResolver, StackKind,
};
use crate::error::EngineError;

/// The name of the device inside, where nobody has taken it.
const TUN: &str = "oneway0";

/// One end of a channel to the process inside.
#[derive(Debug)]
pub struct Outside {
    channel: UnixStream,
    wish: Wish,
}

impl Outside {
    /// Prepares what `config` wants, for a process inside that is to be started with the other end, which is returned too.
    ///
    /// # Errors
    /// [`EngineError::Config`] for what has no meaning there.
    pub fn new(config: &mut Config) -> Result<(Self, OwnedFd), EngineError> {
        refuse_what_has_no_meaning(config)?;
        let host = Snapshot::take()?;
        // Free here, so that nothing that programs want to reach has the same. Strict it is anyway: in the namespace there
        // is no other way out.
        let request =
            Request { device_is_ours: true, strict: false, ..assemble::request(config, Protect::Mark) };
        let plan = oneway_route::plan(&request, &host)?;
        let nameserver = nameserver(&plan.tun_addresses);
        if config.dns.mode != DnsMode::Off && config.dns.upstream.is_empty() {
            // Who is asked inside is nobody.
            config.dns.upstream.push(DnsUpstream::System);
        }
        // What is remembered of names is of use to this one run.
        config.dns.fake_ip.persist = false;
        let wish = Wish {
            tun: config.tun.name.as_ref().map_or_else(|| TUN.to_owned(), |name| name.as_str().to_owned()),
            mtu: request.mtu,
            congestion: plan.steps.iter().find_map(|step| match &step.change {
                Change::Route(route) => route.congestion.clone(),
                _ => None,
            }),
            addresses: plan.tun_addresses,
            queues: crate::lifecycle::workers(),
            offload: !config.tun.fault.as_ref().is_some_and(FaultSpec::needs_checksums),
            listeners: config.capture.stack == StackKind::System,
            nameserver: Some(nameserver).filter(|_| config.dns.mode != DnsMode::Off),
        };
        let (channel, other) = UnixStream::pair().map_err(ApartError::Talk)?;
        let mut text = serde_json::to_vec(&wish).map_err(|e| ApartError::Talk(e.into()))?;
        text.push(b'\n');
        descriptors::send(&channel, &text, &[]).map_err(ApartError::Talk)?;
        Ok((Self { channel, wish }, other.into()))
    }

    /// What to wait for: it is readable when the process inside has made everything, or is gone.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Waits until everything is made inside.
    ///
    /// # Errors
    /// What failed there.
    pub fn receive(&self) -> Result<ApartTun, ApartError> {
        let (text, mut queues) = descriptors::receive(&self.channel).map_err(ApartError::Talk)?;
        let made: Result<Made, String> =
            serde_json::from_slice(&text).map_err(|e| ApartError::Talk(e.into()))?;
        let made = made.map_err(ApartError::Inside)?;
        for note in &made.notes {
            tracing::warn!("{note}");
        }
        if queues.len() < made.queues + usize::from(made.table)
            || made.queues == 0
            || made.addresses.is_empty()
        {
            return Err(ApartError::Talk(std::io::ErrorKind::InvalidData.into()));
        }
        let mut others = queues.split_off(made.queues).into_iter();
        let table = if made.table { others.next().map(Into::into) } else { None };
        let listeners = others.map(Into::into).collect();
        let mtu = u16::try_from(self.wish.mtu).unwrap_or(u16::MAX);
        Ok(ApartTun { queues, listeners, table, addresses: made.addresses, mtu, netns: made.netns })
    }

    /// Lets the process inside become the program.
    ///
    /// # Errors
    /// [`ApartError::Talk`] when it is gone.
    pub fn go(mut self) -> Result<(), ApartError> {
        self.channel.write_all(b"!").map_err(ApartError::Talk)
    }
}

/// An address that leads into the TUN, and is in none of its networks: those are refused. Every query is answered, whoever it
/// is sent to.
fn nameserver(own: &[IpNet]) -> IpAddr {
    let v4 = own.iter().find_map(|net| match net {
        IpNet::V4(net) => Some(net.broadcast().to_bits()),
        IpNet::V6(_) => None,
    });
    let behind = v4.and_then(|last| last.checked_add(54)).map(Ipv4Addr::from_bits);
    let usable = |ip: &Ipv4Addr| !ip.is_multicast() && !ip.is_loopback() && ip.octets()[0] < 240;
    // A network at the very end: any other address will do.
    behind.filter(usable).unwrap_or(Ipv4Addr::new(10, 53, 53, 53)).into()
}

fn refuse_what_has_no_meaning(config: &Config) -> Result<(), EngineError> {
    let capture = &config.capture;
    let wrong: [(&str, bool, &str); 11] = [
        (
            "another --capture than tun",
            capture.mode != CaptureMode::Tun,
            "what the program sends comes by its device",
        ),
        ("--tun-fd", config.tun.fd.is_some(), "the device is made for the program"),
        ("--forwarded", capture.forwarded, "nobody is behind the program"),
        ("--include", !capture.include.is_empty(), "there is no other way out; use rules"),
        ("--exclude", !capture.exclude.is_empty(), "there is no other way out; use rules"),
        ("--exclude-uid", !capture.exclude_uid.is_empty(), "only the program is captured"),
        ("--exclude-cgroup", !capture.exclude_cgroup.is_empty(), "only the program is captured"),
        ("--exclude-process", !capture.exclude_process.is_empty(), "only the program is captured"),
        ("--interface", config.egress.interface.is_some(), "our sockets follow the host's routes"),
        ("--resolver", config.dns.resolver != HostResolver::Auto, "the program has a resolv.conf of its own"),
        ("--confirm", config.confirm.is_some(), "nothing of this host is changed"),
    ];
    let errors = wrong.iter().filter(|(_, given, _)| *given);
    let errors = errors.map(|(option, _, why)| {
        ConfigError::new(None, format!("{option} has no meaning with `oneway exec`: {why}"))
    });
    match ConfigErrors::collect(errors.collect()) {
        Some(errors) => Err(EngineError::Config(errors)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nameserver_is_in_no_network_of_the_device() {
        for net in
            ["10.162.0.1/24", "192.0.2.1/30", "255.255.255.1/24", "223.255.255.1/24", "126.255.255.1/16"]
        {
            let net: IpNet = net.parse().unwrap();
            let IpAddr::V4(found) = nameserver(&[net]) else { panic!("not IPv4") };
            assert!(
                !net.contains(&IpAddr::V4(found)) && !found.is_multicast() && !found.is_loopback(),
                "{net}: {found}"
            );
        }
        assert!(nameserver(&[]).is_ipv4());
    }
}

//! The servers of one link in systemd-resolved (org.freedesktop.resolve1(5)).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::dbus::{Body, Bus, DAEMON, To};
use super::identity;
use super::netlink::Netlink;
use crate::error::RouteError;
use crate::resolver::LinkDomains;

const NAME: &str = "org.freedesktop.resolve1";
const MANAGER: To<'_> = To {
    destination: NAME,
    path: "/org/freedesktop/resolve1",
    interface: "org.freedesktop.resolve1.Manager",
};
/// For all that is asked at one time. It answers within a millisecond, or it hangs.
const LIMIT: Duration = Duration::from_secs(1);
/// Links that are looked at: a host of containers has many, and none of them is asked.
const MOST_LINKS: usize = 64;
/// All names.
const EVERYTHING: &str = ".";

/// Whether it runs, and in the calling thread's network namespace: the number of a link means another one elsewhere.
pub(super) fn works_here() -> bool {
    match process() {
        Ok(pid) => identity::is_netns_of(pid),
        Err(error) => {
            tracing::debug!(%error, "there is no systemd-resolved to be asked");
            false
        }
    }
}

fn process() -> io::Result<u32> {
    let mut bus = Bus::open(LIMIT)?;
    let mut name = Body::default();
    name.string(NAME);
    bus.call(DAEMON, "GetConnectionUnixProcessID", "s", &name)?.u32()
}

/// Who may not change it.
pub(super) fn refuses_us() -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| "systemd-resolved takes servers from root alone; run as root".to_owned())
}

fn fail(what: &'static str, name: &str) -> impl Fn(io::Error) -> RouteError {
    let what = format!("{what} {name} in systemd-resolved");
    move |source| RouteError::Resolver { what: what.clone(), source }
}

/// The number of a device, none when it is gone.
fn index(name: &str) -> Result<Option<i32>, RouteError> {
    let link = Netlink::routing()?.link_named(name)?;
    Ok(link.and_then(|link| i32::try_from(link.index.0).ok()))
}

/// Has it ask one server for everything by a device.
pub(super) fn make(name: &str, nameserver: IpAddr) -> Result<(), RouteError> {
    let Some(index) = index(name)? else {
        return Err(RouteError::NoDevice { what: "set the servers".into(), device: name.to_owned() });
    };
    set(index, nameserver).map_err(fail("set the servers of", name))
}

fn set(index: i32, nameserver: IpAddr) -> io::Result<()> {
    let mut bus = Bus::open(LIMIT)?;
    let link = || {
        let mut body = Body::default();
        body.i32(index);
        body
    };
    let mut servers = link();
    servers.array(8, |servers| {
        let (family, bytes) = octets(nameserver);
        servers.align(8).i32(family).bytes(&bytes);
    });
    let mut yes = link();
    yes.bool(true);
    let mut no = link();
    no.string("no");
    bus.call(MANAGER, "SetLinkDNS", "ia(iay)", &servers)?;
    set_domains(&mut bus, index, &[(EVERYTHING.to_owned(), true)])?;
    bus.call(MANAGER, "SetLinkDefaultRoute", "ib", &yes)?;
    // Addresses that stand for names are signed by nobody, and here nobody speaks TLS.
    for method in ["SetLinkDNSSEC", "SetLinkDNSOverTLS", "SetLinkMulticastDNS", "SetLinkLLMNR"] {
        bus.call(MANAGER, method, "is", &no)?;
    }
    bus.call(MANAGER, "FlushCaches", "", &Body::default()).map(drop)
}

fn octets(ip: IpAddr) -> (i32, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    }
}

/// Has it forget a device's servers. It forgets them by itself when the device is gone, but not what they have answered.
pub(super) fn unmake(name: &str) -> Result<bool, RouteError> {
    let index = index(name)?;
    let outcome = (|| {
        let mut bus = Bus::open(LIMIT)?;
        let was_set = match index {
            Some(index) => !servers(&mut bus, index)?.is_empty(),
            None => false,
        };
        if let Some(index) = index.filter(|_| was_set) {
            let mut link = Body::default();
            link.i32(index);
            bus.call(MANAGER, "RevertLink", "i", &link)?;
        }
        bus.call(MANAGER, "FlushCaches", "", &Body::default())?;
        Ok(was_set)
    })();
    match outcome {
        Ok(was_set) => Ok(was_set),
        // It is gone with all that it knew, or will be with the device.
        Err(error) => {
            tracing::warn!("{}", fail("forget the servers of", name)(error));
            Ok(false)
        }
    }
}

/// The devices whose servers are asked for all names. NetworkManager makes that of the one with the default route.
pub(super) fn links_for_everything() -> Result<Vec<LinkDomains>, RouteError> {
    let links = Netlink::routing()?.links()?;
    let found = Bus::open(LIMIT).map(|mut bus| {
        let links = links.into_iter().filter(|link| link.up && !link.loopback).take(MOST_LINKS);
        let domains_of = links.filter_map(|link| {
            // Those that it does not look after, it says so.
            let domains = domains(&mut bus, i32::try_from(link.index.0).ok()?).ok()?;
            Some(LinkDomains { name: link.name, domains })
        });
        domains_of.filter(|link| is_for_everything(&link.domains)).collect()
    });
    found.map_err(|source| RouteError::Resolver { what: "ask systemd-resolved for its links".into(), source })
}

fn is_for_everything(domains: &[(String, bool)]) -> bool {
    domains.iter().any(|(domain, _)| domain == EVERYTHING)
}

fn set_domains(bus: &mut Bus, index: i32, domains: &[(String, bool)]) -> io::Result<()> {
    let mut body = Body::default();
    body.i32(index).array(8, |all| {
        for (domain, is_way) in domains {
            all.align(8).string(domain).bool(*is_way);
        }
    });
    bus.call(MANAGER, "SetLinkDomains", "ia(sb)", &body).map(drop)
}

/// Has it not ask a device's servers for all names.
pub(super) fn narrow(link: &LinkDomains) -> Result<(), RouteError> {
    let Some(index) = index(&link.name)? else { return Ok(()) };
    let set = Bus::open(LIMIT).and_then(|mut bus| set_domains(&mut bus, index, &link.narrowed().domains));
    set.map_err(fail("set the domains of", &link.name))
}

/// Gives a device its domains back, if nobody has given it others.
pub(super) fn widen(link: &LinkDomains) -> Result<bool, RouteError> {
    let Some(index) = index(&link.name)? else { return Ok(false) };
    let outcome = Bus::open(LIMIT).and_then(|mut bus| {
        let is_ours = domains(&mut bus, index)? == link.narrowed().domains;
        if is_ours {
            set_domains(&mut bus, index, &link.domains)?;
        }
        Ok(is_ours)
    });
    match outcome {
        Ok(done) => Ok(done),
        // It still asks them: a device that has a default route needs no such domain when ours is gone.
        Err(error) => {
            tracing::warn!("{}", fail("restore the domains of", &link.name)(error));
            Ok(false)
        }
    }
}

/// Whether a device's servers are asked for all names. What cannot be asked is as it was.
pub(super) fn is_wide(name: &str) -> Result<bool, RouteError> {
    let Some(index) = index(name)? else { return Ok(false) };
    let domains = Bus::open(LIMIT).and_then(|mut bus| domains(&mut bus, index));
    Ok(domains.is_ok_and(|domains| is_for_everything(&domains)))
}

/// Whether it asks others, or not all. What cannot be asked is not missing: it may be about to start again, and remembers.
pub(super) fn lacks(name: &str, nameserver: IpAddr) -> Result<bool, RouteError> {
    let Some(index) = index(name)? else { return Ok(true) };
    let asked = Bus::open(LIMIT).and_then(|mut bus| {
        let same = servers(&mut bus, index)? == [octets(nameserver)];
        Ok(same && domains(&mut bus, index)?.contains(&(EVERYTHING.to_owned(), true)))
    });
    match asked {
        Ok(is_there) => Ok(!is_there),
        Err(error) => {
            tracing::debug!(%error, "systemd-resolved cannot be asked for the servers of {name}");
            Ok(false)
        }
    }
}

fn property(bus: &mut Bus, index: i32, name: &str) -> io::Result<super::dbus::Values> {
    let mut link = Body::default();
    link.i32(index);
    let path = bus.call(MANAGER, "GetLink", "i", &link)?.string()?;
    let mut wanted = Body::default();
    wanted.string("org.freedesktop.resolve1.Link").string(name);
    let to = To { destination: NAME, path: &path, interface: "org.freedesktop.DBus.Properties" };
    let mut values = bus.call(to, "Get", "ss", &wanted)?;
    values.signature()?;
    Ok(values)
}

fn servers(bus: &mut Bus, index: i32) -> io::Result<Vec<(i32, Vec<u8>)>> {
    property(bus, index, "DNS")?.array(8, |server| {
        let family = server.u32()?;
        Ok((i32::try_from(family).unwrap_or_default(), server.bytes()?))
    })
}

fn domains(bus: &mut Bus, index: i32) -> io::Result<Vec<(String, bool)>> {
    property(bus, index, "Domains")?.array(8, |domain| Ok((domain.string()?, domain.u32()? != 0)))
}

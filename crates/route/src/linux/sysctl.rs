//! Switches below `/proc/sys`. They are those of the calling thread's network namespace.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fs, io};

use crate::error::RouteError;
use crate::plan::{CONGESTION, IPV6_OFF};

/// Per interface and for `all`.
const PER_DEVICE: [(&str, &str); 3] =
    [("ipv4", "rp_filter"), ("ipv4", "src_valid_mark"), ("ipv6", "disable_ipv6")];
const ACCEPT: &str = "net/ipv4/tcp_fwmark_accept";
const VALID_MARK: &str = "net/ipv4/conf/all/src_valid_mark";
const GLOBAL: [&str; 8] = [
    IPV6_OFF,
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/ip_local_port_range",
    ACCEPT,
    "net/ipv4/fwmark_reflect",
    "net/ipv6/fwmark_reflect",
    CONGESTION,
];

fn file(path: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(path)
}

/// Reads one switch; `None` when this kernel does not have it.
pub(super) fn read(path: &str) -> Result<Option<String>, RouteError> {
    match fs::read_to_string(file(path)) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RouteError::Sysctl { what: "read", path: file(path), source }),
    }
}

/// Those that plans set to 1 and that outlive the device, if they are.
pub(crate) fn set_switches() -> Result<Vec<&'static str>, RouteError> {
    let mut found = Vec::new();
    for path in [ACCEPT, "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect", VALID_MARK] {
        if read(path)?.as_deref() == Some("1") {
            found.push(path);
        }
    }
    Ok(found)
}

/// Whether one may be set. To open one changes nothing.
pub(super) fn may_be_set() -> bool {
    fs::OpenOptions::new().write(true).open(file(ACCEPT)).is_ok()
}

/// Sets one switch.
pub(super) fn write(path: &str, value: &str) -> Result<(), RouteError> {
    fs::write(file(path), value).map_err(|source| RouteError::Sysctl {
        what: "write",
        path: file(path),
        source,
    })
}

/// Reads what a snapshot holds.
pub(super) fn read_all<'a>(
    devices: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, String>, RouteError> {
    let mut found = BTreeMap::new();
    let devices: Vec<_> = ["all"].into_iter().chain(devices).collect();
    let paths = PER_DEVICE
        .iter()
        .flat_map(|(family, switch)| devices.iter().map(move |d| format!("net/{family}/conf/{d}/{switch}")));
    for path in GLOBAL.iter().map(|p| (*p).to_owned()).chain(paths) {
        if let Some(value) = read(&path)? {
            found.insert(path, value);
        }
    }
    Ok(found)
}

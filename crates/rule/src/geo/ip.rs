//! `GEOIP`: countries of addresses, from a MaxMind database.

use std::fmt;
use std::net::IpAddr;

use maxminddb::{PathElement, Reader};

use crate::error::BinaryError;

/// A database of the countries of addresses.
pub struct GeoIp {
    reader: Reader<Vec<u8>>,
    layout: Layout,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// `country.iso_code`, as MaxMind has it.
    Country,
    /// The code itself, as sing-box has it.
    Code,
    /// The code, or a list of codes, as mihomo has it.
    Codes,
}

impl fmt::Debug for GeoIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeoIp").field("type", &self.reader.metadata().database_type).finish_non_exhaustive()
    }
}

impl GeoIp {
    /// Takes the bytes of a database file.
    ///
    /// # Errors
    /// If they are no database, or one of something other than countries.
    pub fn new(bytes: Vec<u8>) -> Result<Self, BinaryError> {
        let reader = open(bytes)?;
        let layout = match reader.metadata().database_type.as_str() {
            "sing-geoip" => Layout::Code,
            "Meta-geoip0" => Layout::Codes,
            kind if kind.contains("ASN") || kind.contains("ISP") || kind.contains("Domain") => {
                return Err(BinaryError::new(format!(
                    "this is a database of {kind:?}, not one of countries"
                )));
            }
            _ => Layout::Country,
        };
        Ok(Self { reader, layout })
    }

    /// Whether an address belongs to any of some codes; `test` is asked for each code that it has, in any case.
    pub(crate) fn any(&self, ip: IpAddr, mut test: impl FnMut(&str) -> bool) -> bool {
        // A database that is broken in one place knows nothing about the addresses there.
        let Ok(found) = self.reader.lookup(ip) else { return false };
        match self.layout {
            Layout::Country => {
                let path = [PathElement::Key("country"), PathElement::Key("iso_code")];
                matches!(found.decode_path::<&str>(&path), Ok(Some(code)) if test(code))
            }
            Layout::Code => matches!(found.decode::<&str>(), Ok(Some(code)) if test(code)),
            Layout::Codes => match found.decode::<&str>() {
                Ok(Some(code)) => test(code),
                _ => found.decode::<Vec<&str>>().ok().flatten().unwrap_or_default().into_iter().any(test),
            },
        }
    }
}

pub(super) fn open(bytes: Vec<u8>) -> Result<Reader<Vec<u8>>, BinaryError> {
    Reader::from_source(bytes).map_err(|e| BinaryError::new(format!("this is no MaxMind database: {e}")))
}

/// What Clash calls `LAN`: networks that are not of the internet.
pub(crate) fn is_lan(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
        }
        IpAddr::V6(ip) => {
            ip.is_unique_local()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip.is_unspecified()
        }
    }
}

//! `IP-ASN`: autonomous systems of addresses, from a MaxMind database.

use std::fmt;
use std::net::IpAddr;

use maxminddb::{PathElement, Reader};

use super::ip::open;
use crate::error::BinaryError;

/// A database of the autonomous systems of addresses.
pub struct Asn {
    reader: Reader<Vec<u8>>,
    /// The number is a text such as `AS64496`, as ipinfo has it.
    text: bool,
}

impl fmt::Debug for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asn").field("type", &self.reader.metadata().database_type).finish_non_exhaustive()
    }
}

impl Asn {
    /// Takes the bytes of a database file.
    ///
    /// # Errors
    /// If they are no database, or one of something other than autonomous systems.
    pub fn new(bytes: Vec<u8>) -> Result<Self, BinaryError> {
        let reader = open(bytes)?;
        let kind = reader.metadata().database_type.to_ascii_lowercase();
        if !kind.contains("asn") && !kind.contains("isp") {
            return Err(BinaryError::new(format!(
                "this is a database of {kind:?}, not one of autonomous systems"
            )));
        }
        Ok(Self { text: kind.starts_with("ipinfo"), reader })
    }

    /// The number of the autonomous system of an address.
    pub(crate) fn number(&self, ip: IpAddr) -> Option<u32> {
        let found = self.reader.lookup(ip).ok()?;
        if self.text {
            let text: &str = found.decode_path(&[PathElement::Key("asn")]).ok()??;
            return text.strip_prefix("AS").unwrap_or(text).parse().ok();
        }
        found.decode_path(&[PathElement::Key("autonomous_system_number")]).ok()?
    }
}

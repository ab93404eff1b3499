use std::error::Error;
use std::fmt;

/// Why bytes are not the packet they claim to be, or not one that can be handled.
///
/// Small and `Copy`, because a flood of bad packets must cost nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Malformed {
    /// The bytes end before the named header does, or before the length it states.
    Truncated {
        /// The header.
        what: &'static str,
        /// Bytes it needs, counted from its own start.
        need: usize,
        /// Bytes there are.
        have: usize,
    },
    /// The version field of the IP header is neither 4 nor 6.
    Version(u8),
    /// A length field that contradicts the header's own minimum or its container.
    Length {
        /// The field.
        what: &'static str,
        /// Its value, in bytes.
        value: usize,
    },
    /// IPv6 extension headers in an order or number that RFC 8200 4.1 forbids, or more than
    /// [`crate::ip::MAX_EXTENSION_HEADERS`].
    ExtensionHeaders,
    /// An IPv4 option with an impossible length (RFC 791 3.1).
    Ipv4Option,
    /// Well formed, but the operation asked for cannot be done on it.
    Unsupported {
        /// What stands in the way.
        what: &'static str,
    },
    /// Addresses of one family given for a packet of the other.
    Family,
}

impl Malformed {
    pub(crate) fn need(what: &'static str, need: usize, have: usize) -> Result<(), Malformed> {
        if have < need { Err(Malformed::Truncated { what, need, have }) } else { Ok(()) }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Truncated { what, need, have } => {
                write!(f, "{what} cut short: {need} bytes needed, {have} there")
            }
            Malformed::Version(version) => write!(f, "IP version {version}"),
            Malformed::Length { what, value } => write!(f, "{what} of {value} bytes is impossible"),
            Malformed::ExtensionHeaders => f.write_str("IPv6 extension headers out of order or too many"),
            Malformed::Ipv4Option => f.write_str("IPv4 option with an impossible length"),
            Malformed::Unsupported { what } => write!(f, "cannot handle {what}"),
            Malformed::Family => f.write_str("addresses of the other IP version"),
        }
    }
}

impl Error for Malformed {}

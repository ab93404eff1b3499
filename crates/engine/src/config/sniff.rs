//! Whether the first bytes of flows are looked at for a name.

use std::time::Duration;

use super::value::InvalidValue;

/// Where names are looked for, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniffConfig {
    /// Whether they are at all.
    pub enable: bool,
    /// How long a client may take from its first byte to the name.
    pub timeout: Duration,
    /// Ports where a TLS ClientHello is looked for.
    pub tls: Vec<Port>,
    /// Ports where an HTTP request is looked for.
    pub http: Vec<Port>,
    /// Ports where QUIC Initial packets are looked for.
    pub quic: Vec<Port>,
}

impl Default for SniffConfig {
    fn default() -> Self {
        Self {
            enable: false,
            timeout: Duration::from_millis(300),
            tls: vec![Port(443), Port(8443)],
            http: vec![Port(80), Port(8080), Port(8880)],
            quic: vec![Port(443), Port(8443)],
        }
    }
}

/// The number of a port, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for Port {
    type Error = InvalidValue;
    fn try_from(port: u32) -> Result<Self, InvalidValue> {
        let number = u16::try_from(port).ok().filter(|number| *number > 0);
        number.map(Self).ok_or_else(|| InvalidValue(format!("{port} is no port; use 1 to 65535")))
    }
}

//! `SO_BINDTODEVICE` does not exist here.

use oneway_route::IfIndex;
use socket2::Socket;

use crate::EgressError;

pub(crate) fn set(_socket: &Socket, _name: &str) -> Result<(), EgressError> {
    usable()
}

pub(crate) fn read_back(_socket: &Socket, _index: IfIndex, _name: &str) -> Result<(), EgressError> {
    usable()
}

pub(crate) fn usable() -> Result<(), EgressError> {
    Err(EgressError::Unsupported {
        what: "protection by SO_BINDTODEVICE".to_owned(),
        instead: "no protected egress exists for this system in this version",
    })
}

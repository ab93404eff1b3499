//! `SO_MARK` does not exist here.

use oneway_route::Mark;
use socket2::Socket;

use crate::EgressError;

pub(crate) fn set(_socket: &Socket, mark: Mark) -> Result<(), EgressError> {
    usable(mark)
}

pub(crate) fn read_back(_socket: &Socket, mark: Mark) -> Result<(), EgressError> {
    usable(mark)
}

pub(crate) fn usable(_mark: Mark) -> Result<(), EgressError> {
    Err(EgressError::Unsupported {
        what: "protection by SO_MARK".to_owned(),
        instead: "no protected egress exists for this system in this version",
    })
}

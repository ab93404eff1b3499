//! Devices by their number, which they keep whatever they are called.

use crate::error::RouteError;
use crate::host::Link;
use crate::id::IfIndex;
use crate::os;

/// The device of this number in the calling thread's network namespace; `None` when there is none (any more).
///
/// # Errors
/// When the kernel cannot be asked.
pub fn link(index: IfIndex) -> Result<Option<Link>, RouteError> {
    os::link(index)
}

/// Gives a device another name. Kernels before 6.2 rename none that is up: there it is down afterwards, and has lost its
/// routes.
///
/// # Errors
/// [`RouteError::Refused`], when there is another device of that name for example.
pub fn rename_link(index: IfIndex, name: &str) -> Result<(), RouteError> {
    os::rename_link(index, name)
}

//! Systems without namespaces.

use std::convert::Infallible;
use std::io;

/// Always fails.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`].
pub fn unshare(_with_user: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Always fails.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`].
pub fn inherited(_number: i32) -> io::Result<Infallible> {
    Err(io::ErrorKind::Unsupported.into())
}

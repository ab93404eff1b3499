//! The laboratory on an operating system that has no network namespaces.

/// There is no laboratory on this operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the laboratory needs Linux network namespaces, which this operating system does not have; run it on Linux"
)]
pub struct Unsupported;

/// Always fails: there are no network namespaces to enter here.
///
/// # Errors
/// [`Unsupported`], always.
pub fn enter() -> Result<(), Unsupported> {
    Err(Unsupported)
}

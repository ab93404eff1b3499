//! Apple's systems, which have datagrams alone.

use socket2::Type;

/// Datagrams.
pub(super) const DATAGRAMS: Type = Type::DGRAM;

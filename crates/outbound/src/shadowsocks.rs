//! Shadowsocks: SIP004 (AEAD ciphers) and SIP022 (AEAD-2022 ciphers), over TCP and UDP.
//!
//! The ciphers are those of the project's own crate, in Rust. Its protocol crate needs C for its cryptography, and so a
//! compiler for each target; what there is besides the ciphers, how they are framed, is here.
//!
//! <https://shadowsocks.org/doc/sip004.html>, <https://shadowsocks.org/doc/sip022.html>

mod cipher;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod method;
mod packet;
mod stream;

pub(crate) use method::Key;
pub use method::Method;
pub(crate) use packet::Packets;
pub(crate) use stream::ShadowStream;

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far a peer's clock may be from ours (SIP022, 3.1.3).
const CLOCK: Duration = Duration::from_secs(30);

/// Seconds since 1970, as AEAD-2022 has them.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn is_recent(time: u64) -> bool {
    now().abs_diff(time) <= CLOCK.as_secs()
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes)?;
    Ok(bytes)
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(|error| io::Error::other(error.to_string()))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

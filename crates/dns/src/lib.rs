//! What happens to captured DNS.
//!
//! ```text
//! query ─▶ Server ─┬▶ FakeIp ─▶ an address that only means something to this program   (fake-ip)
//!                  └▶ Client ─▶ cache ─▶ upstreams, by sockets of `egress`             (real, and the rest)
//! ```
//!
//! [`FakeIp`] gives names addresses of their own and finds the names again when somebody connects to them; [`Memory`]
//! remembers which names real addresses belong to. Nothing here opens a port: queries come from whoever captures them.

#![forbid(unsafe_code)]

mod cache;
mod carrier;
mod client;
mod exchange;
mod fake_ip;
mod memory;
mod message;
mod pattern;
mod plain;
mod secure;
mod server;
mod system;
mod upstream;

pub use carrier::{Carried, Carrier, Connecting};
pub use client::{Client, ClientConfig, ClientCounters, Resolved};
pub use exchange::ExchangeError;
pub use fake_ip::{BadPool, FakeIp, FakeIpConfig, Pinned, StoreError, TTL};
pub use memory::{AskedBy, Doubt, Memory};
pub use message::{Asked, MAX_QUERY, Refusal, Unfit, accept, parse_query};
pub use pattern::{BadPattern, DEFAULT_EXCLUDED, Patterns};
pub use secure::{Place, Secure, SecureKind};
pub use server::{Mode, Quick, Server, ServerCounters, Transport};
pub use system::{hosts, nameservers};
pub use upstream::Upstream;

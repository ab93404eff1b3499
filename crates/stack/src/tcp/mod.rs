//! TCP of our own (RFC 9293), made to end the connections of local programs.
//!
//! ```text
//! packet ─▶ Segment ─▶ Connection::segment_arrives ─▶ data to the application
//!                          │    ▲
//!            Scoreboard, Receiver│timeout
//!                          ▼    │
//! packet ◀─ Outgoing ◀─ Connection::transmit ◀─ SendQueue ◀─ data of the application
//! ```
//!
//! Any destination address is accepted: who keeps the connections, and by what key, is the caller's business. Data are
//! not copied on their way: what comes in order is handed over as it lies in the packet, what is sent stays in the
//! buffer that it was read into until it is acknowledged. An idle connection owns no buffer.
//!
//! `docs/tcp-conformance.md` lists what the specifications demand, and the test that shows each.
//!
//! Nagle's algorithm (RFC 9293 3.7.4) is off: what is sent here was cut into segments by the sender at the far end
//! already, who had Nagle's choice, and holding it back again would only add a round trip. ECN (RFC 3168) is refused in
//! the handshake, and congestion control is NewReno (RFC 5681) with RACK-TLP (RFC 8985) to find losses.

mod acknowledgment;
mod config;
mod congestion;
mod connection;
mod isn;
mod receive;
mod rtt;
mod scoreboard;
mod segment;
mod segment_arrives;
mod send_queue;
mod seq;
mod syn;
mod time;
mod timers;
mod transmit;

pub use config::{Config, KeepAlive};
pub use connection::{Broken, Connection, State};
pub use isn::IsnGenerator;
pub use segment::{Blocks, MAX_HEADERS, Outgoing, Payload, Segment, SynOptions, Timestamps};
pub use segment_arrives::Arrival;
pub use seq::Seq;
pub use syn::Syn;
pub use time::Time;

#[cfg(test)]
mod tests;

//! One test for each MUST of TCP's specifications, named after it. `docs/tcp-conformance.md` lists them all.

mod ack;
mod close;
mod congestion;
mod document;
mod header;
mod icmp;
mod isn;
mod keepalive;
mod options;
mod reset;
mod retransmission;
mod sack;
mod states;
mod timestamps;
mod urgent;
mod window;

use super::bench::*;

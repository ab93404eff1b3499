//! Datagrams of a relay, one by one and together.

use std::net::SocketAddr;
use std::sync::Arc;

use oneway_flow::Target;

use super::relayed::Relayed;
use crate::socks5::datagram::HEADER_MAX;

/// Where each datagram's payload comes from, and the payload.
type Taken = Vec<(SocketAddr, Vec<u8>)>;

/// What is made of datagrams of `size` bytes, the last of which may be shorter: as each by itself, and as all together.
/// The client has sent one to `name` before.
pub fn relayed(name: &str, received: &[u8], size: usize) -> (Taken, Taken) {
    let (one, together) = (Relayed::default(), Relayed::default());
    let target = Target { addr: ([198, 18, 0, 1], 53).into(), host: Some(Arc::from(name)) };
    for relayed in [&one, &together] {
        let _ = relayed.header(&mut [0; HEADER_MAX], &target);
    }
    let mut slot = received.to_vec();
    let mut joined = Vec::new();
    let all = 0..slot.len();
    together.unwrap_joined(&mut slot, all, size, &mut |slot, run, size, source| {
        let run = slot.get(run).unwrap_or_default();
        if run.is_empty() {
            joined.push((source, Vec::new()));
        }
        joined.extend(run.chunks(size).map(|payload| (source, payload.to_vec())));
    });
    let mut single = Vec::new();
    let mut at = 0;
    loop {
        let end = received.len().min(at + size.max(1));
        if let Some((payload, source)) = one.unwrap(received, at..end) {
            single.push((source, received.get(payload).unwrap_or_default().to_vec()));
        }
        at = end;
        if at == received.len() {
            return (single, joined);
        }
    }
}

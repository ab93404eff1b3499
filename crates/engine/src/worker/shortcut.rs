//! Connections of the system stack that carry much: the kernel renames their packets by itself.
//!
//! ```text
//! client ══ data ══▶ TUN ─ renamed in the kernel ─▶ our listener ◀═ splice ═▶ protected socket ◀══════▶ target
//! ```
//!
//! A connection of a few packets is over before that would pay. One that has had [`ENOUGH`] has its names put into the
//! kernel's table, and taken out again at the first sign of an end: from there on every packet comes here, so that
//! [`Conn::observe`] sees how it ends.

use std::sync::atomic::{AtomicU32, Ordering};

use oneway_stack::nat::Conn;
use oneway_wire::tcp::Flags;

use super::tcp::Held;
use super::{Shared, Worker};

/// Work that a connection must have made before the kernel is told of it, in packets or pieces of [`PIECE`] bytes.
const ENOUGH: u32 = 32;

/// A superpacket counts as several packets.
const PIECE: u32 = 4096;

/// Set once the kernel was asked to take the connection into its table.
const DONE: u32 = 1 << 31;
/// Set while the kernel's table has it.
const THERE: u32 = 1 << 30;
/// Set once it is ending.
const ENDED: u32 = 1 << 29;

/// How far a connection is from its shortcut.
#[derive(Debug, Default)]
pub(crate) struct Shortcut(AtomicU32);

impl Worker {
    /// Counts a segment that was renamed here, and acts on it.
    pub(super) fn shorten(&self, conn: &Conn<Held>, flags: Flags, payload: u32) {
        let Some(shortcuts) = &self.shared.shortcuts else { return };
        let state = &conn.data.shortcut.0;
        if flags.intersects(Flags::FIN | Flags::RST) {
            return end(&self.shared, conn);
        }
        if state.load(Ordering::Relaxed) & (DONE | ENDED) != 0 {
            return;
        }
        let work = 1 + payload / PIECE;
        let before = state.fetch_add(work, Ordering::Relaxed);
        if before + work < ENOUGH || state.fetch_or(DONE, Ordering::AcqRel) & (DONE | ENDED) != 0 {
            return;
        }
        let (out, back) = names(conn);
        // A full table is no harm: the packets come here.
        let done = shortcuts.insert(out, (conn.peer, conn.local)).and_then(|()| {
            shortcuts.insert(back, (conn.target, conn.client)).inspect_err(|_| shortcuts.remove(out))
        });
        if done.is_ok() {
            self.shared.stats.tcp_shortened.add();
            // Another worker may have seen its end meanwhile, and found nothing to take out.
            if state.fetch_or(THERE, Ordering::AcqRel) & ENDED != 0 {
                end(&self.shared, conn);
            }
        }
    }
}

/// What the kernel looks for: the client's segments, and those of our listener.
fn names(conn: &Conn<Held>) -> (Pair, Pair) {
    ((conn.client, conn.target), (conn.local, conn.peer))
}

type Pair = (std::net::SocketAddr, std::net::SocketAddr);

/// From now on every segment comes to this program.
pub(super) fn end(shared: &Shared, conn: &Conn<Held>) {
    let Some(shortcuts) = &shared.shortcuts else { return };
    let state = &conn.data.shortcut.0;
    state.fetch_or(ENDED, Ordering::AcqRel);
    if state.fetch_and(!THERE, Ordering::AcqRel) & THERE != 0 {
        let (out, back) = names(conn);
        shortcuts.remove(out);
        shortcuts.remove(back);
    }
}

//! How answers to what comes in are told from what begins here.

use super::capture::prepare;
use super::{Draft, Step, choose};
use crate::change::Change;
use crate::host::NftSupport;
use crate::id::Family;
use crate::nft::Memory;

/// What a socket or an answer has of the mark of what came in.
const ACCEPT: &str = "net/ipv4/tcp_fwmark_accept";
const REFLECT: &str = "net/ipv4/fwmark_reflect";
const REFLECT6: &str = "net/ipv6/fwmark_reflect";

/// What remembers it. Sockets and sets do where nothing else needs connection tracking: containers' answers, which no socket
/// of this host gives; exempt programs, which share their ports with others in turn; our own sockets without a mark;
/// `--strict`, redirection and TPROXY, whose tables ask for it. Nor where others steer by marks: what is accepted would have
/// theirs as well, and be answered by another way than before (a transparent proxy's, to loopback).
pub(super) fn memory(draft: &Draft<'_>) -> Memory {
    let request = draft.request;
    let plain = request.protect.marks()
        && !request.track
        && !request.forwarded
        && !request.strict
        && request.redirect.is_none()
        && request.tproxy.is_none()
        && request.exclude_cgroups.is_empty();
    let settable = |path: &&str| match draft.host.sysctls.get(*path).map(|value| value.trim()) {
        Some("1") => true,
        Some("0") => draft.host.switches,
        _ => false,
    };
    let can = draft.host.nft == NftSupport::Full && switches(draft).iter().all(settable);
    if plain && can && choose::foreign_marks(draft.host).is_empty() {
        Memory::Sockets
    } else {
        Memory::Tracking
    }
}

/// The switches that sockets remember by.
pub(super) fn steps(draft: &Draft<'_>, memory: Memory) -> Vec<Step> {
    if memory == Memory::Tracking {
        return Vec::new();
    }
    let set = |path: &&str| {
        let old = draft.host.sysctls.get(*path).map(|value| value.trim())?;
        let why = match *path {
            ACCEPT => "what is accepted bears our mark if what came in did: it is answered past the capture",
            _ => "so does what the kernel itself answers",
        };
        let change = Change::Sysctl { path: (*path).to_owned(), old: old.to_owned(), new: "1".into() };
        (old != "1").then(|| prepare(change, why))
    };
    switches(draft).iter().filter_map(set).collect()
}

fn switches(draft: &Draft<'_>) -> Vec<&'static str> {
    let mut all = vec![ACCEPT, REFLECT];
    if draft.host.has(Family::V6) {
        all.push(REFLECT6);
    }
    all
}

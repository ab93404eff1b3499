//! The kernel's table of connections. Our rules for connections that begin outside may need it, and with it every connection of
//! this host is an entry, each captured one two or three, which stays for two minutes after its end (`nf_conntrack_proto_tcp.c`,
//! `tcp_timeouts`). When the table is full, the kernel drops the first packet of every new one and tells nobody but its own log.

use std::fs;
use std::time::Instant;

use super::Watcher;

const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

impl Watcher {
    /// Says that the table is nearly full, while it is.
    pub(super) fn look_at_tracking(&mut self) {
        // Of a kernel that tracks nothing there is nothing to be said.
        let (Ok(count), Ok(most)) = (fs::read_to_string(COUNT), fs::read_to_string(MOST)) else { return };
        let Some((count, most)) = nearly_full(&count, &most) else { return };
        if self.said.tracking.may(Instant::now()) {
            tracing::warn!(
                count,
                most,
                "the kernel's table of connections is nearly full, and when it is, new connections are dropped: \
                 raise net.netfilter.nf_conntrack_max"
            );
        }
    }
}

/// What the two files say, if nine tenths of the table are taken. No limit is told as zero.
fn nearly_full(count: &str, most: &str) -> Option<(u64, u64)> {
    let (count, most): (u64, u64) = (count.trim().parse().ok()?, most.trim().parse().ok()?);
    (most > 0 && count >= most - most / 10).then_some((count, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_tenths_are_nearly_full() {
        assert_eq!(nearly_full("899\n", "1000\n"), None);
        assert_eq!(nearly_full("900\n", "1000\n"), Some((900, 1000)));
        assert_eq!(nearly_full("1200\n", "1000\n"), Some((1200, 1000)));
        assert_eq!(nearly_full("5\n", "0\n"), None);
        assert_eq!(nearly_full("", "1000\n"), None);
    }

    #[test]
    fn the_kernel_says_both_as_numbers() {
        let read = |path| fs::read_to_string(path).ok().map(|text| text.trim().parse::<u64>());
        for number in [read(COUNT), read(MOST)].into_iter().flatten() {
            number.unwrap();
        }
    }
}

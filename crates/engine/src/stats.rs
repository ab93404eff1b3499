//! What happened, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of the running engine. All of them only grow.
        #[derive(Debug, Default)]
        pub(crate) struct Stats {
            $($(#[$doc])* pub(crate) $name: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// The counters as they are now.
            pub(crate) fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Packets read from the TUN. A superpacket is one.
    tun_read,
    /// Packets written to the TUN.
    tun_written,
    /// Packets that the TUN did not take.
    tun_write_failed,
    /// Packets that are not what their headers say; dropped.
    malformed,
    /// Fragments for which there was no memory, with all of their packets; dropped.
    fragments_refused,
    /// Packets of protocols that are not carried, those that belong to no flow, and fragments that came twice; dropped.
    ignored,
    /// Packets and flows to destinations that would lead back into the TUN or nowhere; refused.
    guarded,
    /// TCP connections that clients asked for.
    tcp_opened,
    /// Of them, those whose outbound was connected.
    tcp_connected,
    /// Of them, those that were answered with RST or ICMP.
    tcp_refused,
    /// Of them, those that nobody answered until the client or the kernel gave up.
    tcp_timed_out,
    /// Connections refused because a limit was reached or no port was free.
    tcp_limited,
    /// Connections that ended with a reset or a failure.
    tcp_reset,
    /// TCP connections whose packets the kernel was told to rename by itself.
    tcp_shortened,
    /// UDP sessions opened.
    udp_opened,
    /// UDP sessions refused.
    udp_refused,
    /// Datagrams sent on.
    udp_up,
    /// Datagrams returned to clients.
    udp_down,
    /// Datagrams lost here: a full socket, a limit, an outbound that they waited for in vain.
    udp_dropped,
    /// Echo requests sent on.
    echo_up,
    /// Echo replies returned.
    echo_down,
    /// Echo requests refused.
    echo_refused,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

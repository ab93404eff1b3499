//! One connection: its variables (RFC 9293 3.3.1) and what its user may ask of it (3.9.1).

use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, headers};
use super::congestion::NewReno;
use super::receive::Receiver;
use super::rtt::RttEstimator;
use super::scoreboard::Scoreboard;
use super::send_queue::SendQueue;
use super::seq::Seq;
use super::syn::Syn;
use super::time::Time;

/// The states of RFC 9293 3.3.2. LISTEN is none of a connection: a [`Syn`] that was accepted makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A SYN was sent.
    SynSent,
    /// A SYN came and was answered.
    SynReceived,
    /// Data may flow.
    Established,
    /// A FIN was sent, or is about to be.
    FinWait1,
    /// It was acknowledged.
    FinWait2,
    /// The peer's FIN came.
    CloseWait,
    /// Both have sent a FIN; ours is not acknowledged.
    Closing,
    /// Our FIN, the second one, is not acknowledged.
    LastAck,
    /// Over; the ports rest.
    TimeWait,
    /// Over.
    Closed,
}

/// Why a connection ended other than by both ends closing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The peer reset it.
    Reset,
    /// The peer refused the SYN.
    Refused,
    /// The peer has not answered for too long.
    TimedOut,
    /// [`Connection::abort`] was called.
    Aborted,
}

/// What the timer is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// RFC 6298.
    Retransmission,
    /// RFC 8985 7: to learn of a loss at the end of what was sent.
    TailLossProbe,
    /// RFC 8985 6.3: what may still only be late is lost by then.
    Reordering,
    /// RFC 9293 3.8.6.1.
    ZeroWindowProbe,
}

/// When the peer is to be told what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    None,
    Delayed(Time),
    Now,
}

/// RFC 7323 4 and 5.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimestampState {
    /// TS.Recent.
    pub(super) recent: u32,
    pub(super) recent_at: Time,
    /// What is added to the clock, so that it tells nobody how long this has been running.
    pub(super) offset: u32,
}

/// A reset to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reset {
    pub(super) seq: Seq,
    pub(super) ack: Option<Seq>,
}

/// Below this, headers would be most of what is sent; Linux has the same floor (`TCP_MIN_SND_MSS`).
const MIN_SEGMENT_SIZE: u16 = 48;

/// One end of a TCP connection, free of I/O and clock.
///
/// The caller brings packets ([`Connection::segment_arrives`]), time ([`Connection::timeout`]) and data
/// ([`Connection::send`]); after each of these it asks for what is to be sent ([`Connection::transmit`]) and when to
/// come back ([`Connection::next_timeout`]). `B` is the buffer that data to be sent lie in; it is dropped when they are
/// acknowledged.
#[derive(Debug)]
pub struct Connection<B> {
    pub(super) config: Arc<Config>,
    pub(super) state: State,
    pub(super) broken: Option<Broken>,
    pub(super) v6: bool,
    /// The segment size that the peer is asked to use, of which it takes off the options.
    pub(super) receive_mss: u16,
    /// Began with the peer's SYN (RFC 9293 3.5, MUST-11).
    pub(super) passive: bool,

    /// ISS, SND.UNA, SND.NXT, SND.WND, SND.WL1, SND.WL2.
    pub(super) iss: Seq,
    pub(super) una: Seq,
    pub(super) nxt: Seq,
    /// Our SYN is acknowledged. The sequence numbers alone do not say so: they come round.
    pub(super) syn_acknowledged: bool,
    pub(super) wnd: u32,
    pub(super) wl1: Seq,
    pub(super) wl2: Seq,
    /// The largest window that the peer offered: MAX.SND.WND of RFC 5961 5.2, Max(SND.WND) of RFC 9293 3.8.6.2.1.
    pub(super) max_wnd: u32,
    /// Snd.Wind.Shift and Rcv.Wind.Shift.
    pub(super) send_shift: u8,
    pub(super) recv_shift: u8,
    /// Data that fit into one segment to the peer, options taken off: Eff.snd.MSS.
    pub(super) mss: u16,
    pub(super) sack_permitted: bool,
    pub(super) timestamps: Option<TimestampState>,
    pub(super) queue: SendQueue<B>,
    pub(super) board: Scoreboard,
    /// A FIN follows what is queued.
    pub(super) closing: bool,

    pub(super) rtt: RttEstimator,
    pub(super) reno: NewReno,
    /// RecoveryPoint of RFC 6675: recovery lasts until this is acknowledged.
    pub(super) recovery: Option<Seq>,
    /// Recovery began with a time-out: the window grows as in slow start.
    pub(super) timed_out: bool,
    /// When the congestion window was last lowered for a loss.
    pub(super) lowered_at: Time,
    pub(super) dup_acks: u8,
    /// What duplicate acknowledgments of a peer without SACK add to the window (RFC 5681 3.2, step 4).
    pub(super) inflated: u32,
    /// SND.NXT when a tail loss probe was sent, and whether that repeated data.
    pub(super) probe: Option<(Seq, bool)>,
    /// A byte beyond the window is on its way to open it.
    pub(super) window_probe: bool,
    /// The timer went off and this is to be sent, whatever the windows say; [`Timer::Reordering`] is a loss that was found
    /// just now.
    pub(super) due: Option<Timer>,
    pub(super) timer: Option<(Time, Timer)>,
    /// Since when the peer has answered nothing.
    pub(super) stalled: Option<Time>,
    pub(super) last_sent: Time,

    pub(super) rcv: Receiver,
    pub(super) ack: Ack,
    /// Bytes received since the last acknowledgment was sent.
    pub(super) unacknowledged: u32,
    /// Last.ACK.sent of RFC 7323 4.3.
    pub(super) last_ack_sent: Seq,
    /// When the peer's last challenge was answered (RFC 5961 7).
    pub(super) challenged: Option<Time>,
    pub(super) reset: Option<Reset>,

    pub(super) last_heard: Time,
    pub(super) keep_alive_probes: u8,
    pub(super) keep_alive_due: bool,
    pub(super) time_wait_until: Time,
}

impl<B: AsRef<[u8]>> Connection<B> {
    /// The passive end of a connection that `syn` asked for: SYN-RECEIVED, with a SYN-ACK to be sent.
    ///
    /// `iss` should come from an [`super::IsnGenerator`]; `timestamp_offset` should be random for each connection.
    pub fn accept(
        config: &Arc<Config>,
        syn: &Syn,
        v6: bool,
        iss: Seq,
        timestamp_offset: u32,
        now: Time,
    ) -> Self {
        let mut conn = Self::new(config, v6, syn.iss(iss), State::SynReceived, now);
        conn.passive = true;
        conn.peer_syn(syn, timestamp_offset, now);
        conn
    }

    /// The active end: SYN-SENT, with a SYN to be sent.
    pub fn connect(config: &Arc<Config>, v6: bool, iss: Seq, timestamp_offset: u32, now: Time) -> Self {
        let mut conn = Self::new(config, v6, iss, State::SynSent, now);
        conn.timestamps = Some(TimestampState { recent: 0, recent_at: now, offset: timestamp_offset });
        conn.sack_permitted = true;
        conn.recv_shift = config.window_shift();
        conn
    }

    fn new(config: &Arc<Config>, v6: bool, iss: Seq, state: State, now: Time) -> Self {
        Self {
            config: Arc::clone(config),
            state,
            broken: None,
            v6,
            receive_mss: config.announced_mss(v6),
            passive: false,
            iss,
            una: iss,
            nxt: iss,
            syn_acknowledged: false,
            wnd: 0,
            wl1: Seq(0),
            wl2: Seq(0),
            max_wnd: 0,
            send_shift: 0,
            recv_shift: 0,
            mss: 536,
            sack_permitted: false,
            timestamps: None,
            queue: SendQueue::new(iss + 1),
            board: Scoreboard::new(iss),
            closing: false,
            rtt: RttEstimator::new(),
            reno: NewReno::new(536),
            recovery: None,
            timed_out: false,
            lowered_at: now,
            dup_acks: 0,
            inflated: 0,
            probe: None,
            window_probe: false,
            due: None,
            timer: None,
            stalled: None,
            last_sent: now,
            rcv: Receiver::new(Seq(0), config.receive_limit),
            ack: Ack::None,
            unacknowledged: 0,
            last_ack_sent: Seq(0),
            challenged: None,
            reset: None,
            last_heard: now,
            keep_alive_probes: 0,
            keep_alive_due: false,
            time_wait_until: now,
        }
    }

    /// Takes in the peer's SYN: what it offers is used from here on, what it does not offer is not.
    pub(super) fn peer_syn(&mut self, syn: &Syn, timestamp_offset: u32, now: Time) {
        self.rcv = Receiver::new(syn.irs, self.config.receive_limit);
        self.last_ack_sent = self.rcv.nxt;
        self.timestamps =
            syn.timestamp.map(|recent| TimestampState { recent, recent_at: now, offset: timestamp_offset });
        self.sack_permitted = syn.options.sack_permitted;
        match syn.options.window_scale {
            Some(shift) => {
                self.send_shift = shift;
                self.recv_shift = self.config.window_shift();
            }
            // RFC 7323 2.2: both ends must send the option.
            None => (self.send_shift, self.recv_shift) = (0, 0),
        }
        // RFC 9293 3.7.1: 536 for IPv4 and 1220 for IPv6 where the option is missing.
        let announced = syn.options.mss.unwrap_or(if self.v6 { 1220 } else { 536 });
        self.set_segment_size(announced.min(self.config.announced_mss(self.v6)));
        self.reno = NewReno::new(self.mss.into());
        // RFC 7323 2.2: the window of a SYN is not scaled.
        self.wnd = syn.window.into();
        self.max_wnd = self.wnd;
        self.wl1 = syn.irs;
        self.wl2 = self.una;
    }

    /// Eff.snd.MSS of RFC 9293 3.7.1, of a segment size without options.
    fn set_segment_size(&mut self, size: u16) {
        self.mss = size.clamp(MIN_SEGMENT_SIZE, u16::MAX - headers(self.v6)) - self.options();
    }

    /// Length of the options of a segment with data: timestamps, padded.
    fn options(&self) -> u16 {
        if self.timestamps.is_some() { 12 } else { 0 }
    }

    /// Data of the longest segment that the peer may send.
    pub fn longest_received(&self) -> u16 {
        self.receive_mss - self.options()
    }

    /// Asks the peer for segments with at most `len` bytes of data, in the SYN that is still to be sent. What the device
    /// can carry bounds them, too.
    pub fn receive_at_most(&mut self, len: u16) {
        let size = len.max(MIN_SEGMENT_SIZE).saturating_add(self.options());
        self.receive_mss = size.min(self.config.announced_mss(self.v6));
    }

    /// The connection's state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Why it ended, where it was not closed in order.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// SND.UNA and SND.NXT: what a quoted segment in an ICMP error must lie within (RFC 5927 4).
    pub fn outstanding(&self) -> (Seq, Seq) {
        (self.una, self.nxt)
    }

    /// RCV.NXT.
    pub fn receive_next(&self) -> Seq {
        self.rcv.nxt
    }

    /// Bytes held, of both directions.
    pub fn held(&self) -> usize {
        self.rcv.held() + self.queue.len() as usize
    }

    /// Bytes to be sent that are not acknowledged, unsent ones among them.
    pub fn queued(&self) -> u32 {
        self.queue.len()
    }

    /// Whether [`Connection::transmit`] has nothing to say right now.
    pub fn is_quiet(&self) -> bool {
        self.ack != Ack::Now
            && self.due.is_none()
            && !self.keep_alive_due
            && self.reset.is_none()
            && self.board.lost() == 0
            && self.state != State::Closed
    }

    /// Received bytes that wait for [`Connection::receive`].
    pub fn received(&self) -> usize {
        self.rcv.ready()
    }

    /// Whether the peer's FIN has come, whatever of its data is missing or waits.
    pub fn has_peer_fin(&self) -> bool {
        self.rcv.has_fin()
    }

    /// Whether the peer has closed its half and everything before that was taken.
    pub fn peer_closed(&self) -> bool {
        self.rcv.is_closed() && self.rcv.ready() == 0
    }

    /// Whether all that was sent, the FIN too where [`Connection::close`] was called, is acknowledged.
    pub fn all_acknowledged(&self) -> bool {
        self.queue.len() == 0 && (!self.closing || self.una.gt(self.queue.end()))
    }

    /// How many bytes could be sent in segments of good size now: what to read from the data's source, at most. 0 when
    /// none should be read yet; an acknowledgment, or [`Connection::timeout`], changes that. Data that are queued in pieces
    /// of [`Connection::superpacket`] bytes are sent as they lie.
    ///
    /// While the peer's window is shut one segment is asked for, so that there is something to probe it with.
    pub fn send_room(&self) -> usize {
        if self.closing || !matches!(self.state, State::Established | State::CloseWait) {
            return 0;
        }
        let unsent = self.unsent();
        if self.queue.chunks() >= 64 {
            return 0;
        }
        let flight = self.nxt - self.una;
        let window = self.wnd.min(self.reno.window()).min(self.config.send_limit);
        let room = window.saturating_sub(flight + unsent);
        let mss = u32::from(self.mss);
        // Less than this is not worth a packet while acknowledgments are on their way that make it more.
        let goal = (window / 4).min(60_000).max(mss).min(self.max_wnd / 2).max(1);
        if room >= goal {
            room as usize
        } else if flight + unsent == 0 {
            mss as usize
        } else {
            0
        }
    }

    /// Whether the peer takes nothing now: its window is zero (RFC 9293, 3.8.6.1).
    pub fn is_window_shut(&self) -> bool {
        self.wnd == 0
    }

    /// Data that fit into one packet to the device.
    pub fn superpacket(&self) -> u32 {
        let mss = u32::from(self.mss);
        if self.config.superpackets {
            // SACK blocks may join the options.
            let room = u32::from(u16::MAX) - u32::from(headers(self.v6)) - 40;
            (room / mss).max(1) * mss
        } else {
            mss
        }
    }

    /// Bytes queued that were not sent.
    pub fn unsent(&self) -> u32 {
        let first = if self.syn_acknowledged { self.nxt } else { self.nxt.max(self.iss + 1) };
        self.queue.end().since(first)
    }

    /// Queues data. What is more than [`Connection::send_room`] asked for is kept all the same.
    ///
    /// After [`Connection::close`], and on a connection that has ended, the data are dropped.
    pub fn send(&mut self, data: B) {
        if !self.closing && !matches!(self.state, State::TimeWait | State::Closed) {
            self.queue.push(data);
        }
    }

    /// Takes received bytes that wait; `take` returns how many of those given it took.
    pub fn receive(&mut self, take: impl FnMut(&[u8]) -> usize) {
        self.rcv.read(take);
        self.tell_of_window();
    }

    /// Bounds what may be held of received bytes from now on; the window already granted stays.
    pub fn set_receive_limit(&mut self, limit: u32) {
        if self.rcv.set_limit(limit.min(self.config.receive_limit)) {
            self.tell_of_window();
        }
    }

    /// Keeps no more than so many received bytes from now on, whatever window was granted: the last resort where there is no
    /// memory. What comes beyond is not acknowledged, and the peer sends it again.
    pub fn keep_at_most(&mut self, bytes: u32) {
        self.rcv.keep_at_most(bytes);
    }

    /// Bytes of memory that received data take.
    pub fn receive_memory(&self) -> usize {
        self.rcv.memory()
    }

    /// A peer that saw a shut window waits to be told that it is open again.
    fn tell_of_window(&mut self) {
        if self.is_receiving() && self.rcv.update_is_due(self.receive_mss()) {
            self.ack = Ack::Now;
        }
    }

    /// Closes this half: a FIN follows what is queued (RFC 9293 3.10.4).
    pub fn close(&mut self) {
        self.state = match self.state {
            State::SynSent => return self.end(None),
            State::SynReceived | State::Established => State::FinWait1,
            State::CloseWait => State::LastAck,
            other => return self.state = other,
        };
        self.closing = true;
    }

    /// Ends the connection with a reset (RFC 9293 3.10.5). One that is over already sends none, but counts as broken: what it
    /// has received cannot be delivered.
    pub fn abort(&mut self) {
        if self.state == State::Closed {
            self.broken.get_or_insert(Broken::Aborted);
        }
        if !matches!(self.state, State::SynSent | State::TimeWait | State::Closed) {
            self.reset = Some(self.own_reset());
        }
        self.end(Some(Broken::Aborted));
    }

    /// A reset that the peer will believe.
    pub(super) fn own_reset(&self) -> Reset {
        Reset { seq: self.acceptable_seq(), ack: Some(self.rcv.nxt) }
    }

    /// SND.NXT, or where the peer's window ends when what was sent goes beyond it, as a probe and a FIN do: a segment from
    /// there would be none that the peer looks at (RFC 9293 3.4, table 6), and what it acknowledges would be sent again
    /// and again.
    pub(super) fn acceptable_seq(&self) -> Seq {
        let first = if self.syn_acknowledged { self.una } else { self.iss + 1 };
        let end = first + self.wnd;
        if self.nxt.le(end) {
            return self.nxt;
        }
        // The last few bytes may lie in the window without its scale being able to say so; the FIN does not.
        let data_end = self.nxt.min(self.queue.end());
        if self.wnd > 0 && data_end.since(end) < 1 << self.send_shift { data_end } else { end }
    }

    /// The connection is over; it holds nothing any more.
    pub(super) fn end(&mut self, broken: Option<Broken>) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        self.broken = broken;
        self.release();
        self.timer = None;
        self.ack = Ack::None;
    }

    /// Gives up the buffers.
    pub(super) fn release(&mut self) {
        self.queue = SendQueue::new(self.queue.end());
        self.board = Scoreboard::new(self.nxt);
        if self.rcv.ready() == 0 {
            self.rcv.forget();
        }
    }

    /// A router says that packets to the peer may have `mtu` bytes only, quoting the segment with sequence number `seq`
    /// (RFC 1191, RFC 8201). A quote of nothing that is outstanding is not believed (RFC 5927 7).
    ///
    /// Returns the packets that the path carries, if they are shorter than those sent until now.
    pub fn path_mtu(&mut self, mtu: u16, seq: Seq) -> Option<u16> {
        if seq.lt(self.una) || seq.ge(self.nxt) {
            return None;
        }
        // No router of today has less, and a lower one would only serve an attacker (RFC 1191 3, RFC 8200 5).
        let mtu = mtu.max(if self.v6 { 1280 } else { 552 });
        let size = mtu - headers(self.v6);
        if size - self.options() >= self.mss {
            return None;
        }
        self.set_segment_size(size);
        // What is outstanding in segments too long did not arrive.
        self.board.all_is_lost(false);
        self.recovery = Some(self.nxt);
        Some(mtu)
    }

    /// Whether data of the peer are still awaited.
    pub(super) fn is_receiving(&self) -> bool {
        matches!(self.state, State::Established | State::FinWait1 | State::FinWait2)
    }

    /// The segment size that the peer was asked to use.
    pub(super) fn receive_mss(&self) -> u32 {
        self.receive_mss.into()
    }

    /// Whether our SYN is not acknowledged, and the peer's came: SYN-RECEIVED, or that and closed.
    pub(super) fn is_opening(&self) -> bool {
        !self.syn_acknowledged && matches!(self.state, State::SynReceived | State::FinWait1)
    }

    /// Whether SYNs have been exchanged.
    pub(super) fn is_synchronized(&self) -> bool {
        !matches!(self.state, State::SynSent | State::SynReceived | State::Closed)
    }

    pub(super) fn smoothed_rtt(&self) -> Duration {
        self.rtt.smoothed().unwrap_or(Duration::from_secs(1))
    }
}

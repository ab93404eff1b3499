//! Connections that carry more than there are sequence numbers.

use std::time::Duration;

use oneway_wire::tcp::Flags;

use super::super::*;

/// Bytes of one superpacket.
const LEN: usize = 60_000;

/// More than all sequence numbers.
const TOTAL: u64 = (1 << 32) + (1 << 31) + 12_345;

fn established(isn: u32, now: Time) -> (Connection<&'static [u8]>, Seq) {
    let config = std::sync::Arc::new(Config::default());
    let segment = |seq: Seq, ack: Seq, flags: Flags| Segment {
        seq,
        ack,
        flags,
        window: u16::MAX,
        payload: &[],
        timestamps: None,
        sack: Blocks::default(),
        syn: SynOptions { mss: Some(1460), window_scale: Some(7), sack_permitted: true },
    };
    let irs = Seq(isn ^ 0x8000_0000);
    let syn = Syn::from_segment(&segment(irs, Seq(0), Flags::SYN)).unwrap();
    let mut conn = Connection::accept(&config, &syn, false, Seq(isn), 0, now);
    conn.transmit(now, |_| {});
    conn.segment_arrives(now, &segment(irs + 1, Seq(isn) + 1, Flags::ACK), |_| 0);
    assert_eq!(conn.state(), State::Established);
    (conn, irs + 1)
}

fn empty(seq: Seq, ack: Seq) -> Segment<'static> {
    Segment {
        seq,
        ack,
        flags: Flags::ACK,
        window: 8192,
        payload: &[],
        timestamps: None,
        sack: Blocks::default(),
        syn: SynOptions::default(),
    }
}

#[test]
fn a_download_goes_on_when_sequence_numbers_come_round() {
    static BYTES: [u8; LEN] = [7; LEN];
    for isn in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let mut now = Time::from_micros(1_000_000);
        let (mut conn, theirs) = established(isn, now);
        let (mut read, mut acknowledged, mut idle) = (0_u64, 0_u64, 0);
        let mut expected = Seq(isn) + 1;
        while acknowledged < TOTAL {
            while read < TOTAL && conn.send_room() > 0 {
                let len = (conn.send_room().min(LEN) as u64).min(TOTAL - read);
                conn.send(&BYTES[..len as usize]);
                read += len;
            }
            let mut sent = 0;
            conn.transmit(now, |out| {
                if !out.payload.is_empty() {
                    assert_eq!(out.seq, expected, "isn {isn}, after {acknowledged} bytes");
                    expected += out.payload.len() as u32;
                    sent += out.payload.len() as u64;
                }
            });
            idle = if sent == 0 { idle + 1 } else { 0 };
            assert!(idle < 3, "isn {isn}: nothing is sent after {acknowledged} of {TOTAL} bytes");
            acknowledged += sent;
            now = now + Duration::from_micros(100);
            conn.segment_arrives(now, &empty(theirs, expected), |_| 0);
        }
        assert_eq!((acknowledged, conn.queued()), (TOTAL, 0));
        conn.close();
        let mut fin = false;
        conn.transmit(now, |out| fin |= out.flags.contains(Flags::FIN) && out.seq == expected);
        assert!(fin, "isn {isn}: it ends in order");
    }
}

#[test]
fn an_upload_goes_on_when_sequence_numbers_come_round() {
    static BYTES: [u8; LEN] = [7; LEN];
    for isn in [0, 0x7fff_ffff, u32::MAX] {
        let mut now = Time::from_micros(1_000_000);
        let (mut conn, mut theirs) = established(isn, now);
        let mut got = 0_u64;
        while got < TOTAL {
            let len = (TOTAL - got).min(LEN as u64) as usize;
            let segment = Segment { payload: &BYTES[..len], ..empty(theirs, Seq(isn) + 1) };
            let before = got;
            conn.segment_arrives(now, &segment, |bytes| {
                got += bytes.len() as u64;
                bytes.len()
            });
            assert_eq!(got - before, len as u64, "isn {isn}, after {got} bytes");
            theirs += len as u32;
            now = now + Duration::from_micros(100);
            conn.timeout(now + Duration::from_millis(10));
            let mut ack = None;
            conn.transmit(now, |out| ack = Some(out.ack));
            assert_eq!(ack.unwrap_or(theirs), theirs);
        }
        assert_eq!(conn.held(), 0);
    }
}

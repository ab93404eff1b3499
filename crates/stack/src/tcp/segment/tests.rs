use oneway_wire::ip::IpView;
use oneway_wire::virtio::complete_checksum;

use super::*;

fn outgoing<'a>(payload: Payload<'a>) -> Outgoing<'a> {
    Outgoing {
        seq: Seq(0x0102_0304),
        ack: Seq(0x0506_0708),
        flags: Flags::ACK | Flags::PSH,
        window: 77,
        timestamps: Some(Timestamps { value: 9, echo: 10 }),
        sack: Blocks::default(),
        syn: SynOptions::default(),
        payload,
        segment_size: 1448,
        hop_limit: 64,
        traffic_class: 0,
    }
}

fn packet(segment: &Outgoing<'_>, v6: bool) -> (VirtioNetHdr, Vec<u8>) {
    let (src, dst) = if v6 {
        ("[2001:db8::1]:443", "[2001:db8::2]:50000")
    } else {
        ("198.51.100.1:443", "192.0.2.1:50000")
    };
    let mut headers = [0; MAX_HEADERS];
    let len = segment.write_headers(&mut headers, src.parse().unwrap(), dst.parse().unwrap()).unwrap();
    let mut frame = headers[..len].to_vec();
    for part in segment.payload.parts() {
        frame.extend_from_slice(part);
    }
    let (header, packet) = frame.split_first_chunk().unwrap();
    (VirtioNetHdr::decode(header), packet.to_vec())
}

#[test]
fn what_is_written_reads_back() {
    for v6 in [false, true] {
        let mut payload = Payload::default();
        assert!(payload.push(b"hello ") && payload.push(b"world"));
        let mut segment = outgoing(payload);
        segment.sack.push(Seq(1), Seq(2));
        segment.sack.push(Seq(5), Seq(9));
        let (header, mut bytes) = packet(&segment, v6);
        assert_eq!(header.gso().unwrap(), Gso::None);
        complete_checksum(&header, &mut bytes).unwrap();
        let ip = IpView::parse(&bytes).unwrap();
        let tcp = TcpView::parse(ip.payload()).unwrap();
        assert!(tcp.checksum_valid(ip.src(), ip.dst()));
        assert_eq!((tcp.src_port(), tcp.dst_port()), (443, 50000));
        let read = Segment::from_view(&tcp);
        assert_eq!(
            (read.seq, read.ack, read.flags, read.window),
            (segment.seq, segment.ack, segment.flags, 77)
        );
        assert_eq!(read.payload, b"hello world");
        assert_eq!(read.timestamps, segment.timestamps);
        assert_eq!(read.sack, segment.sack);
        assert_eq!(read.len(), 11);
    }
}

#[test]
fn the_options_of_a_syn_read_back_and_fill_whole_words() {
    for timestamps in [None, Some(Timestamps { value: 1, echo: 0 })] {
        for sack_permitted in [false, true] {
            for window_scale in [None, Some(7)] {
                let syn = SynOptions { mss: Some(1460), window_scale, sack_permitted };
                let segment = Outgoing { flags: Flags::SYN, timestamps, syn, ..outgoing(Payload::default()) };
                let (_, bytes) = packet(&segment, false);
                let ip = IpView::parse(&bytes).unwrap();
                let tcp = TcpView::parse(ip.payload()).unwrap();
                let read = Segment::from_view(&tcp);
                assert_eq!((read.syn, read.timestamps), (syn, timestamps));
                assert_eq!(read.len(), 1);
            }
        }
    }
}

#[test]
fn sack_blocks_never_outgrow_the_header() {
    let mut segment = outgoing(Payload::default());
    for n in 0..6 {
        segment.sack.push(Seq(n), Seq(n + 1));
    }
    let (_, bytes) = packet(&segment, false);
    let ip = IpView::parse(&bytes).unwrap();
    let read = Segment::from_view(&TcpView::parse(ip.payload()).unwrap());
    assert_eq!(read.sack.as_slice().len(), 3, "what timestamps leave room for");
    segment.timestamps = None;
    let (_, bytes) = packet(&segment, false);
    let ip = IpView::parse(&bytes).unwrap();
    let read = Segment::from_view(&TcpView::parse(ip.payload()).unwrap());
    assert_eq!(read.sack.as_slice().len(), 4);
}

#[test]
fn a_long_payload_is_a_superpacket() {
    let data = [7; 4000];
    let mut payload = Payload::default();
    assert!(payload.push(&data));
    let (header, bytes) = packet(&outgoing(payload), true);
    assert_eq!(header.gso().unwrap(), Gso::TcpV6 { ecn: false });
    assert_eq!((header.gso_size, header.hdr_len), (1448, 40 + 32));
    assert_eq!(bytes.len(), 40 + 32 + 4000);
    header.check(bytes.len()).unwrap();
}

#[test]
fn a_window_scale_above_14_is_taken_as_14() {
    // RFC 7323 2.3: "If a Window Scale option is received with a shift.cnt value exceeding 14, the TCP SHOULD log the
    // error but MUST use 14 instead of the specified value."
    let mut segment = [0; 24];
    segment[12] = 6 << 4;
    segment[13] = Flags::SYN.0;
    segment[20..].copy_from_slice(&[1, 3, 3, 15]);
    let view = TcpView::parse(&segment).unwrap();
    assert_eq!(Segment::from_view(&view).syn.window_scale, Some(14));
}

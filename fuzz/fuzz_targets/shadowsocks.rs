//! What a Shadowsocks server with the right key says, and what anybody does: streams however they are cut, and packets.
//! The first byte says by which cipher; each message is behind its length.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_outbound::fuzzing::{shadowsocks_packet, shadowsocks_stream};
use oneway_outbound::{Method, decode_datagram_header};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let method = Method::ALL[usize::from(kind % 6)];
    let is_honest = kind & 0x80 != 0;

    for datagram in shadowsocks_packet(method, is_honest, data, data).into_iter().flatten() {
        assert!(datagram.starts_with(&[0; 3]) && datagram.len() <= data.len() + 3);
        let _ = decode_datagram_header(&datagram);
    }
    let is_2022 = method.as_str().starts_with("2022");
    let twice = shadowsocks_packet(method, is_honest, data, &[]);
    assert!(!is_2022 || twice[1].is_none(), "a packet counts twice");

    let mut messages = Vec::new();
    let mut rest = data;
    while let Some((len, behind)) = rest.split_first()
        && let Some((message, behind)) = behind.split_at_checked(usize::from(*len))
    {
        messages.push(message);
        rest = behind;
    }
    let first = messages.first().map(|message| message.len() as u16).filter(|_| is_honest);
    let whole = shadowsocks_stream(method, first, &messages, rest, usize::MAX);
    for cut in [1, 7, 1500] {
        let again = shadowsocks_stream(method, first, &messages, rest, cut);
        // What was opened before an error that came in the same read is not handed on.
        assert_eq!(again.1, whole.1, "how a stream ends depends on how it is cut");
        assert!(if whole.1 { again == whole } else { again.0.starts_with(&whole.0) });
    }
});

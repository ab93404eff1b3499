//! What a SOCKS proxy sends: the handshakes, however their bytes are cut, and the headers of relayed datagrams.
#![no_main]

mod drive;

use drive::drive;
use libfuzzer_sys::fuzz_target;
use oneway_flow::Target;
use oneway_outbound::{
    Credentials, HEADER_MAX, Handshake, Reply, Socks4, Socks5, Source, decode_datagram_header,
    encode_datagram_header, parse_socks5_reply,
};

/// The end must not depend on how the bytes are cut.
fn both<H: Handshake>(make: impl Fn() -> H, input: &[u8]) {
    let [plain, pipelined] = [false, true].map(|pipelined| {
        let end = drive(&mut make(), pipelined, input, 1);
        assert_eq!(end, drive(&mut make(), pipelined, input, usize::MAX));
        end.0
    });
    assert_eq!(plain, pipelined, "what is sent ahead changes what the same answers mean");
}

fuzz_target!(|data: &[u8]| {
    let target = Target::from_addr(([192, 0, 2, 1], 443).into());
    let credentials = Credentials::new("user", "password").expect("short");
    both(|| Socks5::connect(&target, None).expect("an address"), data);
    both(|| Socks5::connect(&target, Some(&credentials)).expect("an address"), data);
    both(|| Socks5::udp_associate(Some(&credentials)), data);
    both(|| Socks4::connect(&target, "user", false).expect("an IPv4 address"), data);

    match parse_socks5_reply(data) {
        Ok(Reply::Granted { len, .. }) => {
            assert!(len <= data.len());
            assert!(matches!(parse_socks5_reply(&data[..len - 1]), Ok(Reply::Need(1))));
        }
        Ok(Reply::Need(more)) => assert!(more > 0),
        Err(_) => {}
    }

    if let Ok(header) = decode_datagram_header(data) {
        assert!(header.len <= data.len() && header.len <= HEADER_MAX);
        if let Source::Ip(addr) = header.source {
            let mut buf = [0; HEADER_MAX];
            let len = encode_datagram_header(&mut buf, &Target::from_addr(addr)).expect("an address");
            let again = decode_datagram_header(&buf[..len]).expect("our own header");
            assert_eq!((again.source, again.len), (header.source, len));
        }
    }
});

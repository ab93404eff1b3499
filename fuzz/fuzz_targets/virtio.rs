//! The offload header in front of a packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_wire::checksum;
use oneway_wire::virtio::{HEADER_LEN, VirtioNetHdr, complete_checksum};

fuzz_target!(|data: &[u8]| {
    let Some((header, packet)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    let hdr = VirtioNetHdr::decode(header);
    assert_eq!(hdr.encode(), *header);
    assert_eq!(VirtioNetHdr::decode_le(header).encode_le(), *header);
    let mut completed = packet.to_vec();
    let result = complete_checksum(&hdr, &mut completed);
    assert_eq!(result, hdr.check(packet.len()));
    if result.is_err() || !hdr.needs_csum() {
        assert_eq!(completed, packet);
        return;
    }
    let at = usize::from(hdr.csum_start) + usize::from(hdr.csum_offset);
    assert_eq!(completed[..at], packet[..at]);
    assert_eq!(completed[at + 2..], packet[at + 2..]);
    // What stood in the field is now what is missing to a sum of 0xffff, when the field is aligned.
    if hdr.csum_offset.is_multiple_of(2) {
        let partial = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let sum = checksum::combine(checksum::sum(&completed[hdr.csum_start.into()..]), partial);
        assert_eq!(sum, 0xffff);
    }
});

//! Fast sums against slow ones, and updates against full computation.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_wire::checksum::{Checksum, combine, partial_update16, sum, update16};

/// RFC 1071 4.1, word by word.
fn slow_sum(data: &[u8]) -> u16 {
    data.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((head, data)) = data.split_first_chunk::<4>() else { return };
    assert_eq!(sum(data), slow_sum(data));
    let position = usize::from(u16::from_be_bytes([head[0], head[1]]));
    let new = u16::from_be_bytes([head[2], head[3]]);
    let cut = position % (data.len() + 1) & !1;
    assert_eq!(combine(sum(&data[..cut]), sum(&data[cut..])), slow_sum(data));
    assert_eq!(Checksum::new().bytes(&data[..cut]).bytes(&data[cut..]).sum(), slow_sum(data));

    let at = cut;
    if at + 2 > data.len() {
        return;
    }
    let mut changed = data.to_vec();
    changed[at..at + 2].copy_from_slice(&new.to_be_bytes());
    let old = u16::from_be_bytes([data[at], data[at + 1]]);
    let (updated, full) = (update16(!sum(data), old, new), !sum(&changed));
    // Bit for bit, unless all is zero before or after, which no packet is.
    if sum(data) == 0 || sum(&changed) == 0 {
        assert_eq!(updated % 0xffff, full % 0xffff);
    } else {
        assert_eq!(updated, full);
        assert_eq!(partial_update16(sum(data), old, new), !full);
    }
});

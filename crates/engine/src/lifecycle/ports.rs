//! How many ports the kernel hands out.

use std::fs;

/// `ip_local_port_range` (ip(7)), of both families.
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// So many; as many as there are where that cannot be read.
pub(super) fn ports() -> usize {
    fs::read_to_string(RANGE).ok().and_then(|text| count(&text)).unwrap_or(usize::from(u16::MAX))
}

fn count(range: &str) -> Option<usize> {
    let mut ends = range.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (ends.next()?.ok()?, ends.next()?.ok()?);
    Some(usize::from(last.checked_sub(first)?) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_belong_to_the_range() {
        assert_eq!(count("32768\t60999\n"), Some(28_232));
        assert_eq!(count("40000 40000"), Some(1));
        for rubbish in ["", "1", "2 1", "1 x", "-1 5", "1 70000"] {
            assert_eq!(count(rubbish), None, "{rubbish:?}");
        }
        assert!(ports() > 0);
    }
}

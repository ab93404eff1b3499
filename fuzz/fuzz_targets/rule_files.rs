//! Files of rules in every format, and databases: what others wrote. The first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oneway_rule::{Asn, Behavior, Format, GeoIp, GeoSite, SetData};

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else { return };
    let (format, behavior) = match kind % 11 {
        0 => (Format::Text, Behavior::Domain),
        1 => (Format::Text, Behavior::IpCidr),
        2 => (Format::Text, Behavior::Classical),
        3 => (Format::Yaml, Behavior::Domain),
        4 => (Format::Yaml, Behavior::IpCidr),
        5 => (Format::Yaml, Behavior::Classical),
        6 => (Format::Mrs, Behavior::Domain),
        7 => (Format::Srs, Behavior::Domain),
        8 => return drop(GeoSite::new(bytes.to_vec())),
        9 => return drop(GeoIp::new(bytes.to_vec())),
        _ => return drop(Asn::new(bytes.to_vec())),
    };
    if let Ok(set) = SetData::parse(bytes, format, behavior) {
        assert!(set.skipped().iter().all(|error| error.line > 0 && error.column > 0));
    }
});

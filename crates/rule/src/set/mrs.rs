//! Rule sets compiled by mihomo (`.mrs`).
//!
//! All of it is one Zstandard stream: `MRS` 1, the behaviour (0 names, 1 networks), the number of rules, the length of
//! something reserved and that, then version 1 and the rules. Numbers are big-endian of 64 bits. Learned from
//! `rules/provider/mrs_reader.go` and `component/{trie,cidr}` of github.com/MetaCubeX/mihomo.

use std::io::Read;
use std::net::{IpAddr, Ipv6Addr};

use super::succinct::Trie;
use super::{ANY_DESTINATION, SetData};
use crate::bytes::Bytes;
use crate::condition::Condition;
use crate::domain::compiled_entry;
use crate::error::BinaryError;
use crate::{MAX_ENTRIES, MAX_UNPACKED};

pub(super) fn parse(file: &[u8]) -> Result<SetData, BinaryError> {
    let unpacked = unpack(file)?;
    let mut bytes = Bytes::new(&unpacked);
    if bytes.array()? != *b"MRS\x01" {
        return Err(BinaryError::new(
            "this is no rule set of mihomo: MRS and version 1 are expected at its start",
        ));
    }
    let behavior = bytes.u8()?;
    let _rules = bytes.u64_be()?;
    let extra = bytes.u64_be()?;
    let extra = bytes.count(extra, 1)?;
    bytes.take(extra)?;
    if bytes.u8()? != 1 {
        return Err(bytes.wrong("the rules are of a version other than 1"));
    }
    match behavior {
        0 => domains(&mut bytes),
        1 => networks(&mut bytes),
        _ => Err(bytes.wrong(format_args!("behaviour {behavior} is neither names (0) nor networks (1)"))),
    }
}

fn unpack(file: &[u8]) -> Result<Vec<u8>, BinaryError> {
    let broken = |why: &dyn std::fmt::Display| BinaryError::new(format!("this is no Zstandard file: {why}"));
    let stream = ruzstd::decoding::StreamingDecoder::new(file).map_err(|e| broken(&e))?;
    let mut unpacked = Vec::new();
    stream.take(MAX_UNPACKED as u64 + 1).read_to_end(&mut unpacked).map_err(|e| broken(&e))?;
    if unpacked.len() > MAX_UNPACKED {
        return Err(BinaryError::new(format!("the file unfolds to more than {MAX_UNPACKED} bytes")));
    }
    Ok(unpacked)
}

fn domains(bytes: &mut Bytes<'_>) -> Result<SetData, BinaryError> {
    let mut words = || {
        let count = bytes.u64_be()?;
        let count = bytes.count(count, 8)?;
        bytes.take(count * 8)
    };
    let (leaves, bitmap) = (words()?, words()?);
    let count = bytes.u64_be()?;
    let count = bytes.count(count, 1)?;
    let labels = bytes.take(count)?;
    let mut set = SetData::default();
    Trie { leaves, bitmap, labels }.names(bytes, |name| {
        let text = std::str::from_utf8(name).map_err(|_| bytes.wrong("a name is not UTF-8"))?;
        let condition = compiled_entry(text).map_err(|why| bytes.wrong(why))?;
        set.add(condition).map_err(|why| bytes.wrong(why))
    })?;
    Ok(set)
}

fn networks(bytes: &mut Bytes<'_>) -> Result<SetData, BinaryError> {
    let count = bytes.u64_be()?;
    let count = bytes.count(count, 32)?;
    let mut set = SetData::default();
    for _ in 0..count {
        let mut ip = || Ok(IpAddr::from(Ipv6Addr::from(bytes.array::<16>()?)).to_canonical());
        let (first, last): (IpAddr, IpAddr) = (ip()?, ip()?);
        add_range(&mut set, first, last).map_err(|why| bytes.wrong(why))?;
    }
    Ok(set)
}

/// Adds the networks that make up a range of addresses.
pub(super) fn add_range(set: &mut SetData, first: IpAddr, last: IpAddr) -> Result<(), String> {
    let nets: ipnet::IpSubnets = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
            ipnet::Ipv4Subnets::new(first, last, 0).into()
        }
        (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
            ipnet::Ipv6Subnets::new(first, last, 0).into()
        }
        _ => return Err(format!("{first} to {last} is no range of addresses")),
    };
    for net in nets {
        if set.len() >= MAX_ENTRIES {
            return Err(format!("the file has more than {MAX_ENTRIES} networks"));
        }
        set.add(Condition::Net(net, ANY_DESTINATION))?;
    }
    Ok(())
}

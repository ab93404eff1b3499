//! Whether our table still is what it was made as.

use super::{
    Bytes, NFPROTO_INET, NFT_MSG_GETTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_NEWTABLE,
    NFT_TABLE_F_DORMANT, NLM_F_DUMP, NLM_F_REQUEST, TAG, nft,
};
use crate::cgroup::Cgroup;
use crate::error::RouteError;
use crate::nft::{Chain, Expr};
use crate::os::netlink::{Message, Netlink, attributes, decode};

const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_FLAGS: u16 = 0xc000;

/// Whether the table is there and awake, and has our chains with our rules in our order. What others have put beside
/// them is none of our business.
pub(crate) fn intact(name: &str, wanted: &[Chain]) -> Result<bool, RouteError> {
    let Ok(mut netlink) = Netlink::netfilter() else { return Ok(false) };
    let tables = list(&mut netlink, NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE, None)?;
    if !tables.iter().any(|found| is_awake(found, name)) {
        return Ok(false);
    }
    let chains = list(&mut netlink, NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, Some(name))?;
    let rules = list(&mut netlink, NFT_MSG_GETRULE, NFT_MSG_NEWRULE, Some(name))?;
    Ok(wanted.iter().all(|chain| has_chain(chain, &chains) && has_rules(chain, &rules)))
}

/// Whether a table of ours has the rule that exempts a control group.
pub(crate) fn has_rule_for(group: &Cgroup) -> Result<bool, RouteError> {
    let mut netlink = Netlink::netfilter()?;
    let mut matches = Bytes::default();
    matches.rule_part(&Expr::Cgroup(group.clone()));
    let ours = super::ours()?;
    for table in ours {
        let rules = list(&mut netlink, NFT_MSG_GETRULE, NFT_MSG_NEWRULE, Some(&table))?;
        if rules.iter().any(|rule| exempts(rule, &matches.0)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a rule goes on with these expressions after two that ask for the device.
fn exempts(rule: &[u8], matches: &[u8]) -> bool {
    let Some(expressions) = attribute(rule, 4) else { return false };
    let mut rest = expressions;
    for _ in 0..2 {
        let Some(size) = rest.first_chunk().map(|size| usize::from(u16::from_ne_bytes(*size))) else {
            return false;
        };
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    contains(rest, matches)
}

/// Looks through what the kernel may say of our table; says whether it would count as intact.
#[cfg(feature = "fuzzing")]
pub(crate) fn look(datagram: &[u8], name: &str, wanted: &[Chain]) -> bool {
    const WHAT: &str = "look at made-up tables";
    let mut group = Bytes::default();
    group.rule_part(&Expr::Cgroup(Cgroup { path: "a".into(), id: 7, level: 1, ours: true }));
    let (mut awake, mut chains, mut rules) = (false, Vec::new(), Vec::new());
    let outcome = crate::os::netlink::each(WHAT, datagram, |_, _, message| {
        super::table(WHAT, &message)?;
        let tables = entry(WHAT, &message, NFT_MSG_NEWTABLE, None)?;
        awake |= tables.is_some_and(|found| is_awake(&found, name));
        chains.extend(entry(WHAT, &message, NFT_MSG_NEWCHAIN, Some(name))?);
        rules.extend(entry(WHAT, &message, NFT_MSG_NEWRULE, Some(name))?);
        Ok(false)
    });
    let exempt = rules.iter().any(|rule| exempts(rule, &group.0));
    outcome.is_ok()
        && !exempt
        && awake
        && wanted.iter().all(|chain| has_chain(chain, &chains) && has_rules(chain, &rules))
}

/// The attributes of each entry of our table, or of all tables.
fn list(
    netlink: &mut Netlink,
    ask: u16,
    answer: u16,
    table: Option<&str>,
) -> Result<Vec<Vec<u8>>, RouteError> {
    let what = "look at our nftables table";
    let request = |sequence| {
        let mut bytes = Bytes::default();
        bytes.message(nft(ask), NLM_F_REQUEST | NLM_F_DUMP, sequence, NFPROTO_INET, 0, |b| {
            if let Some(table) = table {
                b.string(1, table);
            }
        });
        bytes.0
    };
    netlink.dump_bytes(what, request, |message| entry(what, &message, answer, table))
}

/// The attributes of one entry; `None` is another message, or of another table.
fn entry(
    what: &str,
    message: &Message<'_>,
    answer: u16,
    table: Option<&str>,
) -> Result<Option<Vec<u8>>, RouteError> {
    let rest = message.payload.get(4..).ok_or_else(|| decode(what, "an entry without a header".into()))?;
    let ours = table.is_none_or(|table| is(rest, 1, table));
    let wanted = message.kind == nft(answer) && message.payload.first() == Some(&NFPROTO_INET) && ours;
    Ok(wanted.then(|| rest.to_vec()))
}

fn attribute(of: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(of).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Whether an attribute is this text.
fn is(of: &[u8], kind: u16, text: &str) -> bool {
    attribute(of, kind).is_some_and(|value| value.strip_suffix(&[0]) == Some(text.as_bytes()))
}

/// Whether it is the table of this name, with our tag, and not switched off.
fn is_awake(found: &[u8], name: &str) -> bool {
    let flags = attribute(found, 2).and_then(|v| v.first_chunk()).map_or(0, |v| u32::from_be_bytes(*v));
    is(found, 1, name) && attribute(found, 6) == Some(TAG) && flags & NFT_TABLE_F_DORMANT == 0
}

fn has_chain(chain: &Chain, found: &[Vec<u8>]) -> bool {
    let mut ours = Bytes::default();
    ours.chain(chain);
    found.iter().any(|theirs| contains(theirs, &ours.0))
}

/// Whether all our rules of a chain are there, in order.
fn has_rules(chain: &Chain, found: &[Vec<u8>]) -> bool {
    let mut theirs = found.iter().filter(|rule| is(rule, 2, chain.name));
    chain.rules.iter().all(|rule| {
        let ours = expressions(rule);
        theirs.any(|found| {
            attribute(found, 4).is_some_and(|list| {
                attributes(list).count() == attributes(&ours).count() && contains(list, &ours)
            })
        })
    })
}

fn expressions(rule: &[Expr]) -> Vec<u8> {
    let mut bytes = Bytes::default();
    rule.iter().for_each(|expr| bytes.rule_part(expr));
    bytes.0
}

/// Whether every attribute of `ours` is in `theirs` too, the second of a kind as the second there. The kernel adds some of
/// its own, handles for example, and newer ones more.
fn contains(theirs: &[u8], ours: &[u8]) -> bool {
    let mut count = [0_usize; 16];
    with_flags(ours).all(|(flagged, value)| {
        let kind = flagged & !NLA_FLAGS;
        let Some(nth) = count.get_mut(usize::from(kind)) else { return false };
        let found = attributes(theirs).filter(|(k, _)| *k == kind).nth(*nth);
        *nth += 1;
        found.is_some_and(
            |(_, found)| {
                if flagged & NLA_F_NESTED == 0 { found == value } else { contains(found, value) }
            },
        )
    })
}

/// [`attributes`], their types with the flags that say which are nested. Ours have them; not all of the kernel's do.
fn with_flags(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Bytes::default();
        for (kind, value) in parts {
            bytes.nested(1, |b| b.attribute(*kind, value));
        }
        bytes.0
    }

    #[test]
    fn what_the_kernel_adds_does_not_matter_and_what_it_lacks_does() {
        let ours = nested(&[(1, b"a"), (1, b"b")]);
        assert!(contains(&ours, &ours));
        let mut more = nested(&[(1, b"a"), (1, b"b")]);
        let mut extra = Bytes::default();
        extra.be32(9, 7);
        more.extend(&extra.0);
        assert!(contains(&more, &ours));
        assert!(!contains(&nested(&[(1, b"b"), (1, b"a")]), &ours), "another order");
        assert!(!contains(&nested(&[(1, b"a")]), &ours), "one is missing");
        assert!(!contains(&nested(&[(1, b"a"), (1, b"c")]), &ours), "one differs");
        assert!(!contains(&[], &ours));
    }
}

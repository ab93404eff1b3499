//! The rule language of Clash, as far as it is about addresses.
//!
//! ```text
//! IP-CIDR,10.0.0.0/8,direct[,no-resolve]
//! IP-CIDR6,2001:db8::/32,proxy[,no-resolve]
//! MATCH,proxy
//! ```

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{CidrRule, OutboundId, RuleSet};

/// Kinds of the language that are known but not implemented, so that the error can say so.
const NOT_YET: &[&str] = &[
    "DOMAIN",
    "DOMAIN-SUFFIX",
    "DOMAIN-KEYWORD",
    "DOMAIN-WILDCARD",
    "DOMAIN-REGEX",
    "GEOSITE",
    "GEOIP",
    "SRC-GEOIP",
    "IP-SUFFIX",
    "IP-ASN",
    "SRC-IP-ASN",
    "SRC-IP-CIDR",
    "SRC-IP-CIDR6",
    "SRC-IP-SUFFIX",
    "SRC-PORT",
    "DST-PORT",
    "IN-PORT",
    "IN-TYPE",
    "IN-USER",
    "IN-NAME",
    "PROCESS-NAME",
    "PROCESS-NAME-REGEX",
    "PROCESS-PATH",
    "PROCESS-PATH-REGEX",
    "UID",
    "NETWORK",
    "DSCP",
    "RULE-SET",
    "AND",
    "OR",
    "NOT",
    "SUB-RULE",
];

/// Where in the rules something is wrong, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// The line of a file, or the position in a list, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is expected; one line.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// Rules as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The rules in their order.
    pub rules: Vec<CidrRule>,
    /// The outbound of `MATCH`, if there is one.
    pub last: Option<OutboundId>,
    /// Lines of rules behind `MATCH`, which can never match and are left out.
    pub unreachable: Vec<usize>,
}

impl Parsed {
    /// Appends the rules of another list, as if it were written behind this one. Behind a `MATCH` they are
    /// unreachable and left out.
    pub fn append(&mut self, other: Self) {
        if self.last.is_none() {
            self.rules.extend(other.rules);
            self.last = other.last;
        }
        self.unreachable.extend(other.unreachable);
    }

    /// Compiles; `last` takes what no rule matches if there is no `MATCH`.
    pub fn compile(self, last: OutboundId) -> RuleSet {
        RuleSet::new(self.rules, self.last.unwrap_or(last))
    }
}

/// Parses the rules of a list, one a string. `outbound` gives the number of an outbound's name.
///
/// # Errors
/// Every rule that cannot be understood, in order.
pub fn parse_list<S: AsRef<str>>(
    list: &[S],
    outbound: impl Fn(&str) -> Option<OutboundId>,
) -> Result<Parsed, Vec<ParseError>> {
    parse(list.iter().map(AsRef::as_ref).enumerate(), &outbound)
}

/// Parses a file: one rule a line, empty lines and those that begin with `#` are skipped, as is a leading `- `
/// of a YAML list.
///
/// # Errors
/// Every rule that cannot be understood, in order.
pub fn parse_text(
    text: &str,
    outbound: impl Fn(&str) -> Option<OutboundId>,
) -> Result<Parsed, Vec<ParseError>> {
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    parse(lines, &outbound)
}

fn parse<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    outbound: &dyn Fn(&str) -> Option<OutboundId>,
) -> Result<Parsed, Vec<ParseError>> {
    let mut parsed = Parsed::default();
    let mut errors = Vec::new();
    for (index, text) in lines {
        let line = index + 1;
        match parse_rule(text, outbound) {
            Ok(_) if parsed.last.is_some() => parsed.unreachable.push(line),
            Ok(Rule::Cidr(rule)) => parsed.rules.push(rule),
            Ok(Rule::Match(last)) => parsed.last = Some(last),
            Err((column, message)) => errors.push(ParseError { line, column, message }),
        }
    }
    if errors.is_empty() { Ok(parsed) } else { Err(errors) }
}

enum Rule {
    Cidr(CidrRule),
    Match(OutboundId),
}

/// A part between commas, trimmed, with the column where it begins.
#[derive(Clone, Copy)]
struct Field<'a> {
    text: &'a str,
    column: usize,
}

impl Field<'_> {
    fn error(self, message: String) -> (usize, String) {
        (self.column, message)
    }
}

fn fields(text: &str) -> Vec<Field<'_>> {
    let mut column = 1;
    let body = match text.trim_start().strip_prefix("- ") {
        Some(body) => {
            column += text.chars().count() - body.chars().count();
            body
        }
        None => text,
    };
    let mut fields = Vec::new();
    for part in body.split(',') {
        let lead = part.chars().take_while(|c| c.is_whitespace()).count();
        fields.push(Field { text: part.trim(), column: column + lead });
        column += part.chars().count() + 1;
    }
    fields
}

fn parse_rule(text: &str, outbound: &dyn Fn(&str) -> Option<OutboundId>) -> Result<Rule, (usize, String)> {
    let fields = fields(text);
    let end = Field { text: "", column: text.chars().count() + 1 };
    let field = |n: usize| fields.get(n).copied().unwrap_or(end);
    let find = |field: Field<'_>| match outbound(field.text) {
        Some(id) => Ok(id),
        None if field.text.is_empty() => Err(field.error("an outbound is missing here".to_owned())),
        None => Err(field.error(format!("there is no outbound named {:?}", field.text))),
    };
    let nothing_after = |n: usize| match fields.get(n) {
        Some(extra) => Err(extra.error(format!("{:?} is one field too many", extra.text))),
        None => Ok(()),
    };
    let kind = field(0);
    match kind.text.to_ascii_uppercase().as_str() {
        "IP-CIDR" | "IP-CIDR6" => {
            let net = parse_net(field(1))?;
            let outbound = find(field(2))?;
            // Without names there is nothing to resolve, so the option changes nothing.
            if let Some(option) = fields.get(3)
                && !option.text.eq_ignore_ascii_case("no-resolve")
            {
                return Err(
                    option.error(format!("unknown option {:?}; only no-resolve may follow", option.text))
                );
            }
            nothing_after(4)?;
            Ok(Rule::Cidr(CidrRule::new(net, outbound)))
        }
        "MATCH" | "FINAL" => {
            let outbound = find(field(1))?;
            nothing_after(2)?;
            Ok(Rule::Match(outbound))
        }
        "" => Err(kind.error("a kind of rule is missing here, such as IP-CIDR or MATCH".to_owned())),
        known if NOT_YET.contains(&known) => {
            Err(kind.error(format!("{known} is not supported yet; IP-CIDR, IP-CIDR6 and MATCH are")))
        }
        _ => Err(kind
            .error(format!("unknown kind of rule {:?}; IP-CIDR, IP-CIDR6 and MATCH are known", kind.text))),
    }
}

/// A network; an address alone is a network of one. Bits behind the prefix are cleared, as Clash does.
fn parse_net(field: Field<'_>) -> Result<IpNet, (usize, String)> {
    if let Ok(net) = field.text.parse::<IpNet>() {
        return Ok(net.trunc());
    }
    if let Ok(ip) = field.text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip));
    }
    if field.text.is_empty() {
        return Err(field.error("a network is missing here, such as 10.0.0.0/8".to_owned()));
    }
    Err(field.error(format!(
        "{:?} is not a network; one such as 10.0.0.0/8 or 2001:db8::/32 is expected",
        field.text
    )))
}

#[cfg(test)]
mod tests;

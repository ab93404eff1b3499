//! From text to rules.
//!
//! ```text
//! KIND,PAYLOAD,OUTBOUND[,no-resolve][,src]
//! AND,((KIND,PAYLOAD),(NOT,((KIND,PAYLOAD)))),OUTBOUND
//! SUB-RULE,(KIND,PAYLOAD),NAME
//! MATCH,OUTBOUND
//! ```

mod condition;
mod fields;
mod last;

use std::fmt;

pub(crate) use condition::{Dialect, FOREIGN, net, parse_condition, takes_commas};
pub(crate) use fields::Field;
pub use last::{match_in, outbound_of_match};

use crate::MAX_ENTRIES;
use crate::condition::Condition;
use crate::error::{ParseError, Wrong};
use crate::geo::site::GeoSite;
use crate::query::OutboundId;
use crate::set::yaml;

/// The number of a rule set in [`Program::sets`](crate::Program::sets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub u32);

/// The number of a list of sub-rules in [`Program::subs`](crate::Program::subs).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubId(pub u32);

/// What the names in rules mean, and which databases there are.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The number of an outbound.
    pub outbound: &'a dyn Fn(&str) -> Option<OutboundId>,
    /// The number of a rule set.
    pub rule_set: &'a dyn Fn(&str) -> Option<SetId>,
    /// The number of a list of sub-rules.
    pub sub_rule: &'a dyn Fn(&str) -> Option<SubId>,
    /// The database of `GEOSITE`.
    pub geosite: Option<&'a GeoSite>,
    /// Whether there is a database for `GEOIP`.
    pub geoip: bool,
    /// Whether there is a database for `IP-ASN`.
    pub asn: bool,
    /// Whether rules that need a database are refused where there is none. Compiling them fails in any case.
    pub check_databases: bool,
}

impl<'a> Context<'a> {
    /// Outbounds, and nothing else.
    pub fn new(outbound: &'a dyn Fn(&str) -> Option<OutboundId>) -> Self {
        Self {
            outbound,
            rule_set: &|_| None,
            sub_rule: &|_| None,
            geosite: None,
            geoip: false,
            asn: false,
            check_databases: true,
        }
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("geoip", &self.geoip).field("asn", &self.asn).finish_non_exhaustive()
    }
}

/// What a rule does with a flow that matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Outbound(OutboundId),
    Sub(SubId),
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) condition: Condition,
    pub(crate) action: Action,
}

/// Rules in their order, as they were written.
#[derive(Clone, Debug, Default)]
pub struct RuleList {
    pub(crate) rules: Vec<Rule>,
    /// The rules' own texts, one behind the other, and where each ends.
    texts: String,
    ends: Vec<u32>,
    /// A `MATCH` was read: nothing behind it can match.
    closed: bool,
}

impl RuleList {
    /// How many rules there are. Those behind `MATCH` are not among them.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a `MATCH` ends the list.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The text of a rule.
    pub fn text(&self, rule: usize) -> Option<&str> {
        let end = *self.ends.get(rule)? as usize;
        let begin =
            rule.checked_sub(1).map_or(0, |before| self.ends.get(before).map_or(0, |end| *end as usize));
        self.texts.get(begin..end)
    }

    /// Parses one rule and appends it. `false` if it stands behind a `MATCH`: then it can never match, and is left
    /// out. `line` is for the error.
    ///
    /// # Errors
    /// If it cannot be understood.
    pub fn push(&mut self, text: &str, line: usize, context: &Context<'_>) -> Result<bool, ParseError> {
        self.push_at(text, line, 0, context)
    }

    /// Appends the rules of a text, one a line. Empty lines and those that begin with `#` or `//` are skipped, as is a
    /// leading `- `. Gives every error, in order.
    pub fn push_text(&mut self, text: &str, context: &Context<'_>) -> Vec<ParseError> {
        let mut errors = Vec::new();
        for (index, line) in crate::set::text::lines(text) {
            errors.extend(self.push_at(line, index, 0, context).err());
        }
        errors
    }

    /// Appends the rules of a YAML document: the list under `rules`, or under `payload`. Gives every error, in order.
    pub fn push_yaml(&mut self, text: &str, context: &Context<'_>) -> Vec<ParseError> {
        let mut errors = Vec::new();
        let read = yaml::list(text, |item| {
            errors.extend(self.push_at(&item.text, item.line, item.before, context).err());
        });
        errors.extend(read.err());
        errors
    }

    fn push_at(
        &mut self,
        text: &str,
        line: usize,
        before: usize,
        context: &Context<'_>,
    ) -> Result<bool, ParseError> {
        let (rule, body) = parse_rule(text, context).map_err(|wrong| wrong.place(line, before, text))?;
        if self.closed {
            return Ok(false);
        }
        let end = u32::try_from(self.texts.len() + body.len()).ok().filter(|_| self.len() < MAX_ENTRIES);
        let Some(end) = end else {
            let message = format!("these are more rules than the {MAX_ENTRIES} that there may be");
            return Err(Wrong::new(0, message).place(line, before, text));
        };
        self.closed = matches!(rule.condition, Condition::Always);
        self.rules.push(rule);
        self.texts.push_str(body);
        self.ends.push(end);
        Ok(true)
    }
}

/// Parses a rule. Gives its text without what surrounds it, too.
fn parse_rule<'a>(text: &'a str, context: &Context<'_>) -> Result<(Rule, &'a str), Wrong> {
    let mut whole = Field::new(text, 0);
    if let Some(item) = whole.text.strip_prefix("- ") {
        whole = Field::new(item, whole.at + 2);
    }
    let (kind, rest) = whole.split_first();
    let end = whole.end();
    let word = kind.text.to_ascii_uppercase();
    if last::is_match(kind) {
        let (target, extra) = rest.unwrap_or(end).split_first();
        let outbound = find_outbound(target, context)?;
        if let Some(extra) = extra {
            return Err(extra.wrong(format!("{:?} is one field too many", extra.text)));
        }
        let rule = Rule { condition: Condition::Always, action: Action::Outbound(outbound) };
        return Ok((rule, whole.text));
    }
    if word == "SUB-RULE" {
        let (payload, target) = rest.unwrap_or(end).split_last();
        let condition = condition::single(payload, context)?;
        let target = target.unwrap_or(end);
        let sub = (context.sub_rule)(target.text).ok_or_else(|| match target.text {
            "" => target.wrong("the name of a list of sub-rules is missing here"),
            name => target.wrong(format!("there is no list of sub-rules named {name:?}")),
        })?;
        return Ok((Rule { condition, action: Action::Sub(sub) }, whole.text));
    }
    // The payload of these may have commas.
    let takes_all = condition::takes_commas(&word);
    let (payload, target, options) = match rest {
        None => (end, end, None),
        Some(rest) if takes_all => {
            let (payload, target) = rest.split_last();
            (payload, target.unwrap_or(end), None)
        }
        Some(rest) => {
            let (payload, rest) = rest.split_first();
            let (target, options) = rest.unwrap_or(end).split_first();
            (payload, target, options)
        }
    };
    let condition = parse_condition(kind, payload, options, &Dialect::Rules(context))?;
    let outbound = find_outbound(target, context)?;
    Ok((Rule { condition, action: Action::Outbound(outbound) }, whole.text))
}

fn find_outbound(target: Field<'_>, context: &Context<'_>) -> Result<OutboundId, Wrong> {
    (context.outbound)(target.text).ok_or_else(|| match target.text {
        "" => target.wrong("an outbound is missing here"),
        name => target.wrong(format!("there is no outbound named {name:?}")),
    })
}

#[cfg(test)]
mod tests;

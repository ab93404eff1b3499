//! From rules to an index that is asked in time that does not depend on their number.
//!
//! ```text
//! RuleList ─▶ Index: names · keywords · expressions · places · programs · others, each with its rule's position
//!                    └─────────────── the smallest position that holds ───────────────┘
//! ```
//!
//! Rule sets and categories join the index under the position of the rule that refers to them; those inside `AND`, `OR`
//! and `NOT` get an index of their own, which only says yes or no. A rule that needs a fact that is not known ends the
//! search as one that holds would, and the answer is the question.

mod evaluate;
mod index;
mod names;
mod parts;
mod places;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use index::{Found, Index, IndexBuilder};

use crate::condition::{Address, Condition, Side};
use crate::domain;
use crate::geo::asn::Asn;
use crate::geo::ip::GeoIp;
use crate::geo::site::GeoSite;
use crate::parse::{Action, RuleList, SetId, SubId};
use crate::query::{Decision, Fact, Needs, OutboundId, Query, Step};
use crate::set::SetData;

/// Why rules that were understood cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CompileError {
    /// The rule set that it is about.
    pub set: Option<SetId>,
    /// The list of sub-rules that it is about.
    pub sub: Option<SubId>,
    /// What is wrong.
    pub message: String,
}

impl CompileError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { set: None, sub: None, message: message.into() }
    }
}

/// Everything that rules consist of.
#[derive(Debug)]
pub struct Program {
    /// The rules.
    pub rules: RuleList,
    /// Lists of sub-rules, by [`SubId`](crate::SubId).
    pub subs: Vec<RuleList>,
    /// Rule sets, by [`SetId`].
    pub sets: Vec<SetData>,
    /// The database of `GEOSITE`.
    pub geosite: Option<GeoSite>,
    /// The database of `GEOIP`.
    pub geoip: Option<Arc<GeoIp>>,
    /// The database of `IP-ASN`.
    pub asn: Option<Arc<Asn>>,
    /// The outbound for what no rule matches.
    pub last: OutboundId,
}

impl Program {
    /// Rules alone.
    pub fn new(rules: RuleList, last: OutboundId) -> Self {
        Self { rules, subs: Vec::new(), sets: Vec::new(), geosite: None, geoip: None, asn: None, last }
    }
}

#[derive(Debug, Default)]
struct Databases {
    geoip: Option<Arc<GeoIp>>,
    asn: Option<Arc<Asn>>,
}

/// A list of rules, compiled.
#[derive(Debug)]
struct Compiled {
    index: Index,
    actions: Vec<Action>,
}

/// Rules in their order, compiled.
#[derive(Debug)]
pub struct RuleSet {
    main: Compiled,
    subs: Vec<Compiled>,
    /// Sets inside conditions.
    sets: Vec<Index>,
    databases: Databases,
    needs: Needs,
    last: OutboundId,
    /// For their texts, as the lists of sub-rules.
    rules: RuleList,
    sub_rules: Vec<RuleList>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    No,
    Yes,
    Needs(Fact),
}

impl From<bool> for Verdict {
    fn from(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }
}

/// A query, prepared, and what it is held against.
struct Evaluation<'a> {
    query: &'a Query<'a>,
    /// In the form of the rules.
    host: Option<&'a str>,
    source: Option<IpAddr>,
    sets: &'a [Index],
    subs: &'a [Compiled],
    databases: &'a Databases,
}

/// What comes of a list of rules.
enum Outcome {
    /// Also by which rule of which list of sub-rules.
    Outbound(OutboundId, Option<(SubId, usize)>),
    Needs(Fact),
}

impl RuleSet {
    /// Compiles rules.
    ///
    /// # Errors
    /// If lists of sub-rules lead back to themselves, or a rule set asks for a database that there is not.
    pub fn compile(program: Program) -> Result<Self, CompileError> {
        let Program { rules, subs, sets, geosite, geoip, asn, last } = program;
        check_circles(&subs)?;
        check_looks(&rules, &subs)?;
        let mut rules = rules;
        let mut compiler = Compiler {
            sets: &sets,
            geosite: geosite.as_ref(),
            geoip: geoip.is_some(),
            asn: asn.is_some(),
            compiled: Vec::new(),
            known: HashMap::new(),
            needs: Needs::default(),
        };
        let main = compiler.list(std::mem::take(&mut rules.rules))?;
        let mut sub_rules = subs;
        let subs: Vec<Compiled> = sub_rules
            .iter_mut()
            .map(|sub| compiler.list(std::mem::take(&mut sub.rules)))
            .collect::<Result<_, _>>()?;
        let Compiler { compiled, needs, .. } = compiler;
        Ok(Self {
            main,
            subs,
            sets: compiled,
            databases: Databases { geoip, asn },
            needs,
            last,
            rules,
            sub_rules,
        })
    }

    /// What the rules say about a flow.
    pub fn decide(&self, query: &Query<'_>) -> Step {
        let host = query.host.filter(|host| !host.is_empty()).and_then(domain::canonical);
        let evaluation = Evaluation {
            query,
            host: host.as_deref(),
            source: query.source.map(|source| source.ip().to_canonical()),
            sets: &self.sets,
            subs: &self.subs,
            databases: &self.databases,
        };
        match evaluation.list(&self.main, None) {
            Some((order, Outcome::Outbound(outbound, inner))) => {
                Step::Decided(Decision { outbound, rule: Some(order as usize), inner })
            }
            Some((order, Outcome::Needs(fact))) => Step::Needs { fact, rule: order as usize },
            None => Step::Decided(Decision { outbound: self.last, rule: None, inner: None }),
        }
    }

    /// What the rules may ask for.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// The text of a rule, as it was written.
    pub fn text(&self, rule: usize) -> Option<&str> {
        self.rules.text(rule)
    }

    /// The same of a rule in a list of sub-rules.
    pub fn text_in(&self, sub: SubId, rule: usize) -> Option<&str> {
        self.sub_rules.get(sub.0 as usize)?.text(rule)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.main.actions.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.main.actions.is_empty()
    }

    /// The outbound for what no rule matches.
    pub fn final_outbound(&self) -> OutboundId {
        self.last
    }

    /// About how many bytes the index takes: names, networks and keywords, which are what grows.
    pub fn memory(&self) -> usize {
        let lists = std::iter::once(&self.main).chain(&self.subs);
        lists.map(|list| list.index.memory() + size_of::<Action>() * list.actions.capacity()).sum::<usize>()
            + self.sets.iter().map(Index::memory).sum::<usize>()
    }
}

impl Evaluation<'_> {
    /// The first rule of a list that says something. All rules of a list of sub-rules count as the one that led there.
    fn list(&self, list: &Compiled, within: Option<u32>) -> Option<(u32, Outcome)> {
        let mut inner = None;
        let asked_at = within.map_or(self.query.asked_at, |order| self.asked_within(order));
        let found = list.index.find(self, asked_at, |order, condition| {
            let verdict = self.test(within.unwrap_or(order), condition);
            match (verdict, list.actions.get(order as usize)) {
                (Verdict::Yes, Some(Action::Sub(id))) => {
                    let sub = self.subs.get(id.0 as usize);
                    match sub.and_then(|sub| self.list(sub, Some(within.unwrap_or(order)))) {
                        Some((at, Outcome::Outbound(outbound, below))) => {
                            inner = Some(Outcome::Outbound(outbound, below.or(Some((*id, at as usize)))));
                            Verdict::Yes
                        }
                        Some((_, Outcome::Needs(fact))) => Verdict::Needs(fact),
                        // Nothing in there matched: on with the next rule here.
                        None => Verdict::No,
                    }
                }
                (verdict, _) => verdict,
            }
        });
        let Found { order, missing } = found?;
        let outcome = match (missing, inner, list.actions.get(order as usize)) {
            (Some(fact), ..) => Outcome::Needs(fact),
            (None, Some(outcome), _) => outcome,
            (None, None, Some(Action::Outbound(outbound))) => Outcome::Outbound(*outbound, None),
            (None, None, _) => return None,
        };
        Some((order, outcome))
    }
}

/// What makes a set inside a condition: which set, and how its addresses are meant.
#[derive(Clone, PartialEq, Eq, Hash)]
enum SetKey {
    Set(SetId, bool, bool),
    Site(Box<str>, Option<Box<str>>),
}

struct Compiler<'a> {
    sets: &'a [SetData],
    geosite: Option<&'a GeoSite>,
    geoip: bool,
    asn: bool,
    compiled: Vec<Index>,
    known: HashMap<SetKey, u32>,
    needs: Needs,
}

impl Compiler<'_> {
    fn list(&mut self, rules: Vec<crate::parse::Rule>) -> Result<Compiled, CompileError> {
        let mut builder = IndexBuilder::default();
        let named = rules.iter().map(|rule| match &rule.condition {
            Condition::Name(..) => 1,
            Condition::RuleSet(set, _) => self.sets.get(set.0 as usize).map_or(0, |set| set.names().count()),
            _ => 0,
        });
        builder.reserve(named.sum());
        let mut actions = Vec::with_capacity(rules.len());
        for (order, rule) in (0u32..).zip(rules) {
            actions.push(rule.action);
            self.note(&rule.condition)?;
            match (rule.action, rule.condition) {
                (Action::Outbound(_), Condition::RuleSet(set, address)) => {
                    self.join_set(&mut builder, order, set, address)?;
                }
                (Action::Outbound(_), Condition::GeoSite(category)) => {
                    let entries = self.site(&category.0, category.1.as_deref())?;
                    self.join(&mut builder, order, &entries, ANY)?;
                }
                (Action::Outbound(_), condition) => {
                    let condition = self.inner(condition)?;
                    builder.add(order, condition)?;
                }
                (Action::Sub(_), condition) => {
                    let condition = self.inner(condition)?;
                    builder.add_other(order, condition);
                }
            }
        }
        Ok(Compiled { index: builder.build()?, actions })
    }

    fn join_set(
        &mut self,
        builder: &mut IndexBuilder,
        order: u32,
        id: SetId,
        address: Address,
    ) -> Result<(), CompileError> {
        let Some(set) = self.sets.get(id.0 as usize) else { return Ok(()) };
        self.join(builder, order, set, address).map_err(|error| CompileError { set: Some(id), ..error })
    }

    /// Adds the entries of a set under one position.
    fn join(
        &mut self,
        builder: &mut IndexBuilder,
        order: u32,
        set: &SetData,
        address: Address,
    ) -> Result<(), CompileError> {
        for (name, kind) in set.names() {
            builder.name(order, name, kind)?;
        }
        self.needs.host |= set.names().next().is_some();
        for net in &set.nets {
            self.note(&Condition::Net(*net, address))?;
            builder.add(order, Condition::Net(*net, address))?;
        }
        for condition in &set.others {
            let condition = turned(condition.clone(), address);
            self.note(&condition)?;
            let condition = self.inner(condition)?;
            builder.add(order, condition)?;
        }
        Ok(())
    }

    /// Replaces sets inside a condition by compiled ones.
    fn inner(&mut self, condition: Condition) -> Result<Condition, CompileError> {
        let each = |this: &mut Self, inner: Box<[Condition]>| {
            inner.into_iter().map(|condition| this.inner(condition)).collect::<Result<Box<[_]>, _>>()
        };
        Ok(match condition {
            Condition::All(inner) => Condition::All(each(self, inner)?),
            Condition::Any(inner) => Condition::Any(each(self, inner)?),
            Condition::Not(inner) => Condition::Not(Box::new(self.inner(*inner)?)),
            Condition::RuleSet(set, address) => {
                let key = SetKey::Set(set, address.side == Side::Source, address.resolve);
                self.compiled_set(key, |this, builder| this.join_set(builder, 0, set, address))?
            }
            Condition::GeoSite(category) => {
                let (name, attribute) = *category;
                let key = SetKey::Site(name.clone(), attribute.clone());
                self.compiled_set(key, |this, builder| {
                    let entries = this.site(&name, attribute.as_deref())?;
                    this.join(builder, 0, &entries, ANY)
                })?
            }
            other => other,
        })
    }

    fn compiled_set(
        &mut self,
        key: SetKey,
        fill: impl FnOnce(&mut Self, &mut IndexBuilder) -> Result<(), CompileError>,
    ) -> Result<Condition, CompileError> {
        if let Some(number) = self.known.get(&key) {
            return Ok(Condition::Compiled(*number));
        }
        let mut builder = IndexBuilder::default();
        fill(self, &mut builder)?;
        let number =
            u32::try_from(self.compiled.len()).map_err(|_| CompileError::new("too many rule sets"))?;
        self.compiled.push(builder.build()?);
        self.known.insert(key, number);
        Ok(Condition::Compiled(number))
    }

    fn site(&self, category: &str, attribute: Option<&str>) -> Result<SetData, CompileError> {
        let Some(geosite) = self.geosite else {
            return Err(CompileError::new(
                "GEOSITE needs a database of names; give its file by the key geosite in [rules]",
            ));
        };
        geosite
            .entries(category, attribute)
            .map_err(|e| CompileError::new(format!("GEOSITE,{category}: {e}")))
    }

    /// Notes what a condition asks for, and refuses what there is no database for.
    fn note(&mut self, condition: &Condition) -> Result<(), CompileError> {
        let mut missing = None;
        let (needs, geoip, asn) = (&mut self.needs, self.geoip, self.asn);
        let address = |address: &Address, needs: &mut Needs| match address.side {
            Side::Source => needs.source = true,
            Side::Destination => needs.address |= address.resolve,
        };
        condition.walk(&mut |condition| match condition {
            Condition::Name(..)
            | Condition::Labels(_)
            | Condition::Keyword(_)
            | Condition::Wildcard(_)
            | Condition::Regex(_)
            | Condition::GeoSite(_) => needs.host = true,
            Condition::Net(_, at) | Condition::IpSuffix(_, at) => address(at, needs),
            Condition::GeoIp(code, at) => {
                address(at, needs);
                if !geoip && **code != *"lan" {
                    missing = Some(
                        "GEOIP needs a database of countries; give its file by the key geoip in [rules]",
                    );
                }
            }
            Condition::Asn(_, at) => {
                address(at, needs);
                if !asn {
                    missing =
                        Some("IP-ASN needs a database of networks; give its file by the key asn in [rules]");
                }
            }
            Condition::Port(Side::Source, _) => needs.source = true,
            Condition::Program(..) | Condition::ProgramWildcard(..) | Condition::ProgramRegex(..) => {
                needs.process = true;
            }
            Condition::Uid(_) => needs.uid = true,
            Condition::Dscp(_) => needs.dscp = true,
            _ => {}
        });
        missing.map_or(Ok(()), |message| Err(CompileError::new(message)))
    }
}

/// How the addresses of a set are meant if nobody says otherwise.
const ANY: Address = Address { side: Side::Destination, resolve: true };

/// An entry of a set, as the rule that refers to the set has it: the addresses of the source, or not resolved.
fn turned(condition: Condition, by: Address) -> Condition {
    let turn = |own: Address| Address {
        side: if by.side == Side::Source { Side::Source } else { own.side },
        resolve: own.resolve && by.resolve,
    };
    let each = |inner: Box<[Condition]>| inner.into_iter().map(|condition| turned(condition, by)).collect();
    match condition {
        Condition::Net(net, at) => Condition::Net(net, turn(at)),
        Condition::IpSuffix(suffix, at) => Condition::IpSuffix(suffix, turn(at)),
        Condition::GeoIp(code, at) => Condition::GeoIp(code, turn(at)),
        Condition::Asn(number, at) => Condition::Asn(number, turn(at)),
        Condition::All(inner) => Condition::All(each(inner)),
        Condition::Any(inner) => Condition::Any(each(inner)),
        Condition::Not(inner) => Condition::Not(Box::new(turned(*inner, by))),
        other => other,
    }
}

/// Refuses lists of sub-rules that lead back to themselves, or through more lists than a thread's stack may hold.
fn check_circles(subs: &[RuleList]) -> Result<(), CompileError> {
    const MAX_DEPTH: usize = 32;
    // How deep each list leads; none while it is being looked at.
    fn depth(subs: &[RuleList], at: usize, known: &mut [Option<usize>], from: usize) -> Result<usize, ()> {
        if let Some(Some(depth)) = known.get(at) {
            return Ok(*depth);
        }
        if from > MAX_DEPTH {
            return Err(());
        }
        let mut deepest = 0;
        for rule in subs.get(at).map_or(&[][..], |list| &list.rules) {
            if let Action::Sub(next) = rule.action {
                deepest = deepest.max(1 + depth(subs, next.0 as usize, known, from + 1)?);
            }
        }
        if deepest > MAX_DEPTH {
            return Err(());
        }
        if let Some(known) = known.get_mut(at) {
            *known = Some(deepest);
        }
        Ok(deepest)
    }
    let mut known = vec![None; subs.len()];
    for at in 0..subs.len() {
        depth(subs, at, &mut known, 0).map_err(|()| CompileError {
            sub: u32::try_from(at).ok().map(SubId),
            ..CompileError::new(format!("it leads back to itself, or through more than {MAX_DEPTH} others"))
        })?;
    }
    Ok(())
}

/// Refuses rules that lead to the same lists of sub-rules so often that one connection would keep a thread for long. There are
/// no circles.
fn check_looks(rules: &RuleList, subs: &[RuleList]) -> Result<(), CompileError> {
    /// Without lists of sub-rules there may be as many as fit. So many of theirs take a fifth of a second.
    const MOST: u64 = 4_000_000;
    // Those that are looked at beyond the rule that leads to each list, where none says anything.
    fn beyond(list: &RuleList, subs: &[RuleList], known: &mut [Option<u64>]) -> u64 {
        list.rules.iter().fold(0, |looks, rule| {
            let Action::Sub(sub) = rule.action else { return looks };
            let at = sub.0 as usize;
            let Some(next) = subs.get(at) else { return looks };
            let more = known
                .get(at)
                .copied()
                .flatten()
                .unwrap_or_else(|| beyond(next, subs, known).saturating_add(next.rules.len() as u64));
            if let Some(known) = known.get_mut(at) {
                *known = Some(more);
            }
            looks.saturating_add(more)
        })
    }
    if beyond(rules, subs, &mut vec![None; subs.len()]) > MOST {
        return Err(CompileError::new(format!(
            "lists of sub-rules that lead to the same ones again and again make more than {MOST} rules to be looked at for \
             one connection"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! A list of conditions, compiled: each kind finds the first of its rules that holds, and the first of these counts.

use std::net::IpAddr;

use super::CompileError;
use super::names::{NONE, Names};
use super::parts::{Keywords, Programs, Regexes};
use super::places::{Places, PlacesBuilder};
use super::{Evaluation, Verdict};
use crate::condition::{Address, Condition, Program, Side};
use crate::query::{Answer, Fact, Query};

/// Conditions with the positions of their rules.
#[derive(Debug)]
pub(crate) struct Index {
    names: Names,
    keywords: Option<Keywords>,
    regexes: Regexes,
    destination: Places,
    source: Places,
    programs: Programs,
    /// What is tried one by one, in the order of the rules.
    others: Vec<(u32, Condition)>,
}

/// The first rule of an index that holds, or that needs to know more to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) order: u32,
    /// The fact that is missing; none if the rule holds.
    pub(crate) missing: Option<Fact>,
}

impl Index {
    /// The first rule that holds or needs a fact. `holds` says of one of the others what comes of it, since that may
    /// lead into a list of sub-rules. Rules with `no-resolve` before the one at `asked_at` do without an address.
    pub(crate) fn find(
        &self,
        evaluation: &Evaluation<'_>,
        asked_at: u32,
        mut test: impl FnMut(u32, &Condition) -> Verdict,
    ) -> Option<Found> {
        let query = evaluation.query;
        let mut best = NONE;
        let mut missing = None;
        if let Some(host) = evaluation.host {
            best = self.names.find(host, best).unwrap_or(best);
            best = self.keywords.as_ref().and_then(|keywords| keywords.find(host, best)).unwrap_or(best);
            best = self.regexes.find(host, best).unwrap_or(best);
        }
        if !self.source.is_empty()
            && let Some(ip) = evaluation.source
        {
            best = self.source.find(ip, 0, best, evaluation.databases).unwrap_or(best);
        }
        match query.ip {
            Answer::Known(ip) => {
                let ip = ip.to_canonical();
                best = self.destination.find(ip, asked_at, best, evaluation.databases).unwrap_or(best);
            }
            Answer::Unasked if evaluation.host.is_some() => {
                if let Some(order) = self.destination.resolving().filter(|order| *order < best) {
                    (best, missing) = (order, Some(Fact::Address));
                }
            }
            Answer::Unasked | Answer::Unknown => {}
        }
        if let Some(first) = self.programs.first().filter(|first| *first < best) {
            match query.process {
                Answer::Known(process) => {
                    let found = self.programs.find(&process.name, &process.path);
                    if let Some(order) = found.filter(|order| before(*order, best, missing)) {
                        (best, missing) = (order, None);
                    }
                }
                Answer::Unasked => (best, missing) = (first, Some(Fact::Process)),
                Answer::Unknown => {}
            }
        }
        for (order, condition) in &self.others {
            if !before(*order, best, missing) {
                break;
            }
            match test(*order, condition) {
                Verdict::No => {}
                Verdict::Yes => return Some(Found { order: *order, missing: None }),
                Verdict::Needs(fact) if *order < best => (best, missing) = (*order, Some(fact)),
                Verdict::Needs(_) => {}
            }
        }
        (best != NONE).then_some(Found { order: best, missing })
    }

    pub(crate) fn memory(&self) -> usize {
        self.names.memory()
            + self.keywords.as_ref().map_or(0, Keywords::memory)
            + self.destination.memory()
            + self.source.memory()
            + size_of::<(u32, Condition)>() * self.others.capacity()
    }
}

/// Whether what holds for the rule at `order` counts before what was found so far: of one rule's parts, one that holds
/// makes the question of another needless.
fn before(order: u32, best: u32, missing: Option<Fact>) -> bool {
    order < best || order == best && missing.is_some()
}

/// An index that is being built. Conditions come in the order of their rules.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    names: Names,
    keywords: Vec<(Box<str>, u32)>,
    regexes: Vec<(Box<regex::Regex>, u32)>,
    destination: PlacesBuilder,
    source: PlacesBuilder,
    programs: Programs,
    others: Vec<(u32, Condition)>,
}

impl IndexBuilder {
    pub(crate) fn reserve(&mut self, names: usize) {
        self.names.reserve(names);
    }

    /// Adds a condition where it is found fastest. Rule sets and categories are not for here.
    pub(crate) fn add(&mut self, order: u32, condition: Condition) -> Result<(), CompileError> {
        match condition {
            Condition::Never => {}
            Condition::Name(kind, name) => return self.name(order, &name, kind),
            Condition::Keyword(keyword) => self.keywords.push((keyword, order)),
            Condition::Regex(regex) => self.regexes.push((regex, order)),
            Condition::Net(net, address) => self.places(address).net(net, order, address.resolve),
            Condition::GeoIp(code, address) => self.places(address).country(code, order, address.resolve),
            Condition::Asn(number, address) => self.places(address).system(number, order, address.resolve),
            Condition::Program(program, text) => {
                self.programs.insert(program == Program::Path, text, order);
            }
            // Any of these is as good as a rule of its own.
            Condition::Any(inner) => {
                // What is tried one by one must stay in the order in which it was written.
                for condition in inner {
                    self.add(order, condition)?;
                }
            }
            other => self.others.push((order, other)),
        }
        Ok(())
    }

    pub(crate) fn name(
        &mut self,
        order: u32,
        name: &str,
        kind: crate::condition::NameKind,
    ) -> Result<(), CompileError> {
        self.names
            .insert(name, kind, order)
            .map_err(|()| CompileError::new("the names of all rules take more than 4 GiB"))
    }

    /// Adds a condition that is tried as it stands.
    pub(crate) fn add_other(&mut self, order: u32, condition: Condition) {
        self.others.push((order, condition));
    }

    fn places(&mut self, address: Address) -> &mut PlacesBuilder {
        match address.side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }

    pub(crate) fn build(mut self) -> Result<Index, CompileError> {
        self.names.shrink();
        Ok(Index {
            names: self.names,
            keywords: Keywords::new(&self.keywords)?,
            regexes: Regexes::new(&self.regexes)?,
            destination: self.destination.build(),
            source: self.source.build(),
            programs: self.programs,
            others: self.others,
        })
    }
}

/// The address of one end, if it is known.
pub(crate) fn address(query: &Query<'_>, side: Side) -> Answer<IpAddr> {
    match (side, query.ip) {
        (Side::Source, _) => {
            query.source.map_or(Answer::Unknown, |source| Answer::Known(source.ip().to_canonical()))
        }
        (Side::Destination, Answer::Known(ip)) => Answer::Known(ip.to_canonical()),
        (Side::Destination, unknown) => unknown,
    }
}

//! What the rules say of a flow, and of each address of a name that it goes to.
//!
//! A flow to a fake address has a name alone, and names have several addresses. Which of them it comes to is up to whoever
//! connects: we try one after the other, of both families, and a proxy takes any. So a refusal of one is a refusal of the
//! name, and we go ourselves only where the rules would send a flow to that very address as well.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use oneway_flow::{Owner, Process};
use oneway_outbound::Outbound;
use oneway_rule::{Answer, Decision, Fact, OutboundId, Query, Step};

use super::{Because, Choice, Dispatch, Subject};

/// What the rules say as long as the address of a name is not known.
enum Said<'a> {
    Decided(Decision),
    /// The rule at this position wants to know it.
    WantsAddress(Query<'a>, usize),
}

impl Dispatch {
    /// What the rules say. Of a name's addresses those of the family that the client has dialled count, and of these the one
    /// with the earliest rule; another one counts if an earlier rule refuses it.
    pub(super) fn judge<E>(
        &self,
        subject: &Subject<'_>,
        find: &impl Fn(bool) -> Result<Owner, E>,
        address: impl Fn(&str) -> Result<Vec<IpAddr>, E>,
    ) -> Result<Decision, E> {
        let process = OnceCell::new();
        let (query, rule) = match self.ask(query(subject), &process, find)? {
            Said::Decided(decision) => return Ok(decision),
            Said::WantsAddress(query, rule) => (query, rule),
        };
        let addresses = address(query.host.unwrap_or_default())?;
        let of = |ip| self.ask_of(query, ip, rule, &process, find);
        let v4 = subject.target.addr.is_ipv4();
        let has_own = addresses.iter().any(|ip| ip.is_ipv4() == v4);
        let mut first = None;
        for ip in addresses {
            let decision = of(Some(ip))?;
            let refuses = self.refuses(decision.outbound);
            if refuses || !has_own || ip.is_ipv4() == v4 {
                let rank = (decision.rule.unwrap_or(usize::MAX), !refuses);
                if first.is_none_or(|(before, _)| rank < before) {
                    first = Some((rank, decision));
                }
            }
        }
        match first {
            Some((_, decision)) => Ok(decision),
            None => of(None),
        }
    }

    /// Whether the rules say the same of a flow to this address of its name.
    fn leads_to<E>(
        &self,
        named: u32,
        subject: &Subject<'_>,
        ip: IpAddr,
        find: &impl Fn(bool) -> Result<Owner, E>,
    ) -> Result<bool, E> {
        let process = OnceCell::new();
        let decision = match self.ask(query(subject), &process, find)? {
            Said::Decided(decision) => decision,
            Said::WantsAddress(query, rule) => self.ask_of(query, Some(ip), rule, &process, find)?,
        };
        Ok(decision.outbound.0 == named)
    }

    /// Of the addresses of a flow's name those to which the rules lead by the outbound of this number.
    pub(crate) async fn led_to(
        &self,
        named: u32,
        subject: &Subject<'_>,
        addresses: Vec<IpAddr>,
    ) -> Vec<IpAddr> {
        let find = |with_process| self.owner(subject, with_process);
        let mut led = Vec::new();
        for ip in addresses {
            loop {
                match self.leads_to(named, subject, ip, &find) {
                    Ok(true) => break led.push(ip),
                    Ok(false) => break,
                    Err(missing) => self.find(subject, missing).await,
                }
            }
        }
        led
    }

    /// Whether an outbound refuses whatever comes.
    #[expect(clippy::indexing_slicing, reason = "the rules' numbers come from this very table")]
    fn refuses(&self, outbound: OutboundId) -> bool {
        let entry = &self.entries[outbound.0 as usize];
        entry.group.is_none() && matches!(entry.outbound, Outbound::Block)
    }

    /// Asks the rules, and finds out what they want to know of the client.
    fn ask<'a, E>(
        &self,
        mut query: Query<'a>,
        process: &'a OnceCell<Option<Arc<Process>>>,
        find: &impl Fn(bool) -> Result<Owner, E>,
    ) -> Result<Said<'a>, E> {
        loop {
            match self.rules.decide(&query) {
                Step::Decided(decision) => return Ok(Said::Decided(decision)),
                Step::Needs { fact: Fact::Uid, .. } => {
                    let owner = find(false)?;
                    query.uid = owner.uid.map_or(Answer::Unknown, Answer::Known);
                }
                Step::Needs { fact: Fact::Process, .. } => {
                    let owner = find(true)?;
                    query.process = match process.get_or_init(|| owner.process) {
                        Some(process) => Answer::Known(&**process),
                        None => Answer::Unknown,
                    };
                }
                // The address that a client dialled is known, unless it only stands for its name.
                Step::Needs { fact: Fact::Address, rule } => return Ok(Said::WantsAddress(query, rule)),
            }
        }
    }

    /// The same with an address, or with none, which the rule at this position has asked for.
    fn ask_of<'a, E>(
        &self,
        query: Query<'a>,
        ip: Option<IpAddr>,
        rule: usize,
        process: &'a OnceCell<Option<Arc<Process>>>,
        find: &impl Fn(bool) -> Result<Owner, E>,
    ) -> Result<Decision, E> {
        match self.ask(query.with_address(ip, rule), process, find)? {
            Said::Decided(decision) => Ok(decision),
            // Each fact is asked for once.
            Said::WantsAddress(..) => {
                Ok(Decision { outbound: self.rules.final_outbound(), rule: None, inner: None })
            }
        }
    }
}

impl Choice<'_> {
    /// What the rules have named, if they have decided; what comes before them does not look at addresses.
    pub(crate) fn named(&self) -> Option<u32> {
        matches!(self.because, Because::Rule(_)).then_some(self.named)
    }

    /// Whether the flow, whose owner is given, may go to this address of its name without a proxy.
    pub(crate) fn leads_to_for(&self, subject: &Subject<'_>, ip: IpAddr, owner: &Owner) -> bool {
        let Some(named) = self.named() else { return true };
        let Ok(leads) = self.dispatch.leads_to(named, subject, ip, &|_| Ok::<_, Infallible>(owner.clone()));
        leads
    }

    /// Of the addresses of a flow's name those to which it may go without a proxy.
    pub(crate) async fn led_to(&self, subject: &Subject<'_>, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        match self.named() {
            Some(named) => self.dispatch.led_to(named, subject, addresses).await,
            None => addresses,
        }
    }
}

/// What the rules are asked of a flow before they want to know more.
fn query<'a>(subject: &Subject<'a>) -> Query<'a> {
    let Subject { network, source, inbound, target, is_fake, dscp } = *subject;
    let mut query = match target.host.as_deref() {
        Some(host) if is_fake => Query::to_host(network, Some(source), host, target.addr.port()),
        host => Query { host, ..Query::new(network, Some(source), target.addr) },
    };
    query.inbound = inbound;
    query.dscp = Some(dscp);
    query
}

#[cfg(test)]
mod tests;

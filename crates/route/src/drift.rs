//! Keeping a plan real while others change the host, and following the host to another plan.

use crate::apply::{Applied, Captured, Hook, make, unmake};
use crate::change::Change;
use crate::error::RouteError;
use crate::id::Family;
use crate::os;
use crate::plan::{Phase, Plan, Step};
use crate::prove;
use crate::resolver::ResolvConf;

/// Which changes to look after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// All.
    All,
    /// The switches below `/proc/sys`, the resolver settings and the journal alone: nobody tells when they change.
    Switches,
}

/// What was made again.
#[derive(Debug, Default)]
pub struct PutBack {
    /// That, in the plan's order.
    pub done: Vec<String>,
    /// The first change that could not be made.
    pub failed: Option<RouteError>,
}

impl PutBack {
    /// What was made again, if that was all that was missing.
    ///
    /// # Errors
    /// [`Self::failed`].
    pub fn whole(self) -> Result<Vec<String>, RouteError> {
        match self.failed {
            None => Ok(self.done),
            Some(error) => Err(error),
        }
    }
}

/// Whether nobody tells when it changes.
fn is_silent(change: &Change) -> bool {
    matches!(
        change,
        Change::Sysctl { .. } | Change::ResolvConf(_) | Change::LinkDns { .. } | Change::LinkDomains(_)
    )
}

impl Applied<Captured> {
    /// What of the plan is not on the host, in the plan's order. Changes nothing.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn missing(&self, which: Watched) -> Result<Vec<Step>, RouteError> {
        let watched = |step: &&Step| which == Watched::All || is_silent(&step.change);
        let steps: Vec<&Step> = self.plan.steps.iter().filter(watched).collect();
        let changes: Vec<&Change> = steps.iter().map(|step| &step.change).collect();
        let missing = os::missing(&changes)?;
        Ok(steps
            .into_iter()
            .zip(missing)
            .filter(|(_, missing)| *missing)
            .map(|(step, _)| step.clone())
            .collect())
    }

    /// Makes what of the plan is not on the host again, and says what that was. The journal has the inverse of each from
    /// when it was made first, so that nothing is to be written, unless somebody has removed the journal.
    ///
    /// What cannot be made keeps nothing else from being made, but for the capture's rules. They come last and count on all
    /// that is of their family; and on the tables, unless everything that is not captured is to be refused: who asks this
    /// host would have no answer.
    pub fn put_back(&mut self, which: Watched) -> PutBack {
        let mut back = PutBack::default();
        let missing = match self.missing(which) {
            Ok(missing) => missing,
            Err(error) => return PutBack { failed: Some(error), ..back },
        };
        // First, but where it cannot be written what captures and protects is made all the same.
        let journal = self.journal.put_back();
        let mut incomplete: Vec<Family> = Vec::new();
        for step in missing {
            let counts = |family| incomplete.contains(&family);
            if step.phase == Phase::Capture && family(&step.change).is_some_and(counts) {
                continue;
            }
            match self.make_again(step.change.clone()) {
                Ok(what) => back.done.push(what),
                Err(error) => {
                    match family(&step.change) {
                        Some(family) => incomplete.push(family),
                        None if self.plan.strict => {}
                        None => incomplete.extend(Family::ALL),
                    }
                    back.failed.get_or_insert(error);
                }
            }
        }
        match journal {
            Ok(true) => back.done.push(format!("the journal {}", self.journal.path().display())),
            Ok(false) => {}
            Err(error) => {
                back.failed.get_or_insert(error);
            }
        }
        back
    }

    fn make_again(&mut self, mut change: Change) -> Result<String, RouteError> {
        let mut what = short(&change);
        if let Change::ResolvConf(file) = &change
            && let Some((theirs, by)) = os::resolv_conf_now(file)?
        {
            what = format!("{}, which was replaced by {by}", file.path.display());
            change = Change::ResolvConf(self.take_over(theirs)?);
        }
        os::make(&change)?;
        Ok(what)
    }

    /// What others have written is what comes back in the end: it is put down before it is replaced.
    fn take_over(&mut self, theirs: ResolvConf) -> Result<ResolvConf, RouteError> {
        let mut steps = self.plan.steps.clone();
        for step in steps.iter_mut().filter(|step| matches!(step.change, Change::ResolvConf(_))) {
            step.change = Change::ResolvConf(theirs.clone());
        }
        self.journal.rewrite(steps.iter().map(|step| &step.change))?;
        self.plan.steps = steps;
        Ok(theirs)
    }

    /// Changes the host from this plan to another one: makes what is new, rehearses the capture if its rules change, and
    /// then undoes what is in the way. Says what it did.
    ///
    /// # Errors
    /// The step that failed, or [`RouteError::NotProven`]; what was made is undone, and the plan stays.
    pub fn change_to(&mut self, plan: Plan, hook: Hook<'_>) -> Result<Vec<String>, RouteError> {
        let is_in = |step: &Step, plan: &Plan| plan.steps.iter().any(|other| other.change == step.change);
        let new: Vec<Step> = plan.steps.iter().filter(|step| !is_in(step, &self.plan)).cloned().collect();
        let old: Vec<Step> = self.plan.steps.iter().filter(|step| !is_in(step, &plan)).cloned().collect();
        let mut done: Vec<String> = new.iter().map(|step| short(&step.change)).collect();
        if new.is_empty() && old.is_empty() {
            self.plan = plan;
            return Ok(done);
        }
        let phase = |phase| new.iter().filter(move |step| step.phase == phase).cloned().collect::<Vec<_>>();
        self.journal.reserve(new.iter().chain(&plan.rehearsal).map(|step| &step.change))?;
        let before = self.journal.done().len();
        let rules = phase(Phase::Capture);
        // Rules that take everything but one address of ours, and those that take everything but another one, leave none:
        // nothing can be shown before the old ones are gone. No socket is made meanwhile, see `changed_sources`.
        let rehearsed = self.changed_sources(&plan).is_empty();
        let made = make(&mut self.journal, &phase(Phase::Prepare), hook).and_then(|()| {
            if !rules.is_empty() && rehearsed {
                prove::rehearse(&plan, &mut self.journal, &[], hook)?;
            }
            make(&mut self.journal, &rules, hook)
        });
        if let Err(error) = made {
            if let Err(undo) = unmake(&mut self.journal, before, hook) {
                tracing::error!("what was changed could not be undone: {undo}");
            }
            return Err(error);
        }
        for step in old.iter().rev() {
            if new.iter().any(|new| same_place(&new.change, &step.change)) {
                // It was replaced, and undoing it would remove what has its place now.
                continue;
            }
            os::unmake(&step.change.undo())?;
            done.push(format!("undone: {}", short(&step.change)));
        }
        self.plan = plan;
        let rewritten = self.journal.rewrite(self.plan.steps.iter().map(|step| &step.change));
        if !rehearsed {
            prove::now(&self.plan, &[])?;
        }
        rewritten.map(|()| done)
    }

    /// The families whose sockets of ours another plan tells by another source than this one. None of them may be alive while
    /// the one is changed for the other: both plans' rules are there for a moment, and each captures the other's sockets.
    pub fn changed_sources(&self, plan: &Plan) -> Vec<Family> {
        let of = |plan: &Plan, family| plan.sources.map(|s| (s.ports, s.uid, s.get(family)));
        Family::ALL.into_iter().filter(|family| of(&self.plan, *family) != of(plan, *family)).collect()
    }
}

/// Whether the kernel holds one of the two only: making the second replaces the first.
fn same_place(a: &Change, b: &Change) -> bool {
    match (a, b) {
        (Change::Route(a), Change::Route(b)) => {
            (a.table, a.dst, a.metric, a.kind()) == (b.table, b.dst, b.metric, b.kind())
        }
        (Change::Nft(a), Change::Nft(b)) => a.name == b.name,
        (Change::Refuse(a), Change::Refuse(b)) => a.name == b.name,
        (Change::Redirect(a), Change::Redirect(b)) => a.name == b.name,
        (Change::Tproxy(a), Change::Tproxy(b)) => a.name == b.name,
        (Change::Sysctl { path: a, .. }, Change::Sysctl { path: b, .. }) => a == b,
        (Change::Link { name: a, .. }, Change::Link { name: b, .. }) => a == b,
        (Change::ResolvConf(a), Change::ResolvConf(b)) => a.path == b.path,
        (Change::LinkDns { name: a, .. }, Change::LinkDns { name: b, .. }) => a == b,
        (Change::LinkDomains(a), Change::LinkDomains(b)) => a.name == b.name,
        _ => a == b,
    }
}

/// The family that a change is about, if it is one.
fn family(change: &Change) -> Option<Family> {
    match change {
        Change::Address { net, .. } => Some(Family::of_net(*net)),
        Change::Route(route) => Some(Family::of_net(route.dst)),
        Change::Rule(rule) => Some(rule.family),
        Change::Sysctl { path, .. } if path.starts_with("net/ipv6/") => Some(Family::V6),
        _ => None,
    }
}

/// A change in one line.
fn short(change: &Change) -> String {
    match change {
        Change::Nft(table) => format!("nft table inet {}", table.name),
        Change::Refuse(table) => format!("nft table inet {}", table.name),
        Change::Redirect(table) => format!("nft table inet {}", table.name),
        Change::Tproxy(table) => format!("nft table inet {}", table.name),
        Change::LinkDomains(link) => format!("all names but by {} in systemd-resolved", link.name),
        Change::LinkDns { name, .. } => format!("the servers of {name} in systemd-resolved"),
        change => change.to_string(),
    }
}

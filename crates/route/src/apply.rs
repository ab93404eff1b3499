//! Making a plan real, in the order that is never broken: protect, verify, capture; and back.

use std::net::IpAddr;
use std::path::Path;

use crate::error::RouteError;
use crate::journal::{self, Found, Journal};
use crate::os;
use crate::plan::{Phase, Plan, Step};
use crate::prove::{self, Proof};
use crate::resolver::RESOLV_CONF;

/// A moment between two system calls that matter, for tests that end the process there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPoint {
    /// The step's inverse is not in the journal yet.
    BeforeJournal(usize),
    /// The step's inverse is in the journal; the change is not made.
    BeforeChange(usize),
    /// The change is made.
    AfterChange(usize),
    /// The step with that many steps before it is not undone yet.
    BeforeUndo(usize),
    /// It is undone.
    AfterUndo(usize),
    /// Everything is undone; the journal is still there.
    BeforeRemoval,
}

/// What is called at every [`StepPoint`].
pub type Hook<'a> = &'a mut dyn FnMut(StepPoint);

/// All preparations are made; nothing is captured.
#[derive(Debug)]
pub struct Prepared(());
/// The rehearsal has shown that our own sockets' packets do not take the capture's routes.
#[derive(Debug)]
pub struct Verified(Proof);
/// Traffic is captured.
#[derive(Debug)]
pub struct Captured(Proof);

/// A plan that is, up to a state, real. Dropping it undoes nothing: [`Applied::undo`] does, or
/// [`recover`] after a crash.
#[derive(Debug)]
pub struct Applied<State> {
    pub(crate) plan: Plan,
    pub(crate) journal: Journal,
    state: State,
}

/// The hook of those who need none.
pub fn no_hook(_: StepPoint) {}

/// Makes every preparation of a plan. What fails is undone.
///
/// # Errors
/// The step that failed. If undoing failed as well, the journal is left for [`recover`].
pub fn apply(plan: Plan, mut journal: Journal, hook: Hook<'_>) -> Result<Applied<Prepared>, RouteError> {
    let steps: Vec<_> = plan.steps.iter().filter(|s| s.phase == Phase::Prepare).cloned().collect();
    let room = journal.reserve(plan.steps.iter().chain(&plan.rehearsal).map(|step| &step.change));
    match room.and_then(|()| make(&mut journal, &steps, hook)) {
        Ok(()) => Ok(Applied { plan, journal, state: Prepared(()) }),
        Err(e) => Err(give_up(journal, e, hook)),
    }
}

impl Applied<Prepared> {
    /// Rehearses the capture with a mark that no packet carries, for the plan's samples and
    /// `destinations` (addresses that our own sockets will connect to). What fails is undone.
    ///
    /// # Errors
    /// [`RouteError::NotProven`] when one of our own packets would be captured, or no sample would be.
    pub fn verify(self, destinations: &[IpAddr], hook: Hook<'_>) -> Result<Applied<Verified>, RouteError> {
        let Self { plan, mut journal, .. } = self;
        match prove::rehearse(&plan, &mut journal, destinations, hook) {
            Ok(proof) => Ok(Applied { plan, journal, state: Verified(proof) }),
            Err(e) => Err(give_up(journal, e, hook)),
        }
    }
}

impl Applied<Verified> {
    /// Makes the capture's rules and asks again, now without the rehearsal's mark. What fails is
    /// undone.
    ///
    /// # Errors
    /// The step that failed, or [`RouteError::NotProven`].
    pub fn capture(self, destinations: &[IpAddr], hook: Hook<'_>) -> Result<Applied<Captured>, RouteError> {
        let Self { plan, mut journal, .. } = self;
        let steps: Vec<_> = plan.steps.iter().filter(|s| s.phase == Phase::Capture).cloned().collect();
        let outcome = make(&mut journal, &steps, hook).and_then(|()| prove::now(&plan, destinations));
        match outcome {
            Ok(proof) => Ok(Applied { plan, journal, state: Captured(proof) }),
            Err(e) => Err(give_up(journal, e, hook)),
        }
    }

    /// What the rehearsal has shown.
    pub fn proof(&self) -> &Proof {
        &self.state.0
    }
}

impl Applied<Captured> {
    /// What was shown when the capture began.
    pub fn proof(&self) -> &Proof {
        &self.state.0
    }
}

impl<State> Applied<State> {
    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Undoes every step, the last one first, and removes the journal. A step that cannot be undone
    /// does not keep the others.
    ///
    /// # Errors
    /// The first step that could not be undone; the journal is then left for [`recover`].
    pub fn undo(self, hook: Hook<'_>) -> Result<(), RouteError> {
        undo(self.journal, hook)
    }
}

/// Writes down and makes steps.
pub(crate) fn make(journal: &mut Journal, steps: &[Step], hook: Hook<'_>) -> Result<(), RouteError> {
    for step in steps {
        let number = journal.done().len();
        hook(StepPoint::BeforeJournal(number));
        journal.record(&step.change)?;
        hook(StepPoint::BeforeChange(number));
        os::make(&step.change)?;
        hook(StepPoint::AfterChange(number));
    }
    Ok(())
}

/// Undoes what was done last until `keep` steps are left.
pub(crate) fn unmake(journal: &mut Journal, keep: usize, hook: Hook<'_>) -> Result<(), RouteError> {
    let mut outcome = Ok(());
    while journal.done().len() > keep {
        let Some(undo) = journal.done().pop() else { break };
        let number = journal.done().len();
        hook(StepPoint::BeforeUndo(number));
        if let Err(e) = os::unmake(&undo) {
            tracing::error!("{e}");
            if outcome.is_ok() {
                outcome = Err(e);
            }
        }
        hook(StepPoint::AfterUndo(number));
    }
    outcome
}

fn undo(mut journal: Journal, hook: Hook<'_>) -> Result<(), RouteError> {
    journal.spend();
    unmake(&mut journal, 0, hook)?;
    hook(StepPoint::BeforeRemoval);
    journal::remove(journal.path())
}

/// Undoes everything because of `error`.
fn give_up(journal: Journal, error: RouteError, hook: Hook<'_>) -> RouteError {
    match undo(journal, hook) {
        Ok(()) => error,
        Err(undo) => RouteError::NotUndone { because: Box::new(error), undo: Box::new(undo) },
    }
}

/// What [`recover`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// How many changes were undone because the journal names them.
    pub undone: usize,
    /// How many more were undone because they carry our tag.
    pub by_tag: usize,
    /// What the journal was.
    pub journal: JournalState,
    /// Switches that are as this program sets them, where something of it was found and no journal that would tell how they
    /// were: a switch carries no tag. They do nothing to packets without a mark.
    pub switches: Vec<&'static str>,
}

/// What a journal file was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalState {
    /// There was none, or nothing legible in it.
    None,
    /// It was applied and removed.
    Applied,
    /// It was of an earlier boot, and was removed.
    OtherBoot,
    /// It is another network namespace's, or another version's, and was left alone.
    Elsewhere,
}

/// Undoes what a killed instance left behind in the calling thread's network namespace: what its journal
/// names, then what carries our tag. Harmless when there is nothing.
///
/// # Errors
/// [`RouteError::Running`] while an instance works in this namespace; else the first change that could
/// not be undone, after trying all of them.
pub fn recover(path: &Path) -> Result<Recovered, RouteError> {
    recover_with(path, Path::new(RESOLV_CONF))
}

/// The same where another file is `resolv.conf`.
///
/// # Errors
/// As [`recover`].
pub fn recover_with(path: &Path, resolv_conf: &Path) -> Result<Recovered, RouteError> {
    let _lock = os::Lock::take()?;
    let found = journal::read(path)?;
    let mut failed = None;
    let mut undone = 0;
    if let Found::Here(list) = &found {
        for undo in list.iter().rev() {
            match os::unmake(undo) {
                Ok(done) => undone += usize::from(done),
                Err(e) => {
                    tracing::error!("{e}");
                    failed.get_or_insert(e);
                }
            }
        }
    }
    let by_tag = match os::unmake_tagged(resolv_conf) {
        Ok(count) => count,
        Err(e) => {
            failed.get_or_insert(e);
            0
        }
    };
    if let Some(e) = failed {
        return Err(e);
    }
    let journal = match found {
        Found::Nothing => JournalState::None,
        Found::OtherBoot => JournalState::OtherBoot,
        Found::Elsewhere => JournalState::Elsewhere,
        Found::Here(_) => JournalState::Applied,
    };
    if journal != JournalState::Elsewhere {
        journal::remove(path)?;
    }
    let lost = journal == JournalState::None && by_tag > 0;
    let switches = if lost { os::set_switches()? } else { Vec::new() };
    Ok(Recovered { undone, by_tag, journal, switches })
}

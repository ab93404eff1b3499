//! When connections are to be looked at again.

use std::collections::BTreeMap;
use std::rc::Rc;

use oneway_stack::tcp::Time;

use super::flow::Flow;

/// One appointment for each flow at most, at or before the moment that it is needed: a connection whose timer moves on
/// with each acknowledgment keeps its appointment, and makes the next when that has come.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeMap<(Time, u64), Rc<Flow>>);

impl Timers {
    /// Makes sure that `flow` is looked at by `at`. `known` is its appointment so far. Returns whether this is now the
    /// first of all.
    pub(super) fn set(&mut self, flow: &Rc<Flow>, known: &mut Option<Time>, at: Time) -> bool {
        if known.is_some_and(|known| known <= at) {
            return false;
        }
        self.cancel(flow, known);
        *known = Some(at);
        self.0.insert((at, flow.id), Rc::clone(flow));
        self.next() == Some(at)
    }

    /// Gives up a flow's appointment.
    pub(super) fn cancel(&mut self, flow: &Flow, known: &mut Option<Time>) {
        if let Some(at) = known.take() {
            self.0.remove(&(at, flow.id));
        }
    }

    /// The earliest appointment.
    pub(super) fn next(&self) -> Option<Time> {
        self.0.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes out a flow whose appointment has come.
    pub(super) fn due(&mut self, now: Time) -> Option<Rc<Flow>> {
        let first = self.0.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

//! The ways of a flow for which a group finds out by trying.

use std::sync::Arc;
use std::time::Duration;

use super::{Choice, Dispatch, Subject, key};
use crate::group::Group;

/// One way of several to connect a flow by.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) choice: Choice<'a>,
    /// How long it may take.
    pub(crate) patience: Duration,
    group: &'a Group,
    at: usize,
    target: u64,
}

impl Attempt<'_> {
    /// It has reached the destination.
    pub(crate) fn reached(&self) {
        self.group.reached(self.target, self.at);
    }
}

impl<'a> Choice<'a> {
    /// Whether there are [`Self::attempts`].
    pub(crate) fn is_to_be_tried(&self) -> bool {
        self.probe.is_some()
    }

    /// The ways in the order in which they are to be tried.
    pub(crate) fn attempts(&self, subject: &Subject<'_>) -> Vec<Attempt<'a>> {
        let Some(group) = self.probe else { return Vec::new() };
        let key = key(subject);
        let attempt = |(at, id)| {
            let (id, _) = self.dispatch.member(id, key, false);
            let entry = self.dispatch.by_id(id);
            let choice = Choice { id, entry, changed: !Arc::ptr_eq(entry, self.entry), ..*self };
            Attempt { choice, patience: group.patience(), group, at, target: key.target }
        };
        group.order(key.target).into_iter().map(attempt).collect()
    }

    /// Whether another way was found by trying than the one that was chosen at first.
    pub(crate) fn was_changed(&self) -> bool {
        self.changed
    }
}

impl Dispatch {
    /// Whether a flow would not go in a circle by one of its ways.
    pub(crate) async fn is_open(&self, choice: &Choice<'_>, subject: &Subject<'_>) -> bool {
        loop {
            match self.closes_circle(choice, subject) {
                Ok(closed) => return !closed,
                Err(missing) => self.find(subject, missing).await,
            }
        }
    }
}

//! The ways of a flow for which a group finds out by trying.

use std::time::Duration;

use super::{Choice, Subject, key};
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
            let choice = Choice { id, entry, ..*self };
            Attempt { choice, patience: group.patience(), group, at, target: key.target }
        };
        group.order(key.target).into_iter().map(attempt).collect()
    }

    /// Whether the flow would not go in a circle.
    pub(crate) async fn is_open(&self, subject: &Subject<'_>) -> bool {
        loop {
            match self.dispatch.closes_circle(self, subject) {
                Ok(closed) => return !closed,
                Err(missing) => self.dispatch.find(subject, missing).await,
            }
        }
    }
}

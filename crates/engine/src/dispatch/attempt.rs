//! The ways of a flow for which a group finds out by trying.

use std::time::Duration;

use super::{Choice, Subject, key};
use crate::group::Group;

/// One way of several to connect a flow by.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    pub(crate) choice: Choice<'a>,
    at: usize,
    target: u64,
}

impl Attempt<'_> {
    /// How long it may take.
    pub(crate) fn patience(&self) -> Duration {
        self.choice.probe.map_or(Duration::MAX, Group::patience)
    }

    /// It has reached the destination.
    pub(crate) fn reached(&self) {
        if let Some(group) = self.choice.probe {
            group.reached(self.target, self.at);
        }
    }
}

impl<'a> Choice<'a> {
    /// Whether there are [`Self::attempts`].
    pub(crate) fn is_to_be_tried(&self) -> bool {
        self.probe.is_some()
    }

    /// The ways in the order in which they are to be tried. Each takes its turn, where there are turns, when it is come to.
    pub(crate) fn attempts(
        self,
        subject: &Subject<'_>,
    ) -> impl ExactSizeIterator<Item = Attempt<'a>> + use<'a> {
        let key = key(subject);
        let members = self.probe.map(|group| group.order(key.target)).unwrap_or_default();
        let attempt = move |(at, id)| {
            let (id, _) = self.dispatch.member_in_turn(id, key, false, |_| true);
            let choice = Choice { id, entry: self.dispatch.by_id(id), ..self };
            Attempt { choice, at, target: key.target }
        };
        members.into_iter().map(attempt)
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

//! The turns of flows in groups whose members go round.
//!
//! A flow is looked at more than once: when something is missing that the rules ask for, when a name is found in its first bytes,
//! when there is another table. If each look were a turn, of two members one would be taken always. So looking takes none,
//! and what is dialled takes one in each group on its way.

use oneway_flow::Network;

use super::{Choice, Dispatch, Subject, key};
use crate::group::{Group, Key};

impl Dispatch {
    /// The outbound that a flow is dialled by, which has taken its turn.
    pub(crate) async fn choose_to_dial(&self, subject: &Subject<'_>) -> Choice<'_> {
        self.choose_waiting(subject).await.to_dial(subject).await
    }

    /// The same as [`Dispatch::member`], but that the flow takes its turn in the groups for which `takes` holds, which is told of
    /// the group on the way that finds out by trying.
    pub(super) fn member_in_turn(
        &self,
        mut id: u32,
        key: Key,
        udp: bool,
        takes: impl Fn(Option<&Group>) -> bool,
    ) -> (u32, Option<&Group>) {
        let mut probe = None;
        while let Some(group) = &self.by_id(id).group {
            probe = probe.or(Some(group).filter(|group| group.is_probe()));
            let works = |member| self.works(member, udp);
            let carries = |member| !udp || self.carries_udp(member);
            id = match takes(probe) {
                true => group.pick_in_turn(key, works, carries),
                false => group.pick(key, works, carries),
            };
        }
        (id, probe)
    }

    /// What this outbound leads to: what flows leave by, or a group that finds out by trying, which is given then.
    pub(super) fn to_probe(&self, mut id: u32, key: Key, takes_turns: bool) -> (u32, Option<&Group>) {
        while let Some(group) = &self.by_id(id).group {
            if group.is_probe() {
                group.is_used();
                return (id, Some(group));
            }
            let works = |member| self.works(member, false);
            id = match takes_turns {
                true => group.pick_in_turn(key, works, |_| true),
                false => group.pick(key, works, |_| true),
            };
        }
        (id, None)
    }
}

impl<'a> Choice<'a> {
    /// The same once the flow has taken its turn. Below a group that finds out by trying, [`Self::attempts`] take theirs.
    pub(crate) fn in_turn(self, subject: &Subject<'_>) -> Self {
        let udp = subject.network == Network::Udp;
        let takes = |probe: Option<&Group>| probe.is_none();
        let (id, probe) = self.dispatch.member_in_turn(self.named, key(subject), udp, takes);
        Self { id, entry: self.dispatch.by_id(id), probe, ..self }
    }

    /// What the group takes for a flow whose turn is over, by what is known now.
    pub(crate) fn taken_now(self, subject: &Subject<'_>) -> Self {
        let udp = subject.network == Network::Udp;
        let (id, probe) = self.dispatch.member(self.named, key(subject), udp);
        Self { id, entry: self.dispatch.by_id(id), probe, ..self }
    }

    /// The same for a flow that is dialled then. Others may have taken their turns since it was looked, so that it may lead
    /// elsewhere.
    pub(crate) async fn to_dial(self, subject: &Subject<'_>) -> Self {
        let taken = self.in_turn(subject);
        if taken.id == self.id || taken.is_open(subject).await { taken } else { self.dispatch.refusal() }
    }
}

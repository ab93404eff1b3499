//! Connecting a flow by what was chosen for it; where a group finds out by trying, by one member after the other.

use std::rc::Rc;
use std::sync::Arc;

use oneway_flow::FlowGuard;
use oneway_outbound::{Connected, DialError};
use tokio::time::timeout;

use super::Worker;
use crate::dispatch::{Choice, Dispatch, Entry, Subject};
use crate::dns::Destined;

impl Worker {
    /// Connects a flow and notes how that went. `choice` is then the way that it took.
    pub(super) async fn dial_by<'a>(
        self: &Rc<Self>,
        dispatch: &'a Arc<Dispatch>,
        choice: &mut Choice<'a>,
        subject: &Subject<'_>,
        destined: &Destined,
    ) -> Result<Connected, DialError> {
        // A question that is answered here says nothing about an outbound.
        let is_answered = self.shared.dns.hijacks(destined.target.addr).is_some();
        let result = if choice.is_to_be_tried() && !is_answered {
            Box::pin(self.try_members(choice, subject, destined)).await
        } else {
            match self.connect(choice, subject, destined).await {
                Err(error) if choice.group.is_some() && !is_answered => {
                    Box::pin(self.try_others(choice, subject, destined, error)).await
                }
                result => result,
            }
        };
        let result = match result {
            Ok(_) if self.is_disallowed(dispatch, choice.entry, subject) => Err(DialError::Blocked),
            result => result,
        };
        if !is_answered {
            choice.entry.observe(result.as_ref().err());
        }
        result
    }

    /// Where it is the proxy that has failed, goes on with the member that the group takes now that this is known. Each is
    /// tried once; nothing that the client has sent went by any of them.
    async fn try_others(
        self: &Rc<Self>,
        choice: &mut Choice<'_>,
        subject: &Subject<'_>,
        destined: &Destined,
        mut error: DialError,
    ) -> Result<Connected, DialError> {
        let mut tried = vec![choice.id];
        while error.proxy_works() == Some(false) {
            choice.entry.observe(Some(&error));
            let next = choice.taken_now(subject);
            if tried.contains(&next.id) || next.is_to_be_tried() || !next.is_open(subject).await {
                break;
            }
            let (from, to) = (&choice.entry.name, &next.entry.name);
            tracing::debug!(target = %destined.target, %from, %to, %error, "its proxy is down; the group takes another one");
            tried.push(next.id);
            *choice = next;
            match self.connect(choice, subject, destined).await {
                Ok(connected) => return Ok(connected),
                Err(failed) => error = failed,
            }
        }
        Err(error)
    }

    /// Tries the members in turn, the one that reached the destination last first. Each but the last has so much time: it
    /// may be that nobody ever answers on its way.
    ///
    /// Connected is all that is found out. What the client sends afterwards could be sent again by another way only if it
    /// were kept, and if nobody had acted on it yet.
    async fn try_members(
        self: &Rc<Self>,
        choice: &mut Choice<'_>,
        subject: &Subject<'_>,
        destined: &Destined,
    ) -> Result<Connected, DialError> {
        let mut failed = DialError::Blocked;
        for attempt in choice.attempts(subject) {
            let by = choice.by(&attempt);
            if !by.is_open(subject).await {
                continue;
            }
            *choice = by;
            let connect = self.connect(choice, subject, destined);
            let result = match attempt.is_last {
                true => connect.await,
                false => match timeout(attempt.patience(), connect).await {
                    Ok(result) => result,
                    Err(_) => continue,
                },
            };
            match result {
                Ok(connected) => {
                    attempt.reached();
                    return Ok(connected);
                }
                Err(error) => {
                    let outbound = &choice.entry.name;
                    tracing::debug!(target = %destined.target, %outbound, %error, "tried in vain");
                    if !attempt.is_last {
                        choice.entry.observe(Some(&error));
                    }
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    /// The flow, entered anew if it went another way than was thought at `first`.
    pub(super) fn as_it_went(&self, flow: FlowGuard, first: &Arc<Entry>, choice: &Choice<'_>) -> FlowGuard {
        if Arc::ptr_eq(first, choice.entry) {
            return flow;
        }
        let (rule, outbound) = (choice.rule(), Arc::clone(&choice.entry.name));
        self.shared.flows.enter(flow.arrival, flow.target.clone(), rule, outbound)
    }
}

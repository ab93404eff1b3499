//! Whether a server answers, told when that changes.

use std::fmt;
use std::time::Duration;

use oneway_egress::lacking_descriptors;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::exchange::ExchangeError;

/// A server that answers every other time would fill the log.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// What the last question said about a server.
#[derive(Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Default)]
struct State {
    /// Why it does not answer, if so.
    failing: Option<String>,
    /// When that was last said, and whether it still stands in the log.
    said: Option<Instant>,
    said_failing: bool,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
enum Say {
    Nothing,
    Fails,
    AnswersAgain,
}

impl Health {
    /// Notes how a question went: `None` is an answer.
    pub(super) fn observe(&self, server: &dyn fmt::Display, error: Option<&ExchangeError>) {
        // A want of descriptors is ours, and said by others.
        if error.is_some_and(|error| lacking_descriptors(error).is_some()) {
            return;
        }
        let say = self.0.lock().note(error.map(ToString::to_string), Instant::now());
        match (say, error) {
            (Say::Fails, Some(error)) => tracing::warn!(%server, %error, "a DNS upstream does not answer"),
            (Say::AnswersAgain, _) => tracing::info!(%server, "a DNS upstream answers again"),
            _ => {}
        }
    }

    /// Why it does not answer, if so.
    pub(super) fn failing(&self) -> Option<String> {
        self.0.lock().failing.clone()
    }
}

impl State {
    fn note(&mut self, error: Option<String>, now: Instant) -> Say {
        let was_failing = std::mem::replace(&mut self.failing, error).is_some();
        match (was_failing, self.failing.is_some()) {
            (false, true) if self.said.is_none_or(|said| now - said >= SAY_AGAIN) => {
                self.said = Some(now);
                self.said_failing = true;
                Say::Fails
            }
            (true, false) if std::mem::take(&mut self.said_failing) => Say::AnswersAgain,
            _ => Say::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_said_and_no_more_often_than_every_minute() {
        let start = Instant::now();
        let mut state = State::default();
        let mut at = |second, fails: bool| {
            state.note(fails.then(|| "why".to_owned()), start + Duration::from_secs(second))
        };
        for (second, fails, say) in [
            (0, false, Say::Nothing),
            (1, true, Say::Fails),
            (2, true, Say::Nothing),
            (3, false, Say::AnswersAgain),
            (4, true, Say::Nothing),
            (5, false, Say::Nothing),
            (60, true, Say::Nothing),
            (100, true, Say::Nothing),
            (101, false, Say::Nothing),
            (102, true, Say::Fails),
            (103, false, Say::AnswersAgain),
        ] {
            assert_eq!(at(second, fails), say, "{second}");
        }
    }
}

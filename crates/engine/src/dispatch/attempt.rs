//! The ways of a flow for which a group finds out by trying.

use std::time::Duration;

use super::{Choice, Dispatch, Subject, key};
use crate::group::{Group, Key};

/// One way of several to connect a flow by.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    /// The number of the outbound.
    pub(crate) id: u32,
    /// There is no other way after it.
    pub(crate) is_last: bool,
    tried: Vec<Tried<'a>>,
    target: u64,
}

/// A group that finds out by trying, and the place of the member that it tries.
#[derive(Clone, Copy, Debug)]
struct Tried<'a> {
    group: &'a Group,
    at: usize,
}

impl Attempt<'_> {
    /// How long it may take.
    pub(crate) fn patience(&self) -> Duration {
        self.tried.last().map_or(Duration::MAX, |tried| tried.group.patience())
    }

    /// It has reached the destination.
    pub(crate) fn reached(&self) {
        for Tried { group, at } in &self.tried {
            group.reached(self.target, *at);
        }
    }
}

/// The ways in the order in which they are to be tried. Each is chosen when it is come to. Where one
/// leads to another group that finds out by trying, all of that one's members come before the next way.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    dispatch: &'a Dispatch,
    key: Key,
    /// They are a flow's, which takes its turn where there are turns.
    takes_turns: bool,
    /// The numbers of outbounds that are yet to be tried, the next one last, and for whom. None comes to nothing.
    ahead: Vec<(u32, Vec<Tried<'a>>)>,
}

impl<'a> Attempts<'a> {
    /// Puts a group's members in front.
    fn insert(&mut self, group: &'a Group, tried: &[Tried<'a>]) {
        let members = group.order(self.key.target).into_iter().rev();
        self.ahead.extend(members.map(|(at, id)| (id, [tried, &[Tried { group, at }]].concat())));
    }
}

impl<'a> Iterator for Attempts<'a> {
    type Item = Attempt<'a>;

    fn next(&mut self) -> Option<Attempt<'a>> {
        loop {
            let (id, tried) = self.ahead.pop()?;
            match self.dispatch.to_probe(id, self.key, self.takes_turns) {
                (_, Some(group)) => self.insert(group, &tried),
                (id, None) => {
                    let is_last = self.ahead.is_empty();
                    return Some(Attempt { id, is_last, tried, target: self.key.target });
                }
            }
        }
    }
}

impl Dispatch {
    /// The ways to a target by the outbound of this number, for nobody's flow: one, unless it leads to a group that finds out by
    /// trying.
    pub(crate) fn ways(&self, id: u32, key: Key) -> Attempts<'_> {
        Attempts { dispatch: self, key, takes_turns: false, ahead: vec![(id, Vec::new())] }
    }
}

impl<'a> Choice<'a> {
    /// Whether there are [`Self::attempts`].
    pub(crate) fn is_to_be_tried(&self) -> bool {
        self.probe.is_some()
    }

    /// The ways of a flow for which this was chosen.
    pub(crate) fn attempts(self, subject: &Subject<'_>) -> Attempts<'a> {
        let (dispatch, key) = (self.dispatch, key(subject));
        let mut attempts = Attempts { dispatch, key, takes_turns: true, ahead: Vec::new() };
        if let Some(group) = self.probe {
            attempts.insert(group, &[]);
        }
        attempts
    }

    /// The same by one of them.
    pub(crate) fn by(self, attempt: &Attempt<'_>) -> Self {
        Self { id: attempt.id, entry: self.dispatch.by_id(attempt.id), ..self }
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;

    use oneway_flow::{Inbound, Network, Target};

    use super::*;
    use crate::assemble;
    use crate::config::{Config, Options};

    /// The groups of this text, and proxies `a` to `d`.
    fn dispatch(groups: &str) -> Dispatch {
        let proxies: String = ["a", "b", "c", "d"]
            .map(|name| format!("[outbound.{name}]\ntype = \"socks5\"\nserver = \"192.0.2.1:1080\"\n"))
            .concat();
        let text = format!("[rules]\nlist = [\"MATCH,all\"]\n{proxies}{groups}");
        let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let loaded = Config::from_toml(Path::new("oneway.toml"), &text, Options::default(), &read).unwrap();
        assemble::dispatch(&loaded.config, &assemble::system_resolver()).unwrap().0
    }

    /// What is done with each way in turn, and which they are.
    fn tried(dispatch: &Dispatch, each: impl Fn(&Attempt<'_>)) -> String {
        let target = Target::from_addr(SocketAddr::from(([198, 51, 100, 1], 80)));
        let source = SocketAddr::from(([192, 0, 2, 9], 5));
        let (network, inbound) = (Network::Tcp, Inbound::Tun);
        let subject = Subject { network, source, inbound, target: &target, is_fake: false, dscp: 0 };
        let choice = dispatch.choose(&subject).unwrap();
        assert!(choice.is_to_be_tried());
        let attempts: Vec<_> = choice.attempts(&subject).inspect(each).collect();
        assert!(
            attempts.split_last().is_some_and(|(last, others)| {
                last.is_last && others.iter().all(|attempt| !attempt.is_last)
            })
        );
        attempts.iter().map(|attempt| &*dispatch.by_id(attempt.id).name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn members_of_members_are_tried_as_well() {
        let dispatch = dispatch(
            "[outbound.all]\ntype = \"probe\"\nmembers = [\"inner\", \"d\"]\ntimeout = \"3s\"\n\
             [outbound.inner]\ntype = \"probe\"\nmembers = [\"a\", \"taken\"]\ntimeout = \"1s\"\n\
             [outbound.taken]\ntype = \"select\"\nmembers = [\"innermost\", \"a\"]\n\
             [outbound.innermost]\ntype = \"probe\"\nmembers = [\"b\", \"c\"]\ntimeout = \"2s\"\n",
        );
        let patience = std::cell::RefCell::new(Vec::new());
        let note = |attempt: &Attempt<'_>| patience.borrow_mut().push(attempt.patience().as_secs());
        assert_eq!(tried(&dispatch, note), "a b c d");
        assert_eq!(*patience.borrow(), [1, 2, 2, 3]);
        // Each group remembers what has led there.
        tried(&dispatch, |attempt| {
            if &*dispatch.by_id(attempt.id).name == "c" {
                attempt.reached();
            }
        });
        assert_eq!(tried(&dispatch, |_| {}), "c b a d");
    }
}

//! What another configuration asks of the host, while everything is captured.

use std::net::IpAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ipnet::IpNet;
use oneway_route::{Applied, Captured, Protect, Request, Snapshot, no_hook, plan_again};
use parking_lot::Mutex;

use super::{Host, Watcher};
use crate::assemble;
use crate::config::{CgroupPath, Config};
use crate::error::EngineError;
use crate::exclude;

/// What is to be captured, and what our own sockets are about to connect to.
#[derive(Debug)]
pub(in crate::lifecycle) struct Wanted {
    pub(in crate::lifecycle) include: Vec<IpNet>,
    pub(in crate::lifecycle) exclude: Vec<IpNet>,
    pub(in crate::lifecycle) exclude_uids: Vec<u32>,
    pub(in crate::lifecycle) groups: Vec<CgroupPath>,
    pub(in crate::lifecycle) dns_servers: Vec<IpAddr>,
    /// Those of `dns_servers`, and the proxies.
    pub(in crate::lifecycle) servers: Vec<IpAddr>,
}

/// A wish, and where the answer goes.
pub(super) type Wish = (Wanted, Sender<Result<(), EngineError>>);

/// The wish that the watch has not seen yet.
pub(super) type Wishes = Arc<Mutex<Option<Wish>>>;

/// A wish that was made.
#[derive(Debug)]
pub(in crate::lifecycle) struct Asked {
    /// With whoever grants it, what nobody has begun with is gone, too.
    wishes: Weak<Mutex<Option<Wish>>>,
    answered: Receiver<Result<(), EngineError>>,
}

impl Asked {
    pub(super) fn of(wanted: Wanted, wishes: &Wishes) -> Self {
        let (answer, answered) = channel();
        *wishes.lock() = Some((wanted, answer));
        Self { wishes: Arc::downgrade(wishes), answered }
    }

    /// Waits until it is granted or refused. One that nobody has begun with in time is taken back, so that it is not granted after
    /// its caller was told that nothing is changed; one that is being granted is waited for.
    pub(in crate::lifecycle) fn wait(self, patience: Duration) -> Result<(), EngineError> {
        let stopped = EngineError::Reload("oneway is being stopped");
        match self.answered.recv_timeout(patience) {
            Ok(granted) => return granted,
            Err(RecvTimeoutError::Disconnected) => return Err(stopped),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if self.wishes.upgrade().is_some_and(|wishes| wishes.lock().take().is_some()) {
            return Err(EngineError::Reload("this host takes too long to change"));
        }
        self.answered.recv().unwrap_or(Err(stopped))
    }
}

impl Wanted {
    /// What a configuration asks for.
    pub(in crate::lifecycle) fn of(config: &Config, dns_servers: Vec<IpAddr>, servers: Vec<IpAddr>) -> Self {
        let route = assemble::request(config, Protect::Mark);
        Self {
            include: route.include,
            exclude: route.exclude,
            exclude_uids: route.exclude_uids,
            groups: config.capture.exclude_cgroup.clone(),
            dns_servers,
            servers,
        }
    }

    fn differs_from(&self, request: &Request, groups: &[CgroupPath]) -> bool {
        self.include != request.include
            || self.exclude != request.exclude
            || self.exclude_uids != request.exclude_uids
            || self.groups != groups
    }
}

impl Watcher {
    /// Grants what was asked for, or says why not.
    pub(super) fn grant(&mut self) {
        let Some((wanted, answer)) = self.wishes.lock().take() else { return };
        let shared_host = Arc::clone(&self.host);
        let granted = match &mut *shared_host.lock() {
            Some(Host::Ours(applied)) => self.plan_for(applied, wanted),
            Some(Host::Theirs) if wanted.differs_from(&self.request, &self.groups) => {
                Err(EngineError::Restart {
                    settings: "with a device that was handed over, what is captured".to_owned(),
                })
            }
            Some(Host::Theirs) => {
                self.dns_servers = wanted.dns_servers;
                Ok(())
            }
            // It is being stopped.
            None => return,
        };
        // Who asked has lost patience.
        let _ = answer.send(granted);
    }

    /// Makes the plan one for what is wanted. What fails is put back by the next look at the host.
    fn plan_for(&mut self, applied: &mut Applied<Captured>, wanted: Wanted) -> Result<(), EngineError> {
        let mut request = self.request.clone();
        let is_host_route = request.protect.is_host_route();
        let new = |server: &IpAddr| is_host_route && !request.servers.contains(server);
        let servers: Vec<IpAddr> = wanted.servers.iter().copied().filter(new).collect();
        if servers.is_empty() && !wanted.differs_from(&self.request, &self.groups) {
            self.dns_servers = wanted.dns_servers;
            return Ok(());
        }
        request.servers.extend(servers);
        request.servers.sort();
        if wanted.groups != self.groups {
            request.exclude_cgroups = exclude::groups(&wanted.groups, self.nft)?;
        }
        request.include = wanted.include;
        request.exclude = wanted.exclude;
        request.exclude_uids = wanted.exclude_uids;
        let host = Snapshot::take_again(self.nft)?;
        let plan = plan_again(&request, applied.plan(), &host)?;
        self.close_sources(&applied.changed_sources(&plan));
        let done = applied.change_to(plan, &mut no_hook)?;
        self.protect_as(applied.plan());
        self.exclusions.set_groups(request.exclude_cgroups.clone());
        self.request = request;
        self.groups = wanted.groups;
        self.dns_servers = wanted.dns_servers;
        if !done.is_empty() {
            tracing::info!(changes = ?done, "changed for another configuration");
            self.watched.moved();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn wanted() -> Wanted {
        Wanted::of(&Config::default(), Vec::new(), Vec::new())
    }

    #[test]
    fn what_takes_too_long_is_not_granted_later() {
        let wishes = Wishes::default();
        let error = Asked::of(wanted(), &wishes).wait(Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("takes too long"), "{error}");
        assert!(wishes.lock().is_none());
    }

    #[test]
    fn what_is_being_granted_is_waited_for() {
        let wishes = Wishes::default();
        let asked = Asked::of(wanted(), &wishes);
        let (_, answer) = wishes.lock().take().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| asked.wait(Duration::ZERO));
            answer.send(Ok(())).unwrap();
            waiting.join().unwrap().unwrap();
        });
        let asked = Asked::of(wanted(), &wishes);
        drop(wishes);
        assert!(asked.wait(Duration::ZERO).unwrap_err().to_string().contains("being stopped"));
    }
}

//! Which members of a group work, and how fast: a document is asked for through each.
//!
//! There is a round at the start and one in each interval in which the group was used. While a member is known not to
//! work there are more of them, at first every few seconds, so that it is taken again soon after it is back.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use oneway_flow::Target;
use oneway_outbound::{Connected, DialError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Group, Key};
use crate::config::{CheckSpec, GroupKind};
use crate::dispatch::{Dispatch, Entry};
use crate::worker::Shared;

/// Members that are checked at once.
const AT_ONCE: usize = 8;

/// How often it is looked whether a check is due.
const TICK: Duration = Duration::from_millis(500);

/// The time to the first repetition while a member does not work; it doubles with each that finds no change.
const SOON: Duration = Duration::from_secs(2);

/// Bytes of an answer's head that are read.
const MOST: usize = 8 * 1024;

/// Why a member does not work.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("it broke off: {0}")]
    Io(#[from] std::io::Error),
    #[error("no answer in {0:?}")]
    Silent(Duration),
    #[error("the answer is no HTTP: {0}")]
    NoHttp(#[from] httparse::Error),
    #[error("the answer's head has no end")]
    Cut,
    #[error("the answer has the status {0}")]
    Status(u16),
}

/// Checks the members of all groups, by `tasks`. On one worker is enough.
pub(crate) fn keep(shared: &Arc<Shared>, dispatch: &Arc<Dispatch>, tasks: &mut JoinSet<()>) {
    for entry in dispatch.entries() {
        if entry.group.as_ref().is_some_and(Group::is_checked) {
            tasks.spawn_local(keep_one(Arc::clone(shared), Arc::clone(dispatch), Arc::clone(entry)));
        }
    }
}

impl Group {
    fn is_checked(&self) -> bool {
        !matches!(self.kind, GroupKind::Select | GroupKind::Probe)
    }
}

async fn keep_one(shared: Arc<Shared>, dispatch: Arc<Dispatch>, entry: Arc<Entry>) {
    let Some(group) = &entry.group else { return };
    let mut due = Due::new(group.check.interval);
    loop {
        let used = group.used.swap(false, std::sync::atomic::Ordering::Relaxed);
        let broken =
            (0..group.members.len()).any(|at| !group.passed(at) || !dispatch.works(group.id(at), false));
        if due.now(Instant::now(), used, broken) {
            round(&shared, &dispatch, &entry, group).await;
        }
        sleep(TICK).await;
    }
}

/// When the next round is due.
#[derive(Debug)]
struct Due {
    interval: Duration,
    last: Option<Instant>,
    used: bool,
    soon: Duration,
}

impl Due {
    fn new(interval: Duration) -> Self {
        Self { interval, last: None, used: false, soon: SOON }
    }

    /// `used`: whether the group was, since this was last asked. `broken`: whether a member is known not to work.
    fn now(&mut self, now: Instant, used: bool, broken: bool) -> bool {
        self.used |= used;
        if !broken {
            self.soon = SOON;
        }
        let wait = if broken { self.soon.min(self.interval) } else { self.interval };
        let due = self.last.is_none_or(|last| self.used && now.saturating_duration_since(last) >= wait);
        if due {
            if broken && self.last.is_some() {
                self.soon = (self.soon * 2).min(self.interval);
            }
            self.last = Some(now);
            self.used = false;
        }
        due
    }
}

/// Checks every member once.
async fn round(shared: &Arc<Shared>, dispatch: &Arc<Dispatch>, entry: &Entry, group: &Group) {
    let mut running = JoinSet::new();
    let mut waiting = 0..group.members.len();
    loop {
        while running.len() < AT_ONCE
            && let Some(at) = waiting.next()
        {
            let (shared, dispatch) = (Arc::clone(shared), Arc::clone(dispatch));
            let (id, check) = (group.id(at), group.check.clone());
            running.spawn_local(async move {
                let begin = Instant::now();
                let result = measure(&shared, &dispatch, id, &check).await;
                (at, result.map(|()| begin.elapsed()))
            });
        }
        let Some(done) = running.join_next().await else { break };
        let Ok((at, result)) = done else { continue };
        let member = dispatch.by_id(group.id(at));
        let was = group.passed(at);
        match &result {
            Ok(_) => member.observe(None),
            Err(Failed::Dial(error)) => member.observe(Some(error)),
            Err(_) => {}
        }
        if let Err(error) = &result
            && was
        {
            tracing::info!(group = %entry.name, member = %member.name, %error, "a check failed");
        } else if result.is_ok() && !was {
            tracing::info!(group = %entry.name, member = %member.name, "it works again");
        }
        group.note(at, result.ok());
    }
    group.choose_fastest();
}

/// Asks for the document through one outbound.
async fn measure(
    shared: &Arc<Shared>,
    dispatch: &Dispatch,
    id: u32,
    check: &CheckSpec,
) -> Result<(), Failed> {
    let asked = async {
        let Connected { mut stream, early } = connect(shared, dispatch, id, check).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: oneway\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            check.url.path,
            check.url.authority()
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = early;
        loop {
            if let Some(status) = status(&answer)? {
                return if (200..400).contains(&status) { Ok(()) } else { Err(Failed::Status(status)) };
            }
            if answer.len() >= MOST || stream.read_buf(&mut answer).await? == 0 {
                return Err(Failed::Cut);
            }
        }
    };
    timeout(check.timeout, asked).await.unwrap_or(Err(Failed::Silent(check.timeout)))
}

/// Connects as a flow would. Below a group that finds out by trying, each way but the last has half of the time that is left.
async fn connect(
    shared: &Arc<Shared>,
    dispatch: &Dispatch,
    id: u32,
    check: &CheckSpec,
) -> Result<Connected, DialError> {
    let until = tokio::time::Instant::now() + check.timeout;
    let host: Arc<str> = check.url.host.as_str().into();
    let port = check.url.port.get();
    let (key, target) = match check.url.ip() {
        Some(ip) => (Key::to_address(ip, None), Target::from_addr(SocketAddr::new(ip, port))),
        None => {
            let key = Key::to_host(&host, None);
            (key, Target { addr: (Ipv4Addr::UNSPECIFIED, port).into(), host: Some(host) })
        }
    };
    let mut failed = DialError::Blocked;
    for way in dispatch.ways(id, key) {
        let entry = dispatch.by_id(way.id);
        let connect = async {
            if entry.is_direct() && target.host.is_some() {
                return shared.dns.connect(&shared.egress, &target).await;
            }
            entry.outbound.connect(&shared.egress, &target).await
        };
        let result = match way.is_last {
            true => connect.await,
            false => {
                let half = (until - tokio::time::Instant::now()) / 2;
                match timeout(way.patience().min(half), connect).await {
                    Ok(result) => result,
                    Err(_) => continue,
                }
            }
        };
        match result {
            Ok(connected) => {
                way.reached();
                return Ok(connected);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// The status of an answer, once its head is complete.
fn status(answer: &[u8]) -> Result<Option<u16>, httparse::Error> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(answer) {
        Ok(httparse::Status::Complete(_)) => Ok(response.code),
        Ok(httparse::Status::Partial) => Ok(None),
        // However many headers it has: the status was read before them.
        Err(httparse::Error::TooManyHeaders) => Ok(response.code),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_when_they_are_of_use() {
        let minute = Duration::from_secs(60);
        let begin = Instant::now();
        let mut due = Due::new(minute);
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(due.now(at(0), false, false), "at the start");
        assert!(!due.now(at(30), true, false));
        assert!(due.now(at(60), false, false), "it was used");
        assert!(!due.now(at(3600), false, false), "nobody uses it");
        assert!(due.now(at(3601), true, false), "somebody does again");
        // A member fails: soon, then less and less often, and never more seldom than otherwise.
        let mut rounds = Vec::new();
        for second in 3602..3900 {
            if due.now(at(second), true, true) {
                rounds.push(second - 3601);
            }
        }
        assert_eq!(rounds, [2, 6, 14, 30, 62, 122, 182, 242], "{rounds:?}");
        assert!(!due.now(at(3901), true, false));
        assert!(due.now(at(3603 + 300), true, true), "the next failure is looked at soon again");
    }

    #[test]
    fn an_answer_is_its_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap(), Some(204));
        assert_eq!(status(b"HTTP/1.1 204 No Con").unwrap(), None);
        assert_eq!(status(b"").unwrap(), None);
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(100));
        assert_eq!(status(many.as_bytes()).unwrap(), Some(200));
        for rubbish in [&b"SSH-2.0-x\r\n"[..], b"\0\0\0\0", b"HTTP/9.9 9\r\n\r\n"] {
            assert!(status(rubbish).is_err(), "{rubbish:?}");
        }
    }
}

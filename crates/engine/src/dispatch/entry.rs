//! An outbound, and how well it does.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use oneway_outbound::{DialError, Outbound};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::datagrams::Datagrams;
use crate::group::Group;
use crate::watched::OncePerMinute;

/// An outbound and its name.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Unlike its number in a table, the same for as long as it lives, and no other's ever.
    pub(crate) serial: u32,
    pub(crate) name: Arc<str>,
    /// Its type, as in the configuration.
    pub(crate) kind: &'static str,
    /// The proxy server as `host:port`, if it has one.
    pub(crate) server: Option<String>,
    pub(crate) outbound: Outbound,
    /// If it chooses among others. It makes no connections itself then.
    pub(crate) group: Option<Group>,
    /// What [`Self::observe`] last found, for every choice of a group.
    pub(super) is_down: AtomicBool,
    health: Mutex<Health>,
    /// What [`Self::observe_udp`] last found.
    datagrams: Datagrams,
    /// When it was last said that it carries none.
    udp_said: Mutex<OncePerMinute>,
    /// When it was last said that there are not enough descriptors.
    short: Mutex<OncePerMinute>,
    /// The proxy has failed: its name may have another address by now.
    pub(crate) down: Notify,
}

/// What the last attempts said about an outbound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// None until it was tried.
    pub(crate) up: Option<bool>,
    pub(crate) last_error: Option<String>,
    pub(crate) since: Option<Instant>,
    /// When it was last said to be down, and whether that still stands in the log.
    said: Option<Instant>,
    said_down: bool,
}

/// A proxy that fails every other time would fill the log.
const SAY_AGAIN: Duration = Duration::from_secs(60);

impl Entry {
    pub(crate) fn new(name: &str, kind: &'static str, server: Option<String>, outbound: Outbound) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            serial: NEXT.fetch_add(1, Relaxed),
            name: name.into(),
            kind,
            server,
            outbound,
            group: None,
            is_down: AtomicBool::new(false),
            health: Mutex::default(),
            datagrams: Datagrams::default(),
            udp_said: Mutex::default(),
            short: Mutex::default(),
            down: Notify::new(),
        }
    }

    pub(crate) fn group(name: &str, kind: &'static str, group: Group) -> Self {
        Self { group: Some(group), ..Self::new(name, kind, None, Outbound::Block) }
    }

    /// Whether it was made of the same words. A group is never like another one: its members may have other numbers.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let proxy = |entry: &Self| entry.outbound.proxy().map(|proxy| proxy.config().clone());
        self.name == other.name
            && self.kind == other.kind
            && self.group.is_none()
            && other.group.is_none()
            && proxy(self) == proxy(other)
    }

    /// Whether packets leave as they are, without a proxy.
    pub(crate) fn is_direct(&self) -> bool {
        matches!(self.outbound, Outbound::Direct)
    }

    /// Notes how an attempt to connect went: `None` is success. A destination's failure says nothing about the outbound.
    pub(crate) fn observe(&self, error: Option<&DialError>) {
        let up = match error {
            None => true,
            Some(error) if error.lacks_descriptors() => return self.is_short(error),
            Some(error) => match error.proxy_works() {
                Some(works) => works,
                None => return,
            },
        };
        self.is_down.store(!up, Relaxed);
        let mut health = self.health.lock();
        if health.up != Some(up) {
            match error.filter(|_| !up) {
                Some(error) if health.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) => {
                    tracing::warn!(outbound = %self.name, %error, "outbound is down");
                    health.said = Some(Instant::now());
                    health.said_down = true;
                }
                None if health.said_down => {
                    tracing::info!(outbound = %self.name, "outbound is up again");
                    health.said_down = false;
                }
                _ => {}
            }
            if health.up == Some(false) {
                // Datagrams may have failed for the same reason.
                self.datagrams.forget();
            }
            health.since = Some(Instant::now());
            health.up = Some(up);
        }
        if !up {
            self.down.notify_one();
            health.last_error = error.map(ToString::to_string);
        }
    }

    /// Notes how opening a way for datagrams went. That says nothing about connections: a proxy may carry those alone, and
    /// with some nothing is exchanged before there is a datagram.
    pub(crate) fn observe_udp(&self, error: Option<&DialError>) {
        let Some(error) = error else { return self.datagrams.forget() };
        if error.lacks_descriptors() {
            return self.is_short(error);
        }
        let is_about_proxy = match error {
            // There is no destination that could be silent.
            DialError::Udp(_) | DialError::HandshakeTimeout { .. } => self.outbound.proxy().is_some(),
            error => error.proxy_works().is_some(),
        };
        if !is_about_proxy {
            return;
        }
        self.fails_for_udp(error);
    }

    /// Notes that a way for datagrams is lost, and that there is no other one yet.
    pub(crate) fn lost_udp(&self, error: &io::Error) {
        // One client's loss is no reason to keep others from trying, again and again.
        if !self.datagrams.is_shunned(Instant::now) {
            self.fails_for_udp(error);
        }
    }

    fn fails_for_udp(&self, error: &dyn fmt::Display) {
        let now = Instant::now();
        if self.datagrams.fail(now) && self.udp_said.lock().may(now) {
            tracing::warn!(outbound = %self.name, %error, "outbound carries no datagrams");
        }
        self.down.notify_one();
    }

    /// Whether datagrams leave by it, as far as is known.
    pub(super) fn works_for_udp(&self) -> bool {
        self.outbound.carries_udp() && !self.datagrams.is_shunned(Instant::now)
    }

    /// Whether a way for datagrams has failed just now, so that none is to be opened yet.
    pub(crate) fn rests_from_udp(&self) -> bool {
        self.datagrams.rests(Instant::now)
    }

    /// The lack is ours, and no reason to go by another outbound: that would lack the same.
    fn is_short(&self, error: &DialError) {
        if self.short.lock().may(Instant::now()) {
            tracing::warn!(outbound = %self.name, %error, "no more files may be open; raise the limit (ulimit -n, LimitNOFILE=)");
        }
    }

    /// What the last attempts said.
    pub(crate) fn health(&self) -> Health {
        self.health.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use oneway_egress::EgressError;
    use oneway_outbound::{Answer, OutboundConfig, ProxyFault, SystemResolver, Timeouts};

    use super::*;

    /// What the log says.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_lack_of_descriptors_is_said_once_and_blamed_on_nobody() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let down = |number| DialError::ProxyDown {
            proxy: "p".into(),
            addr: "192.0.2.1:1080".parse().unwrap(),
            source: EgressError::Create { what: "TCP/IPv4", source: io::Error::from_raw_os_error(number) },
        };
        tracing::subscriber::with_default(subscriber, || {
            let entry = Entry::new("far", "socks5", None, Outbound::Block);
            entry.observe(None);
            let unresolved = |number| DialError::Resolve {
                proxy: "p".into(),
                source: io::Error::from_raw_os_error(number),
            };
            for _ in 0..100 {
                for error in [down(24), down(23), unresolved(24), unresolved(23)] {
                    entry.observe(Some(&error));
                }
                assert_eq!(entry.health().up, Some(true));
            }
            entry.observe(Some(&down(13)));
            assert_eq!(entry.health().up, Some(false), "another error of the same step");
            entry.observe(None);
            entry.observe(Some(&unresolved(13)));
            assert_eq!(entry.health().up, Some(false), "another error of the look-up");
        });
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        assert_eq!(text.matches("no more files may be open").count(), 1, "{text}");
    }

    #[test]
    fn only_what_is_about_the_proxy_changes_its_health() {
        let proxy = || Arc::<str>::from("p");
        let addr = "192.0.2.1:1080".parse().unwrap();
        let after = Duration::from_secs(1);
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        let egress = || EgressError::Connect(io::ErrorKind::ConnectionRefused.into());
        let timeout = |requested| DialError::HandshakeTimeout { proxy: proxy(), after, requested };
        let fault = |fault| DialError::Proxy { proxy: proxy(), fault };
        let refused = ProxyFault::Refused { code: 5, meaning: "refused", answer: Answer::Rst };
        let garbage = ProxyFault::Garbage { protocol: "SOCKS5", what: "nothing".to_owned() };
        let all = [
            (DialError::Resolve { proxy: proxy(), source: broken() }, Some(false)),
            (DialError::ProxyDown { proxy: proxy(), addr, source: egress() }, Some(false)),
            (DialError::ProxySilent { proxy: proxy(), after }, Some(false)),
            (DialError::Tls { proxy: proxy(), source: broken() }, Some(false)),
            (DialError::ProxyBroke { proxy: proxy(), source: broken() }, Some(false)),
            (timeout(false), Some(false)),
            (fault(garbage), Some(false)),
            (fault(ProxyFault::Auth("no")), Some(false)),
            (fault(refused), Some(true)),
            (timeout(true), None),
            (fault(ProxyFault::Unspeakable("no")), None),
            (fault(ProxyFault::NoIpv6), None),
            (DialError::Blocked, None),
            (DialError::Direct { dst: addr, source: egress() }, None),
            (DialError::Name { host: proxy(), source: broken() }, None),
            (DialError::Udp(egress()), None),
            (DialError::Tunnel { proxy: proxy(), source: egress() }, None),
            (DialError::Unsupported { proxy: proxy(), what: "UDP", answer: Answer::IcmpPort }, None),
        ];
        for (error, says) in &all {
            let entry = Entry::new("far", "trojan", None, Outbound::Block);
            entry.observe(Some(error));
            assert_eq!(entry.health().up, *says, "{error}: of one that was never tried");
            for was in [Some(&all[0].0), None] {
                entry.observe(was);
                entry.observe(Some(error));
                let up = says.unwrap_or(was.is_none());
                assert_eq!(entry.health().up, Some(up), "{error}: after {was:?}");
                assert_eq!(entry.is_down.load(Relaxed), !up, "{error}: after {was:?}");
            }
        }
    }

    #[test]
    fn datagrams_and_connections_say_nothing_of_each_other() {
        let config = OutboundConfig::Proxy("socks5://192.0.2.1:1080".parse().unwrap());
        let outbound = Outbound::new(&config, Timeouts::default(), Arc::new(SystemResolver));
        let entry = Entry::new("far", "socks5", None, outbound);
        let proxy = || Arc::<str>::from("p");
        let broke = || DialError::ProxyBroke { proxy: proxy(), source: io::ErrorKind::UnexpectedEof.into() };
        let unreachable = || EgressError::Connect(io::ErrorKind::NetworkUnreachable.into());
        let refused = ProxyFault::Refused { code: 7, meaning: "no such command", answer: Answer::Rst };
        let silent =
            DialError::HandshakeTimeout { proxy: proxy(), after: Duration::from_secs(30), requested: true };
        for error in [
            broke(),
            silent,
            DialError::Udp(unreachable()),
            DialError::Proxy { proxy: proxy(), fault: refused },
        ] {
            assert!(entry.works_for_udp(), "{error}");
            entry.observe_udp(Some(&error));
            assert!(!entry.works_for_udp() && entry.rests_from_udp(), "{error}");
            assert!(!entry.is_down.load(Relaxed) && entry.health().up.is_none(), "{error}");
            entry.observe_udp(None);
        }
        entry.observe_udp(Some(&broke()));
        entry.observe(None);
        assert!(!entry.works_for_udp(), "that it connects is no news");
        entry.observe(Some(&broke()));
        entry.observe_udp(None);
        assert_eq!(entry.health().up, Some(false), "nothing may have been exchanged");
        entry.observe_udp(Some(&broke()));
        entry.observe(None);
        assert!(entry.works_for_udp(), "the proxy was gone, and is back");
        for error in [
            DialError::Blocked,
            DialError::Unsupported { proxy: proxy(), what: "UDP", answer: Answer::IcmpPort },
            DialError::Udp(EgressError::Create {
                what: "UDP/IPv4",
                source: io::Error::from_raw_os_error(24),
            }),
        ] {
            entry.observe_udp(Some(&error));
            assert!(entry.works_for_udp() && !entry.rests_from_udp(), "{error}");
        }
        let direct = Entry::new("direct", "direct", None, Outbound::Direct);
        direct.observe_udp(Some(&DialError::Udp(unreachable())));
        assert!(!direct.rests_from_udp(), "it has no proxy that could be spared");
    }

    #[test]
    fn an_outbound_that_fails_every_other_time_does_not_fill_the_log() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let entry = Entry::new("far", "socks5", None, Outbound::Block);
            let error =
                DialError::ProxyBroke { proxy: "p".into(), source: io::ErrorKind::ConnectionReset.into() };
            for _ in 0..100 {
                entry.observe(Some(&error));
                assert_eq!(entry.health().up, Some(false));
                entry.observe(None);
                assert_eq!(entry.health().up, Some(true));
            }
        });
        let text = String::from_utf8(log.0.lock().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("outbound is down") && lines[1].contains("outbound is up again"), "{text}");
    }
}

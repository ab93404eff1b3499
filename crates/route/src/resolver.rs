//! Where this host's programs ask for names, and how that is changed: `resolv.conf`, or the servers of one link in
//! systemd-resolved.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use oneway_file::limit;
use serde::{Deserialize, Serialize};

use crate::error::RouteError;

/// Where the C library looks for servers (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The servers that the C library asks (`MAXNS`).
const MOST: usize = 3;

/// The first line of a file of ours.
const MARK: &str = "# Written by oneway, which answers here while it runs. What was here before is below, and comes back \
                    with `oneway recover`.";
/// What was there before, in pieces: musl passes over lines of 256 bytes and more.
const PIECE: &str = "#| ";
const PIECE_LENGTH: usize = 160;

/// The resolver settings of this host as they were looked at, and what is wanted of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolver {
    /// The file.
    pub path: PathBuf,
    /// What is there.
    pub before: Before,
    /// What it says, behind a link as well.
    pub text: String,
    /// Whether systemd-resolved works in this network namespace, and programs ask it.
    pub resolved: bool,
    /// The links that systemd-resolved asks for all names, which it would go on asking besides ours.
    #[serde(default)]
    pub everything: Vec<LinkDomains>,
    /// What keeps us from changing it, in words, and what to do.
    pub fixed: Option<String>,
    /// Which boot and network namespace this is.
    pub place: Place,
    /// Whether anybody but a program of this host is known whom we can ask.
    pub upstream: bool,
    /// Whether it is changed even where that is not needed.
    pub always: bool,
}

/// The names that systemd-resolved asks a link's servers for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkDomains {
    /// The device.
    pub name: String,
    /// Each domain, and whether it is a way alone: short names are not completed by it.
    pub domains: Vec<(String, bool)>,
}

impl LinkDomains {
    /// The same but all names, which is the domain `.`.
    pub(crate) fn narrowed(&self) -> Self {
        let domains = self.domains.iter().filter(|(domain, _)| domain != ".").cloned().collect();
        Self { name: self.name.clone(), domains }
    }
}

impl Display for LinkDomains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resolvectl domain {}", self.name)?;
        if self.domains.is_empty() {
            return f.write_str(" ''");
        }
        self.domains
            .iter()
            .try_for_each(|(domain, is_way)| write!(f, " {}{domain}", if *is_way { "~" } else { "" }))
    }
}

/// What is at the place of `resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Before {
    /// Nothing.
    Missing,
    /// A symbolic link. It is replaced itself: what it leads to belongs to another program.
    Link {
        /// Where it leads.
        target: PathBuf,
    },
    /// A file.
    File {
        /// What is in it.
        text: String,
        /// Its permissions.
        mode: u32,
        /// Its owner.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// Which boot and which network namespace a file is about: others must not undo it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The boot.
    pub boot: String,
    /// The network namespace.
    pub netns: u64,
}

/// A `resolv.conf` of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvConf {
    /// The file.
    pub path: PathBuf,
    /// Who is asked.
    pub nameserver: IpAddr,
    /// The servers that are asked where that one does not answer, and the lines that say how names are completed.
    pub kept: Vec<String>,
    /// Whether nobody else is asked, whatever happens.
    #[serde(default)]
    pub closed: bool,
    /// Which host it is about.
    pub place: Place,
    /// What it takes the place of.
    pub before: Before,
}

/// What a file of ours says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    pub(crate) place: Place,
    pub(crate) before: Before,
}

impl Resolver {
    /// Looks at this host's settings; `upstream` and `always` are the caller's to set.
    ///
    /// # Errors
    /// [`RouteError::Resolver`] when the file cannot be read.
    pub fn look() -> Result<Self, RouteError> {
        Self::look_at(Path::new(RESOLV_CONF), true)
    }

    /// The same for another file. `shared` says that it may be another network namespace's, and that systemd-resolved is to
    /// be looked for.
    ///
    /// # Errors
    /// [`RouteError::Resolver`] when the file cannot be read.
    pub fn look_at(path: &Path, shared: bool) -> Result<Self, RouteError> {
        crate::os::resolver(path, shared)
    }

    /// The file of ours that takes its place. Unless `closed`, the servers of before are asked where ours does not answer:
    /// so the host finds names when this program was killed.
    pub(crate) fn file(&self, nameserver: IpAddr, closed: bool) -> ResolvConf {
        let kept = |line: &&str| {
            let word = line.split_whitespace().next().unwrap_or_default();
            ["search", "domain", "options", "sortlist"].contains(&word)
        };
        let mut kept: Vec<String> =
            self.text.lines().filter(kept).map(|line| line.trim().to_owned()).collect();
        let others = servers(&self.text).into_iter().take(if closed { 0 } else { MOST - 1 });
        let others: Vec<String> = others.map(|server| format!("nameserver {server}")).collect();
        if !others.is_empty() && !kept.iter().any(|line| line.contains("timeout:")) {
            kept.insert(0, "options timeout:1".to_owned());
        }
        kept.splice(0..0, others);
        ResolvConf {
            path: self.path.clone(),
            nameserver,
            kept,
            closed,
            place: self.place.clone(),
            before: self.before.clone(),
        }
    }
}

impl ResolvConf {
    /// What the file says.
    pub fn text(&self) -> String {
        let said = Said { place: self.place.clone(), before: self.before.clone() };
        // It is made of text and numbers alone, of which there is always a JSON document.
        let said: Vec<char> = serde_json::to_string(&said).unwrap_or_default().chars().collect();
        let mut text = format!("{MARK}\nnameserver {}\n", self.nameserver);
        for line in &self.kept {
            text.push_str(line);
            text.push('\n');
        }
        for piece in said.chunks(PIECE_LENGTH) {
            text.push_str(PIECE);
            text.extend(piece);
            text.push('\n');
        }
        text
    }

    /// Whether a file with this text is the one of ours, or was on its way to become it, or back: in the place of a mounted
    /// file it is written over the old one, and cut after that.
    pub fn is(&self, text: &str) -> bool {
        let ours = self.text();
        let over = |new: &str, old: &str| {
            let rest = old.as_bytes().get(new.len()..).unwrap_or_default();
            [new.as_bytes(), rest].concat() == text.as_bytes() && text != old
        };
        let before = match &self.before {
            Before::File { text, .. } => text.as_str(),
            _ => "",
        };
        is_ours(text) || over(&ours, before) || text != before && over(before, &ours)
    }

    /// The servers and settings in one line.
    fn in_short(&self) -> String {
        let kept: String = self.kept.iter().map(|line| format!(", {line}")).collect();
        format!("nameserver {}{kept}", self.nameserver)
    }
}

impl Display for ResolvConf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.before {
            Before::Missing => "made",
            Before::Link { .. } => "in the place of the link",
            Before::File { .. } => "in the place of the file",
        };
        write!(f, "{} ({how}): {}", self.path.display(), self.in_short())
    }
}

impl Display for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("removed"),
            Self::Link { target } => write!(f, "the link to {} again", target.display()),
            Self::File { text, mode, uid, gid } => {
                write!(f, "the file of {} bytes again, mode {mode:04o}, owner {uid}:{gid}", text.len())
            }
        }
    }
}

/// Whether a file with this text is one of ours.
pub(crate) fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARK)
}

/// What a file of ours says of itself; none of another file, or of one that was damaged.
pub(crate) fn said(text: &str) -> Option<Said> {
    if !is_ours(text) {
        return None;
    }
    let said: String = text.lines().filter_map(|line| line.strip_prefix(PIECE)).collect();
    serde_json::from_str(&said).ok()
}

/// What a `resolv.conf` said before it was one of ours; of any other, what it says.
pub fn resolv_conf_before(text: &str) -> String {
    match said(text).map(|said| said.before) {
        Some(Before::File { text, .. }) => text,
        Some(Before::Link { target }) => {
            let target = Path::new(RESOLV_CONF).parent().unwrap_or(Path::new("/")).join(target);
            oneway_file::read_text(&target, limit::SYSTEM).unwrap_or_default()
        }
        Some(Before::Missing) => String::new(),
        None => text.to_owned(),
    }
}

/// The address that queries are answered at: of a network of the capture device, to which its route leads whoever asks, and
/// whatever is captured besides. It is the last one, as far as can be from those that others are given.
pub fn nameserver(tun_addresses: &[IpNet]) -> Option<IpAddr> {
    let mut nets: Vec<IpNet> = tun_addresses.to_vec();
    nets.sort_by_key(|net| net.addr().is_ipv6());
    nets.iter().find_map(|net| {
        if net.max_prefix_len() - net.prefix_len() < 2 {
            return None;
        }
        let candidates: [IpAddr; 2] = match net {
            IpNet::V4(net) => {
                let last = net.broadcast().to_bits();
                [last - 1, last - 2].map(|bits| std::net::Ipv4Addr::from_bits(bits).into())
            }
            // The last ones of all are those of every network's routers of anycast (RFC 2526).
            IpNet::V6(net) => {
                let first = net.network().to_bits();
                let step = if net.prefix_len() <= 112 { 0x53 } else { 2 };
                [first + step, first + step - 1].map(|bits| std::net::Ipv6Addr::from_bits(bits).into())
            }
        };
        candidates.into_iter().find(|candidate| *candidate != net.addr())
    })
}

/// The servers of a `resolv.conf`, as the words that they are given by: some have a zone.
pub(crate) fn servers(text: &str) -> Vec<&str> {
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    words.take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours(before: Before) -> ResolvConf {
        ResolvConf {
            path: RESOLV_CONF.into(),
            nameserver: "192.0.2.254".parse().unwrap(),
            kept: vec!["search example".into()],
            closed: false,
            place: Place { boot: "b".into(), netns: 7 },
            before,
        }
    }

    fn file(text: &str) -> Before {
        Before::File { text: text.into(), mode: 0o644, uid: 3, gid: 4 }
    }

    #[test]
    fn it_carries_what_was_there_before() {
        let long = "nameserver 192.0.2.1 # \"\u{e9}\\\n".repeat(40);
        for before in [Before::Missing, Before::Link { target: "../run/x".into() }, file(""), file(&long)] {
            let ours = ours(before.clone());
            let text = ours.text();
            assert!(text.lines().all(|line| line.len() < 256), "{text}");
            assert_eq!(servers(&text), ["192.0.2.254"]);
            assert!(text.contains("\nsearch example\n") && ours.is(&text));
            assert_eq!(said(&text), Some(Said { place: ours.place.clone(), before }));
        }
        assert_eq!(resolv_conf_before(&ours(file(&long)).text()), long);
        assert_eq!(resolv_conf_before(&long), long);
        assert_eq!(said(&format!("x\n{}", ours(file("a")).text())), None);
    }

    #[test]
    fn torn_ones_are_ours_and_others_are_not() {
        let before = "nameserver 192.0.2.1\n";
        let ours = ours(file(before));
        let text = ours.text();
        let half_back = format!("{before}{}", &text[before.len()..]);
        assert!(ours.is(&half_back));
        for other in [before, "", "nameserver 192.0.2.9\n", "# Generated\nnameserver 192.0.2.1\n"] {
            assert!(!ours.is(other), "{other:?}");
        }
        let longer = ours_of_long();
        let over = |new: &str, old: &str| format!("{new}{}", &old[new.len().min(old.len())..]);
        let Before::File { text: old, .. } = &longer.before else { panic!("a file") };
        assert!(longer.is(&over(&longer.text(), old)) && !longer.is(old));
    }

    fn ours_of_long() -> ResolvConf {
        ours(file(&"# long\n".repeat(400)))
    }

    #[test]
    fn the_nameserver_is_a_free_address_of_the_device() {
        let of = |nets: &[&str]| {
            nameserver(&nets.iter().map(|net| net.parse().unwrap()).collect::<Vec<_>>())
                .map(|ip| ip.to_string())
        };
        assert_eq!(of(&["fd00::1/64", "10.162.0.1/24"]).as_deref(), Some("10.162.0.254"));
        assert_eq!(of(&["10.162.0.254/24"]).as_deref(), Some("10.162.0.253"));
        assert_eq!(of(&["192.0.2.1/30"]).as_deref(), Some("192.0.2.2"));
        assert_eq!(of(&["192.0.2.2/30"]).as_deref(), Some("192.0.2.1"));
        assert_eq!(of(&["fd00::1/64"]).as_deref(), Some("fd00::53"));
        assert_eq!(of(&["192.0.2.1/32", "fd00::2/126"]).as_deref(), Some("fd00::1"));
        assert_eq!(of(&["192.0.2.1/31"]), None);
    }

    #[test]
    fn others_are_asked_after_us_unless_nobody_may() {
        let text =
            "search a\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver 192.0.2.3\noptions edns0\n";
        let resolver = Resolver {
            path: RESOLV_CONF.into(),
            before: Before::File { text: text.into(), mode: 0o644, uid: 0, gid: 0 },
            text: text.into(),
            resolved: false,
            everything: Vec::new(),
            fixed: None,
            place: Place::default(),
            upstream: true,
            always: false,
        };
        let lines = |closed| {
            let text = resolver.file("192.0.2.254".parse().unwrap(), closed).text();
            text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
        };
        let others = ["nameserver 192.0.2.1", "nameserver fe80::1%eth0", "options timeout:1"];
        let first = ["nameserver 192.0.2.254"];
        let last = ["search a", "options edns0"];
        assert_eq!(lines(false), [&first[..], &others, &last].concat());
        assert_eq!(lines(true), [&first[..], &last].concat());
    }
}

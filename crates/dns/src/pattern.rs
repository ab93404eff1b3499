//! Patterns of names, in the notation of Clash.

use std::collections::HashSet;

/// A pattern that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pattern of names; use example.com, *.example.com, .example.com or +.example.com")]
pub struct BadPattern(String);

/// A set of patterns.
///
/// | pattern | matches |
/// |---|---|
/// | `example.com` | this name |
/// | `*.example.com` | one label in the place of each `*`, which may stand anywhere |
/// | `.example.com` | every name below it |
/// | `+.example.com` | it, and every name below it |
///
/// The number of patterns without `*` costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Patterns {
    exact: HashSet<Box<str>>,
    below: HashSet<Box<str>>,
    /// Labels from the right, and whether any may stand to their left.
    wild: Vec<(Vec<Box<str>>, bool)>,
}

/// What has to have its real address by default, because its use is not to be reached but to say something about the
/// network here: names of the local network, checks for captive portals and for connectivity, time, STUN.
pub const DEFAULT_EXCLUDED: &[&str] = &[
    // Of this network or host (RFC 6761, RFC 6762, RFC 8375, RFC 7050); a single label is one, too.
    "*",
    "+.localhost",
    "+.local",
    "+.localdomain",
    "+.lan",
    "+.home.arpa",
    "+.internal",
    "+.arpa",
    // What systems and browsers ask to see whether there is a network, or a portal before it.
    "captive.apple.com",
    "+.captive.g.aaplimg.com",
    "connectivitycheck.gstatic.com",
    "connectivitycheck.android.com",
    "connectivitycheck.platform.hicloud.com",
    "connect.rom.miui.com",
    "+.msftconnecttest.com",
    "+.msftncsi.com",
    "detectportal.firefox.com",
    "nmcheck.gnome.org",
    "networkcheck.kde.org",
    "network-test.debian.org",
    "connectivity-check.ubuntu.com",
    "ping.archlinux.org",
    "fedoraproject.org",
    // Time.
    "+.ntp.org",
    "ntp.*.*",
    "ntp.*.*.*",
    "time.*.com",
    "time.*.*.com",
    "time.*.gov",
    "time-*.apple.com",
    "time.windows.com",
    "+.time.edu.cn",
    // STUN, which asks for this host's own address (RFC 8489).
    "stun.*.*",
    "stun.*.*.*",
    "+.stun.*.*",
    "+.stun.*.*.*",
];

impl Patterns {
    /// A set of these patterns.
    ///
    /// # Errors
    /// The first that is none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        let mut set = Self::default();
        for pattern in patterns {
            set.add(pattern).ok_or_else(|| BadPattern(pattern.to_owned()))?;
        }
        Ok(set)
    }

    fn add(&mut self, pattern: &str) -> Option<()> {
        let text = pattern.trim().trim_end_matches('.').to_ascii_lowercase();
        let (itself, below, rest) = if let Some(rest) = text.strip_prefix("+.") {
            (true, true, rest)
        } else if let Some(rest) = text.strip_prefix('.') {
            (false, true, rest)
        } else {
            (true, false, text.as_str())
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
        let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(plain);
        if rest.len() > 253 || !rest.split('.').all(label) {
            return None;
        }
        if rest.contains('*') {
            let labels: Vec<Box<str>> = rest.rsplit('.').map(Box::from).collect();
            if itself {
                self.wild.push((labels.clone(), false));
            }
            if below {
                self.wild.push((labels, true));
            }
            return Some(());
        }
        if itself {
            self.exact.insert(rest.into());
        }
        if below {
            self.below.insert(rest.into());
        }
        Some(())
    }

    /// Whether any of them matches a name in lower case without the final dot.
    pub fn matches(&self, name: &str) -> bool {
        if self.exact.contains(name) {
            return true;
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if self.below.contains(parent) {
                return true;
            }
            rest = parent;
        }
        self.wild.iter().any(|(labels, below)| {
            let mut found = name.rsplit('.');
            let fits = labels.iter().all(|label| found.next().is_some_and(|found| fits(label, found)));
            fits && found.next().is_some() == *below
        })
    }
}

/// Whether a label fits one with at most a few `*` in it, each of which stands for any text.
fn fits(pattern: &str, label: &str) -> bool {
    let mut parts = pattern.split('*');
    let (Some(first), last) = (parts.next(), pattern.rsplit('*').next().unwrap_or_default()) else {
        return false;
    };
    if !pattern.contains('*') {
        return pattern == label;
    }
    let Some(mut rest) = label.strip_prefix(first) else { return false };
    let middle: Vec<_> = parts.collect();
    for part in middle.iter().take(middle.len().saturating_sub(1)) {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_matches_what_it_says() {
        for (pattern, yes, no) in [
            ("example.com", vec!["example.com"], vec!["a.example.com", "com", "xexample.com"]),
            ("*.example.com", vec!["a.example.com"], vec!["example.com", "a.b.example.com", "a.example.net"]),
            (".example.com", vec!["a.example.com", "a.b.example.com"], vec!["example.com", "aexample.com"]),
            ("+.example.com", vec!["example.com", "a.example.com", "a.b.example.com"], vec!["xexample.com"]),
            ("time.*.com", vec!["time.apple.com"], vec!["time.com", "time.a.b.com", "time.apple.net"]),
            ("+.stun.*.*", vec!["stun.a.com", "x.stun.a.com"], vec!["stun.a.b.com", "stun.com"]),
            ("time-*.apple.com", vec!["time-a.apple.com"], vec!["time.apple.com"]),
            ("a*b*c.d", vec!["abc.d", "axbxc.d"], vec!["ab.d", "abcx.d"]),
            ("*", vec!["printer"], vec!["printer.example"]),
            ("EXAMPLE.com.", vec!["example.com"], vec![]),
        ] {
            let set = Patterns::new([pattern]).unwrap();
            for name in yes {
                assert!(set.matches(name), "{pattern} {name}");
            }
            for name in no {
                assert!(!set.matches(name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in ["", ".", "+.", "a..b", "a b", "exam/ple", &"x".repeat(64), &"x.".repeat(130)] {
            assert!(Patterns::new([bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_list_is_right() {
        let set = Patterns::new(DEFAULT_EXCLUDED.iter().copied()).unwrap();
        for name in [
            "printer",
            "localhost",
            "nas.lan",
            "a.b.local",
            "captive.apple.com",
            "www.msftconnecttest.com",
            "connectivitycheck.gstatic.com",
            "0.pool.ntp.org",
            "time.apple.com",
            "ntp.ubuntu.com",
            "stun.l.google.com",
            "stun.example.com",
            "ipv4only.arpa",
        ] {
            assert!(set.matches(name), "{name}");
        }
        for name in ["example.com", "www.google.com", "origin.example", "timetable.com", "local.example"] {
            assert!(!set.matches(name), "{name}");
        }
    }

    #[test]
    fn agrees_with_trying_every_pattern_alone() {
        let patterns = ["a.b", "+.b.c", ".c", "*.a.c", "b.*", "+.a.*"];
        let all = Patterns::new(patterns).unwrap();
        let alone: Vec<_> = patterns.iter().map(|pattern| Patterns::new([*pattern]).unwrap()).collect();
        let labels = ["a", "b", "c"];
        for n in 0..3_usize.pow(4) {
            let digits = [n % 3, n / 3 % 3, n / 9 % 3, n / 27];
            for len in 1..=4 {
                let name = digits[..len].iter().map(|digit| labels[*digit]).collect::<Vec<_>>().join(".");
                assert_eq!(all.matches(&name), alone.iter().any(|set| set.matches(&name)), "{name}");
            }
        }
    }
}

//! What the operating system's files say about names.

use std::net::{IpAddr, SocketAddr};

/// The port of DNS.
const PORT: u16 = 53;

/// The C library asks no more than that (`MAXNS`, resolv.conf(5)).
const MOST: usize = 3;

/// The servers of a `resolv.conf`, in their order. Those with a zone (`fe80::1%eth0`) are left out: they are on a link
/// whose name may mean another one tomorrow.
pub fn nameservers(text: &str) -> Vec<SocketAddr> {
    let words = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = words.filter_map(|word| word.parse::<IpAddr>().ok());
    addresses.take(MOST).map(|ip| SocketAddr::new(ip.to_canonical(), PORT)).collect()
}

/// The addresses that a `hosts` file gives a name.
pub fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let found = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        let ip = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(ip)
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_found_among_other_settings() {
        let text = "# comment\nsearch example\nnameserver 192.0.2.53\n\tnameserver   2001:db8::53  # x\n\
                    nameserver\nnameserver none\nnameserver fe80::1%eth0\noptions edns0\nnameserver 127.0.0.53\n\
                    nameserver 192.0.2.54\n";
        let expected = ["192.0.2.53:53", "[2001:db8::53]:53", "127.0.0.53:53"];
        assert_eq!(nameservers(text), expected.map(|addr| addr.parse().unwrap()));
        assert!(nameservers("").is_empty());
    }

    #[test]
    fn hosts_are_found_by_any_of_their_names() {
        let text = "127.0.0.1 localhost\n192.0.2.1\tproxy.example Proxy # other\n#192.0.2.2 proxy\n2001:db8::1 proxy\nx y\n";
        assert_eq!(
            hosts(text, "PROXY"),
            ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert!(hosts(text, "other").is_empty());
    }
}

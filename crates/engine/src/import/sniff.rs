//! `sniffer`.

use std::fmt::Write;

use super::Notes;
use super::yaml::Node;

/// Ports of one protocol that are written out; Clash gives them as ranges.
const MOST_PORTS: usize = 1024;

/// What is said about names in the first bytes of flows.
pub(super) struct Sniff {
    enable: bool,
    /// The protocols whose ports the source says, with those; the others keep those of the default.
    ports: Vec<(&'static str, Vec<u16>)>,
}

impl Sniff {
    /// None if the source says nothing about it.
    pub(super) fn read(root: &Node, notes: &mut Notes) -> Option<Self> {
        let node = root.get("sniffer")?;
        if node.table().is_empty() {
            return None;
        }
        let mut this = Self { enable: node.is("enable"), ports: Vec::new() };
        for (key, value) in node.table() {
            match key.as_str() {
                "enable" => {}
                "sniff" => this.protocols(value, notes),
                // Flows without a name from DNS are all that is looked at.
                "parse-pure-ip" if value.is_true() => {}
                "force-dns-mapping" if value.is_false() => {}
                "override-destination" => override_destination("", value, notes),
                _ => notes.add(value.line, format!("`sniffer.{key}` is not carried over")),
            }
        }
        Some(this)
    }

    pub(super) fn write(&self, toml: &mut String) {
        let _ = write!(toml, "\n[sniff]\nenable = {}\n", self.enable);
        for (protocol, ports) in &self.ports {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            let _ = writeln!(toml, "{protocol} = [{}]", ports.join(", "));
        }
    }

    /// Protocols that are not listed are not looked for.
    fn protocols(&mut self, sniff: &Node, notes: &mut Notes) {
        if sniff.table().is_empty() {
            return;
        }
        let mut listed = Vec::new();
        for (name, node) in sniff.table() {
            let protocol = match name.to_ascii_lowercase().as_str() {
                "tls" => "tls",
                "http" => "http",
                "quic" => "quic",
                _ => {
                    notes.add(node.line, format!("`sniffer.sniff.{name}` is not carried over"));
                    continue;
                }
            };
            if listed.contains(&protocol) {
                notes.add(node.line, format!("`sniffer.sniff.{name}` is left out: it is there already"));
                continue;
            }
            listed.push(protocol);
            for (key, value) in node.table() {
                match key.as_str() {
                    "ports" => self.ports.extend(ports(name, value, notes).map(|ports| (protocol, ports))),
                    "override-destination" => override_destination(&format!("sniff.{name}."), value, notes),
                    _ => notes.add(value.line, format!("`sniffer.sniff.{name}.{key}` is not carried over")),
                }
            }
        }
        for protocol in ["tls", "http", "quic"] {
            if !listed.contains(&protocol) {
                self.ports.push((protocol, Vec::new()));
            }
        }
    }
}

fn override_destination(below: &str, value: &Node, notes: &mut Notes) {
    let message = format!(
        "`sniffer.{below}override-destination` is not carried over: a connection goes to its address, and by its name where \
         that leads to another outbound"
    );
    notes.add(value.line, message);
}

/// Ports and ranges of them (`8080-8880`). None if the default is to stay.
fn ports(name: &str, node: &Node, notes: &mut Notes) -> Option<Vec<u16>> {
    let mut ports: Vec<u16> = Vec::new();
    let single = node.text().filter(|_| !node.is_nothing()).map(|_| std::slice::from_ref(node));
    for entry in single.unwrap_or(node.list()) {
        let text = entry.text().unwrap_or_default();
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first @ 1..), Ok(last)) if first <= last => ports.extend(first..=last),
            _ => notes
                .add(entry.line, format!("{text:?} of `sniffer.sniff.{name}.ports` is no port and left out")),
        }
    }
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > MOST_PORTS {
        let message = format!(
            "`sniffer.sniff.{name}.ports` is left out: these are {} ports, and at most {MOST_PORTS} are carried over",
            ports.len()
        );
        notes.add(node.line, message);
        return None;
    }
    (!ports.is_empty()).then_some(ports)
}

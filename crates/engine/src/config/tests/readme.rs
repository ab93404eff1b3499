//! What the README says of the configuration is so, and is all of it.

use super::*;

const README: &str = include_str!("../../../../../README.md");

/// The lines of its examples, which together are one configuration.
fn lines() -> Vec<&'static str> {
    let examples = README.split("\n```toml\n").skip(1);
    examples.flat_map(|example| example.split("\n```").next().unwrap().lines()).collect()
}

fn errors(text: &str) -> Vec<String> {
    let read = |path: &Path| match path.to_str() {
        Some("etc/ads.yaml") => Ok(b"payload:\n  - '+.ads.example'\n".to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    match Config::from_toml(Path::new("etc/oneway.toml"), text, Options::default(), &read) {
        Ok(loaded) => {
            let compiled = crate::assemble::dispatch(&loaded.config, &crate::assemble::system_resolver());
            compiled.err().into_iter().map(|error| error.to_string()).collect()
        }
        Err(errors) => errors.as_slice().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_examples_are_right_as_they_are_printed() {
    let text = lines().join("\n");
    assert!(text.contains("[capture]") && text.contains("[outbound.auto]"), "{text}");
    assert_eq!(errors(&text), [""; 0]);
}

/// The key that a line has in a comment, and the type of outbound that alone has it.
fn commented(line: &str) -> Option<(&str, Option<&str>)> {
    let setting = line.strip_prefix("# ")?;
    setting.split_once(" = ").filter(|(key, _)| !key.contains(' '))?;
    let only = setting.split_once("# \"").and_then(|(_, rest)| rest.split_once("\": "));
    Some((setting, only.map(|(only, _)| only)))
}

#[test]
fn what_is_commented_out_can_be_uncommented() {
    let uncommented = |line: &&'static str| match commented(line) {
        Some((setting, None)) => setting,
        _ => *line,
    };
    let text: Vec<&str> = lines().iter().map(uncommented).collect();
    let errors_of_all = errors(&text.join("\n"));
    // The file that they name is not there.
    assert!(
        errors_of_all.len() == 2 && errors_of_all.iter().all(|e| e.contains(" etc/ca.pem: ")),
        "{errors_of_all:?}"
    );
    let of_one_type: Vec<_> = lines()
        .into_iter()
        .filter_map(|line| Some((line, commented(line)?.0, commented(line)?.1?)))
        .collect();
    assert_eq!(of_one_type.len(), 2);
    for (line, setting, only) in of_one_type {
        let text = lines().join("\n").replace(line, setting);
        let text = text.replace("type = \"fallback\"", &format!("type = {only:?}"));
        assert_eq!(errors(&text), [""; 0], "{setting}");
    }
}

/// The keys of the section that this text ends in, as the parser lists them.
fn keys(text: &str) -> Vec<String> {
    let errors = errors(&format!("{text}\nno-key = 1"));
    let unknown = errors.iter().find(|error| error.contains("unknown key `no-key`")).unwrap();
    unknown.split_once("the keys are ").unwrap().1.split(", ").map(str::to_owned).collect()
}

/// Whether a key is named, or set in an example.
fn is_mentioned(key: &str) -> bool {
    README.match_indices(key).any(|(at, _)| {
        let before = README[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        let after = &README[at + key.len()..];
        !before && (after.starts_with('`') || after.starts_with(" = "))
    })
}

#[test]
fn every_key_is_in_it() {
    for section in ["capture", "tun", "egress", "dns", "log"] {
        let start = format!("| `[{section}]` | ");
        let row = README.lines().find(|line| line.starts_with(&start)).expect(section);
        for key in keys(&format!("[{section}]")) {
            assert!(
                row.contains(&format!("`{key}`")) || row.contains(&format!("`{key} = ")),
                "{section}.{key}"
            );
        }
    }
    for key in keys("") {
        let is_section = [format!("\n[{key}]\n"), format!("\n[{key}."), format!("`[{key}]`")];
        assert!(is_mentioned(&key) || is_section.iter().any(|section| README.contains(section)), "{key}");
    }
    let server = "server = \"192.0.2.1:80\"";
    for section in [
        "[dns.fake-ip]",
        "[sniff]",
        "[limits]",
        "[rules]",
        "[rule-set.x]\npath = \"ads.yaml\"",
        &format!("[outbound.x]\ntype = \"socks5\"\ntls = true\n{server}"),
        &format!("[outbound.x]\ntype = \"http\"\ntls = true\n{server}"),
        &format!("[outbound.x]\ntype = \"trojan\"\npassword = \"secret\"\n{server}"),
        &format!(
            "[outbound.x]\ntype = \"shadowsocks\"\nmethod = \"aes-128-gcm\"\npassword = \"secret\"\n{server}"
        ),
        "[outbound.x]\ntype = \"url-test\"\nmembers = [\"direct\"]",
        "[outbound.x]\ntype = \"load-balance\"\nmembers = [\"direct\"]",
        "[outbound.x]\ntype = \"probe\"\nmembers = [\"direct\"]",
    ] {
        for key in keys(section) {
            assert!(is_mentioned(&key), "{section}: {key}");
        }
    }
}

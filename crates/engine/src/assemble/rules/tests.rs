use std::io;

use super::*;
use crate::config::{Config, Options};

/// Compiles the rules of a configuration; `files` are those that it may name.
fn load(toml: &str, files: &[(&str, &[u8])]) -> Result<Vec<String>, Vec<String>> {
    let read = |path: &Path| {
        let found = files.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, bytes)| bytes.to_vec()).ok_or(io::Error::from(io::ErrorKind::NotFound))
    };
    let config = Config::from_toml(Path::new("oneway.toml"), toml, Options::default(), &read).unwrap().config;
    let texts = |errors: &[ConfigError]| errors.iter().map(ToString::to_string).collect();
    match crate::assemble::dispatch(&config, &crate::assemble::system_resolver()) {
        Ok((_, warnings)) => Ok(texts(&warnings)),
        Err(crate::EngineError::Config(errors)) => Err(texts(errors.as_slice())),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_error_names_its_file_line_and_column() {
    let toml = "[rule-set.a]\npath = \"a.yaml\"\n[rule-set.b]\npath = \"b.mrs\"\n[rules]\nfiles = [\"r.txt\"]\n\
                geoip = \"c.mmdb\"\nlist = [\"DOMAIN,a.b,nowhere\", \"RULE-SET,a,direct\", \"GEOIP,DE,direct\"]\n";
    let files: &[(&str, &[u8])] = &[
        ("a.yaml", b"payload:\n  - DOMAIN,ok.test\n  - 'DOMAIN,not ok'\n"),
        ("b.mrs", b"rubbish"),
        ("r.txt", b"# head\nIP-CIDR,10.0.0.0/8,DIRECT\n  DST-PORT,x,REJECT\n"),
        ("c.mmdb", b"rubbish"),
    ];
    let errors = load(toml, files).unwrap_err();
    let begins = [
        "a.yaml:3:13: \"not ok\" is no host name: it has a blank, a slash or a control character",
        "oneway.toml:4:8: \"b.mrs\": this is no Zstandard file:",
        "oneway.toml:7:9: \"c.mmdb\": this is no MaxMind database:",
        "oneway.toml:8:9: rule \"DOMAIN,a.b,nowhere\", column 12: there is no outbound named \"nowhere\"",
        "r.txt:3:12: \"x\" is not a port such as 443, 80/443 or 8000-8999",
    ];
    assert_eq!(errors.len(), begins.len(), "{errors:#?}");
    for (error, begin) in errors.iter().zip(begins) {
        assert!(error.starts_with(begin), "{error}");
    }
}

#[test]
fn a_file_of_rules_that_is_no_text_is_named_with_its_place() {
    for name in ["r.txt", "r.yaml"] {
        let errors = load(&format!("rules.files = [{name:?}]\n"), &[(name, b"# a\n#\xc3\xa9\xe9\n")]);
        assert_eq!(errors.unwrap_err(), [format!("{name}:2:3: this is not UTF-8; is the file a text?")]);
    }
}

#[test]
fn what_is_left_out_is_told() {
    let toml = "[rule-set.a]\npath = \"a.list\"\n[rules]\nfiles = [\"r.txt\"]\n\
                list = [\"RULE-SET,a,block\", \"MATCH,direct\", \"DST-PORT,1,block\"]\n";
    let files: &[(&str, &[u8])] = &[("a.list", b"DST-PORT,7\nUSER-AGENT,x\n"), ("r.txt", b"MATCH,DIRECT\n")];
    assert_eq!(
        load(toml, files).unwrap(),
        [
            "a.list:2:1: USER-AGENT is not supported: there is nothing here that it could ask about; this entry is left out",
            "oneway.toml:5:45: rule \"DST-PORT,1,block\" stands behind a MATCH and is never reached",
            "oneway.toml:4:10: the rules of \"r.txt\" stand behind a MATCH and are never reached",
        ]
    );
}

#[test]
fn of_many_that_are_left_out_some_are_named() {
    let toml =
        "[rule-set.a]\npath = \"a.txt\"\nbehavior = \"domain\"\n[rules]\nlist = [\"RULE-SET,a,block\"]\n";
    let list = format!("{}b.example\n", "a*.example\n".repeat(1000));
    let warnings = load(toml, &[("a.txt", list.as_bytes())]).unwrap();
    assert_eq!(warnings.len(), 21);
    let never = "\"a*.example\" never matches: no host name has '*' in it; DOMAIN-WILDCARD knows it";
    assert_eq!(warnings[0], format!("a.txt:1:1: {never}; this entry is left out"));
    assert_eq!(warnings[20], "oneway.toml:2:8: \"a.txt\": 980 more entries are left out");
}

#[test]
fn what_only_compiling_shows() {
    let circle =
        "[sub-rules]\na = [\"SUB-RULE,(NETWORK,tcp),a\"]\n[rules]\nlist = [\"SUB-RULE,(NETWORK,tcp),a\"]\n";
    let errors = load(circle, &[]).unwrap_err();
    assert_eq!(
        errors,
        ["oneway.toml:2:6: sub-rules.a: it leads back to itself, or through more than 32 others"]
    );
    let errors = load(
        "[rule-set.a]\npath = \"a.txt\"\n[rules]\nlist = [\"RULE-SET,a,block\"]\n",
        &[("a.txt", b"GEOIP,DE\n")],
    );
    assert_eq!(
        errors.unwrap_err(),
        [
            "oneway.toml:2:8: \"a.txt\": GEOIP needs a database of countries; give its file by the key geoip in [rules]"
        ]
    );
}

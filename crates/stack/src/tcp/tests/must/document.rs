//! `docs/tcp-conformance.md` names all MUSTs, and tests that exist.

use std::collections::{BTreeMap, BTreeSet};

const DOCUMENT: &str = include_str!("../../../../../../docs/tcp-conformance.md");

const SOURCES: [(&str, &str); 15] = [
    ("ack", include_str!("ack.rs")),
    ("close", include_str!("close.rs")),
    ("congestion", include_str!("congestion.rs")),
    ("header", include_str!("header.rs")),
    ("icmp", include_str!("icmp.rs")),
    ("isn", include_str!("isn.rs")),
    ("keepalive", include_str!("keepalive.rs")),
    ("options", include_str!("options.rs")),
    ("reset", include_str!("reset.rs")),
    ("retransmission", include_str!("retransmission.rs")),
    ("sack", include_str!("sack.rs")),
    ("states", include_str!("states.rs")),
    ("timestamps", include_str!("timestamps.rs")),
    ("urgent", include_str!("urgent.rs")),
    ("window", include_str!("window.rs")),
];

/// How many numbers each document has.
const NUMBERS: [(&str, u32); 10] = [
    ("MUST", 69),
    ("RFC7323", 18),
    ("RFC2018", 5),
    ("RFC6675", 3),
    ("RFC8985", 6),
    ("RFC6298", 8),
    ("RFC5961", 4),
    ("RFC6528", 1),
    ("RFC5681", 14),
    ("RFC6191", 3),
];

/// The document's rows: number, and the cell that says how it is met.
fn rows() -> BTreeMap<&'static str, &'static str> {
    let mut rows = BTreeMap::new();
    for line in DOCUMENT.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", number, what, how, ""] = cells[..]
            && NUMBERS.iter().any(|(prefix, _)| {
                number.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-') && rest != "-n")
            })
        {
            assert!(!what.is_empty() && !how.is_empty(), "{number} says nothing");
            assert!(rows.insert(number, how).is_none(), "{number} is there twice");
        }
    }
    rows
}

/// The tests that the sources have, as `file::name`.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for (file, source) in SOURCES {
        let mut is_test = false;
        for line in source.lines() {
            if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.strip_suffix("() {"))
                && is_test
            {
                tests.insert(format!("{file}::{name}"));
            }
            is_test = line == "#[test]";
        }
    }
    tests
}

#[test]
fn the_document_names_every_number() {
    let rows = rows();
    let expected: BTreeSet<String> = NUMBERS
        .iter()
        .flat_map(|&(prefix, count)| (1..=count).map(move |n| format!("{prefix}-{n}")))
        .collect();
    assert_eq!(rows.keys().map(|&number| number.to_owned()).collect::<BTreeSet<_>>(), expected);
}

#[test]
fn every_test_that_it_names_exists_and_it_names_every_test() {
    let tests = tests();
    let (_, not_applied) = DOCUMENT.split_once("## What does not apply").expect("the table of exceptions");
    let mut named = BTreeSet::new();
    for (number, how) in rows() {
        if not_applied.contains(&format!("| {number} |")) {
            continue;
        }
        let names: Vec<&str> = how.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "{number} has no test");
        for name in names {
            assert!(tests.contains(name), "{number}: there is no test {name}");
            named.insert(name.to_owned());
        }
    }
    assert_eq!(named, tests);
}

/// A test that has a number in its name has it in its comment, too.
#[test]
fn every_test_cites_its_number() {
    for (file, source) in SOURCES {
        for test in source.split("#[test]").collect::<Vec<_>>().windows(2) {
            let name = test[1].trim_start().strip_prefix("fn ").expect("a test");
            let name = name.split('(').next().unwrap_or_default();
            let comment: String = test[0].rsplit("\n\n").next().unwrap_or_default().to_owned();
            let number = name.split('_').nth(1).unwrap_or_default();
            assert!(comment.contains("///"), "{file}: {name} says nothing");
            assert!(number.chars().all(|digit| digit.is_ascii_digit()), "{file}: {name} has no number");
        }
    }
}

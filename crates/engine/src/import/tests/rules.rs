//! What becomes of rules and rule sets.

use super::carried_over;

#[test]
fn rule_sets_are_renamed_wherever_they_are_named() {
    let (toml, notes) = carried_over(
        "rule-providers:
  my set: {type: file, behavior: classical, format: text, path: c.list}
sub-rules:
  sub one: ['AND,((RULE-SET,my set),(NETWORK,tcp)),REJECT']
rules:
- RULE-SET,my set,REJECT
- AND,((NETWORK,tcp),(NOT,((rule-set, my set )))),REJECT
- OR,((RULE-SET,my set,src),(RULE-SET,my set)),REJECT
- SUB-RULE,(RULE-SET,my set),sub one
",
    );
    for rule in [
        "  \"AND,((RULE-SET,my-set),(NETWORK,tcp)),block\"",
        "  \"RULE-SET,my-set,block\"",
        "  \"AND,((NETWORK,tcp),(NOT,((rule-set,my-set)))),block\"",
        "  \"OR,((RULE-SET,my-set,src),(RULE-SET,my-set)),block\"",
        "  \"SUB-RULE,(RULE-SET,my-set),sub-one\"",
    ] {
        assert!(toml.contains(rule), "{rule}\n{toml}");
    }
    assert!(!notes.iter().any(|note| note.contains("left out")), "{notes:#?}");
}

//! The rule that takes everything, found without understanding those before it.

use super::Field;
use crate::set::{Format, text, yaml};

/// The outbound of a rule, if that is a `MATCH`.
pub fn outbound_of_match(rule: &str) -> Option<&str> {
    let rule = rule.trim_start();
    let (kind, rest) = Field::new(rule.strip_prefix("- ").unwrap_or(rule), 0).split_first();
    Some(rest.filter(|_| is_match(kind))?.split_first().0.text)
}

/// The outbound of the first `MATCH` in a file of rules.
pub fn match_in(file: &str, format: Format) -> Option<String> {
    if format != Format::Yaml {
        return text::lines(file).find_map(|(_, rule)| outbound_of_match(rule)).map(str::to_owned);
    }
    let mut found = None;
    // What is no YAML is named where the rules are parsed.
    let _ = yaml::list(file, |item| {
        found = found.take().or_else(|| outbound_of_match(&item.text).map(str::to_owned));
    });
    found
}

pub(super) fn is_match(kind: Field<'_>) -> bool {
    ["MATCH", "FINAL"].iter().any(|word| kind.text.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_counts() {
        for rule in ["MATCH,p", "match , p", "- FINAL,p", "  - Match,p,extra"] {
            assert_eq!(outbound_of_match(rule), Some("p"), "{rule}");
        }
        for rule in ["", "MATCH", "DOMAIN,match,p", "MATCHES,p", "AND,((MATCH,p)),p"] {
            assert_eq!(outbound_of_match(rule), None, "{rule}");
        }
        let text = "# MATCH,no\nDOMAIN,a.example,no\n\nMATCH,yes\nMATCH,no\n";
        assert_eq!(match_in(text, Format::Text).as_deref(), Some("yes"));
        let yaml = "rules:\n  - DOMAIN,a.example,no\n  - \"MATCH,yes\"\n  - MATCH,no\n";
        assert_eq!(match_in(yaml, Format::Yaml).as_deref(), Some("yes"));
        assert_eq!(match_in("rules: [", Format::Yaml), None);
    }
}

//! From the rules' texts and files to compiled rules, with the place of everything that is wrong.

use std::path::Path;
use std::sync::Arc;

use oneway_rule::{
    Asn, Context, Format, GeoIp, GeoSite, OutboundId, ParseError, Program, RuleList, RuleSet, SetData,
    SetError, SetId, SubId, utf8,
};

use crate::config::{ConfigError, DataFile, Origin, RuleLine, RulesConfig};

/// Entries of one rule set that are said to be left out, each by itself: a list of others may have thousands.
const MOST_TOLD: usize = 20;

/// Parses and compiles, for flows whose names are known, or not; rules that need a database are wrong where there is none, if
/// `check_databases`. What is wrong goes to `errors`, and then there are no rules.
pub(super) fn compile(
    config: &RulesConfig,
    outbound: &dyn Fn(&str) -> Option<OutboundId>,
    last: OutboundId,
    has_names: bool,
    check_databases: bool,
    errors: &mut Vec<ConfigError>,
) -> Option<(RuleSet, Vec<ConfigError>)> {
    let mut warnings = Vec::new();
    let before = errors.len();
    let geosite =
        database(config.geosite.as_ref(), errors, |bytes| GeoSite::new(bytes).map_err(|e| e.to_string()));
    let geoip = database(config.geoip.as_ref(), errors, |bytes| GeoIp::new(bytes).map_err(|e| e.to_string()));
    let asn = database(config.asn.as_ref(), errors, |bytes| Asn::new(bytes).map_err(|e| e.to_string()));
    // A database that is broken has been reported; its rules need not be reported as well.
    let check_databases = check_databases && errors.len() == before;
    let sets: Vec<SetData> = config
        .sets
        .iter()
        .map(|set| match SetData::parse(&set.file.bytes, set.format, set.behavior) {
            Ok(data) => {
                let skipped = data.skipped();
                let told = skipped.iter().take(MOST_TOLD).map(|error| in_file(&set.file.path, error));
                warnings.extend(told.map(left_out));
                if let Some(more) = skipped.len().checked_sub(MOST_TOLD).filter(|more| *more > 0) {
                    let message = format!("{:?}: {more} more entries are left out", set.file.path);
                    warnings.push(ConfigError::new(Some(set.file.origin.clone()), message));
                }
                data
            }
            Err(SetError::Entries(wrong)) => {
                errors.extend(wrong.iter().map(|error| in_file(&set.file.path, error)));
                SetData::default()
            }
            Err(SetError::Binary(error)) => {
                errors.push(ConfigError::new(
                    Some(set.file.origin.clone()),
                    format!("{:?}: {error}", set.file.path),
                ));
                SetData::default()
            }
        })
        .collect();
    let rule_set = |name: &str| position(config.sets.iter().map(|set| set.name.as_str()), name).map(SetId);
    let sub_rule =
        |name: &str| position(config.subs.iter().map(|(known, _)| known.as_str()), name).map(SubId);
    let context = Context {
        outbound,
        rule_set: &rule_set,
        sub_rule: &sub_rule,
        geosite: geosite.as_ref(),
        geoip: geoip.is_some(),
        asn: asn.is_some(),
        check_databases,
    };
    let mut rules = RuleList::default();
    push_lines(&mut rules, &config.lines, &context, errors, &mut warnings);
    for file in &config.files {
        let was_closed = rules.is_closed();
        push_file(&mut rules, file, &context, errors);
        if was_closed {
            let message = format!("the rules of {:?} stand behind a MATCH and are never reached", file.path);
            warnings.push(ConfigError::new(Some(file.origin.clone()), message));
        }
    }
    let subs = config.subs.iter().map(|(_, lines)| {
        let mut list = RuleList::default();
        push_lines(&mut list, lines, &context, errors, &mut warnings);
        list
    });
    let subs = subs.collect();
    if !errors.is_empty() {
        return None;
    }
    let geoip = geoip.map(Arc::new);
    let asn = asn.map(Arc::new);
    match RuleSet::compile(Program { rules, subs, sets, geosite, geoip, asn, last }) {
        Ok(rules) => {
            if rules.needs().host && !has_names {
                let message = "rules on names match nothing with dns.mode = \"off\": nothing tells the names of flows; see [sniff]";
                warnings.push(ConfigError::new(None, message));
            }
            Some((rules, warnings))
        }
        Err(error) => {
            let set = error.set.and_then(|set| config.sets.get(set.0 as usize));
            let sub = error.sub.and_then(|sub| config.subs.get(sub.0 as usize));
            let (origin, what) = match (set, sub) {
                (Some(set), _) => (Some(set.file.origin.clone()), format!("{:?}: {error}", set.file.path)),
                (None, Some((name, lines))) => {
                    let origin = lines.first().map(|line| line.origin.clone());
                    (origin, format!("sub-rules.{name}: {error}"))
                }
                (None, None) => (None, format!("rules: {error}")),
            };
            errors.push(ConfigError::new(origin, what));
            None
        }
    }
}

fn push_lines(
    list: &mut RuleList,
    lines: &[RuleLine],
    context: &Context<'_>,
    errors: &mut Vec<ConfigError>,
    warnings: &mut Vec<ConfigError>,
) {
    for line in lines {
        match list.push(&line.text, 1, context) {
            Ok(true) => {}
            Ok(false) => {
                let message = format!("rule {:?} stands behind a MATCH and is never reached", line.text);
                warnings.push(ConfigError::new(Some(line.origin.clone()), message));
            }
            // The text of a TOML string need not stand there as it is: the place is that of the whole rule.
            Err(error) => {
                let message = format!("rule {:?}, column {}: {}", line.text, error.column, error.message);
                errors.push(ConfigError::new(Some(line.origin.clone()), message));
            }
        }
    }
}

fn push_file(list: &mut RuleList, file: &DataFile, context: &Context<'_>, errors: &mut Vec<ConfigError>) {
    let extension = file.path.extension().and_then(|ending| ending.to_str());
    let format = extension.and_then(Format::from_extension).unwrap_or(Format::Text);
    if matches!(format, Format::Mrs | Format::Srs) {
        let message = format!(
            "{:?} has no outbounds in it; define it by [rule-set.NAME] and refer to it by RULE-SET,NAME,OUTBOUND",
            file.path
        );
        return errors.push(ConfigError::new(Some(file.origin.clone()), message));
    }
    let text = match utf8(&file.bytes) {
        Ok(text) => text,
        Err(error) => return errors.push(in_file(&file.path, &error)),
    };
    let wrong = match format {
        Format::Yaml => list.push_yaml(text, context),
        _ => list.push_text(text, context),
    };
    errors.extend(wrong.iter().map(|error| in_file(&file.path, error)));
}

fn in_file(path: &Arc<Path>, error: &ParseError) -> ConfigError {
    let origin = Origin::File { file: Arc::clone(path), line: error.line, column: error.column };
    ConfigError::new(Some(origin), error.message.clone())
}

fn left_out(error: ConfigError) -> ConfigError {
    ConfigError { message: format!("{}; this entry is left out", error.message), ..error }
}

fn position<'a>(mut names: impl Iterator<Item = &'a str>, name: &str) -> Option<u32> {
    names.position(|known| known == name).and_then(|at| u32::try_from(at).ok())
}

fn database<T>(
    file: Option<&DataFile>,
    errors: &mut Vec<ConfigError>,
    read: impl FnOnce(Vec<u8>) -> Result<T, String>,
) -> Option<T> {
    let file = file?;
    match read(file.bytes.to_vec()) {
        Ok(database) => Some(database),
        Err(why) => {
            errors.push(ConfigError::new(Some(file.origin.clone()), format!("{:?}: {why}", file.path)));
            None
        }
    }
}

#[cfg(test)]
mod tests;

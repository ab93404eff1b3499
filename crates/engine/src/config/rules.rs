//! What the configuration says about rules. The files are read here; what they say is understood when the outbounds
//! are known.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oneway_rule::{Behavior, Format, match_in, outbound_of_match};

use super::error::{ConfigError, Origin};
use super::reader::{Each, Reader, Section, Text};
use super::settings::{Located, Settings, beside};

/// Which flow takes which outbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesConfig {
    /// The rules of `rules.list`, in order.
    pub lines: Vec<RuleLine>,
    /// The files of `rules.files`, whose rules follow in this order.
    pub files: Vec<DataFile>,
    /// The lists of `[sub-rules]`, by name.
    pub subs: Vec<(String, Vec<RuleLine>)>,
    /// The rule sets, by name.
    pub sets: Vec<RuleSetConfig>,
    /// The database of `GEOIP`.
    pub geoip: Option<DataFile>,
    /// The database of `IP-ASN`.
    pub asn: Option<DataFile>,
    /// The database of `GEOSITE`.
    pub geosite: Option<DataFile>,
    /// The outbound of flows that no rule matches, or that of the rule that matches all of them; one of
    /// [`Config::outbounds`](super::Config::outbounds).
    pub final_outbound: String,
}

/// One rule, not yet parsed, and where it stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleLine {
    /// The rule's text without surrounding blanks; neither empty nor a comment.
    pub text: String,
    /// Where it stood.
    pub origin: Origin,
}

/// A file that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Where it is.
    pub path: Arc<Path>,
    /// What is in it.
    pub bytes: Arc<[u8]>,
    /// Where it is named.
    pub origin: Origin,
}

impl fmt::Debug for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataFile").field("path", &self.path).field("len", &self.bytes.len()).finish()
    }
}

/// A rule set, not yet parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSetConfig {
    /// Its name, by which rules refer to it.
    pub name: String,
    /// Its file.
    pub file: DataFile,
    /// How the file is written.
    pub format: Format,
    /// What its entries are.
    pub behavior: Behavior,
}

/// What the sections about rules say.
#[derive(Default)]
pub(super) struct RuleSettings {
    pub(super) lines: Vec<RuleLine>,
    pub(super) files: Vec<DataFile>,
    pub(super) subs: Vec<(String, Vec<RuleLine>)>,
    pub(super) sets: Vec<RuleSetConfig>,
    pub(super) geoip: Option<DataFile>,
    pub(super) asn: Option<DataFile>,
    pub(super) geosite: Option<DataFile>,
    /// A database is named that cannot be read.
    pub(super) lacks_database: bool,
}

impl RuleSettings {
    pub(super) fn into_config(self, final_outbound: String) -> RulesConfig {
        let Self { lines, files, subs, sets, geoip, asn, geosite, lacks_database: _ } = self;
        RulesConfig { lines, files, subs, sets, geoip, asn, geosite, final_outbound }
    }

    /// The outbound of the `MATCH` that ends the rules, if one does.
    pub(super) fn matched_by_all(&self) -> Option<String> {
        let line = self.lines.iter().find_map(|rule| outbound_of_match(&rule.text)).map(str::to_owned);
        line.or_else(|| {
            self.files.iter().find_map(|file| {
                let extension = file.path.extension().and_then(|ending| ending.to_str());
                let format = extension.and_then(Format::from_extension).unwrap_or(Format::Text);
                match_in(std::str::from_utf8(&file.bytes).ok()?, format)
            })
        })
    }

    /// Whether any rule may lead to an outbound.
    pub(super) fn mention(&self, outbound: &str) -> bool {
        mention(&self.lines, &self.subs, &self.files, outbound)
    }
}

impl RulesConfig {
    /// Whether any rule may lead to an outbound.
    pub(super) fn mention(&self, outbound: &str) -> bool {
        mention(&self.lines, &self.subs, &self.files, outbound)
    }
}

/// Files are searched for the name as a word.
fn mention(lines: &[RuleLine], subs: &[(String, Vec<RuleLine>)], files: &[DataFile], outbound: &str) -> bool {
    let in_line = |rule: &RuleLine| rule.text.split(',').any(|word| word.trim() == outbound);
    let ends = |byte: &u8| matches!(byte, b',' | b'\n' | b'\r' | b' ' | b'\t' | b'\'' | b'"');
    lines.iter().any(in_line)
        || subs.iter().any(|(_, lines)| lines.iter().any(in_line))
        || files.iter().any(|file| file.bytes.split(|byte| ends(byte)).any(|w| w == outbound.as_bytes()))
}

/// Reads a file that the configuration names.
pub(super) type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// Reads `[rules]`.
pub(super) fn rules(
    mut section: Section<'_, '_>,
    settings: &mut Settings,
    reader: &mut Reader<'_>,
    file: &Path,
    read_file: ReadFile<'_>,
) {
    settings.final_outbound = section.read("final", reader);
    let list: Option<Each<Located<String>>> = section.read("list", reader);
    settings.rules.lines = lines(list);
    let files: Option<Each<Located<String>>> = section.read("files", reader);
    for name in files.into_iter().flat_map(|files| files.0) {
        settings.rules.files.extend(data_file("rules.files", name, reader, file, read_file));
    }
    let mut lacks_database = false;
    let mut database = |key: &'static str, what: &str, reader: &mut Reader<'_>| {
        section.raw(key)?;
        let name: Option<Located<String>> = section.read(key, reader);
        let read = name.and_then(|name| data_file(what, name, reader, file, read_file));
        lacks_database |= read.is_none();
        read
    };
    settings.rules.geoip = database("geoip", "rules.geoip", reader);
    settings.rules.asn = database("asn", "rules.asn", reader);
    settings.rules.geosite = database("geosite", "rules.geosite", reader);
    settings.rules.lacks_database = lacks_database;
    section.finish(reader);
}

/// Reads `[rule-set.NAME]`.
pub(super) fn rule_sets(
    section: &Section<'_, '_>,
    reader: &mut Reader<'_>,
    file: &Path,
    read_file: ReadFile<'_>,
) -> Vec<RuleSetConfig> {
    let mut sets = Vec::new();
    for (name, span, mut section) in section.each(reader) {
        if !is_name(&name) {
            reader.error(
                &span,
                format!("{name:?} is no name for a rule set; rules need it without commas and blanks"),
            );
            continue;
        }
        let file = one_rule_set(&mut section, &span, reader, file, read_file);
        section.finish(reader);
        sets.push(match file {
            Some((file, format, behavior)) => RuleSetConfig { name, file, format, behavior },
            // Whoever refers to one that is wrong is not wrong for that.
            None => {
                let nothing = DataFile {
                    path: Path::new("").into(),
                    bytes: Arc::default(),
                    origin: reader.origin(&span),
                };
                RuleSetConfig { name, file: nothing, format: Format::Text, behavior: Behavior::Classical }
            }
        });
    }
    sets
}

/// The file of a rule set, and what is in it.
fn one_rule_set(
    section: &mut Section<'_, '_>,
    span: &Range<usize>,
    reader: &mut Reader<'_>,
    file: &Path,
    read_file: ReadFile<'_>,
) -> Option<(DataFile, Format, Behavior)> {
    if section.raw("path").is_none() {
        reader.error(span, format!("[{}] has no `path`; add the path of its file", section.name()));
    }
    let title = section.name().to_owned();
    let path: Option<Located<String>> = section.read("path", reader);
    let format = section.read::<Text<Word<Format>>>("format", reader).map(|word| word.0.0);
    let behavior = section.read::<Text<Word<Behavior>>>("behavior", reader).map(|word| word.0.0);
    let path = path?;
    let extension = Path::new(&path.value).extension().and_then(|ending| ending.to_str());
    let Some(format) = format.or_else(|| extension.and_then(Format::from_extension)) else {
        let message = format!(
            "{title}.path: the ending of {:?} does not say how it is written; add format = \"text\", \"yaml\", \"mrs\" \
             or \"srs\"",
            path.value
        );
        reader.errors.push(ConfigError::new(Some(path.origin), message));
        return None;
    };
    let behavior = behavior.unwrap_or(Behavior::Classical);
    let file = data_file(&format!("{title}.path"), path, reader, file, read_file)?;
    Some((file, format, behavior))
}

/// Reads `[sub-rules]`: lists of rules by name.
pub(super) fn sub_rules(section: &Section<'_, '_>, reader: &mut Reader<'_>) -> Vec<(String, Vec<RuleLine>)> {
    let mut subs = Vec::new();
    for (name, span, list) in section.lists::<Each<Located<String>>>(reader) {
        if is_name(&name) {
            subs.push((name, lines(list)));
        } else {
            reader.error(
                &span,
                format!("{name:?} is no name for sub-rules; rules need it without commas and blanks"),
            );
        }
    }
    subs
}

/// Whether rules can refer to something by this name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == ',' || c.is_whitespace() || c.is_control())
}

fn lines(list: Option<Each<Located<String>>>) -> Vec<RuleLine> {
    let list = list.map(|list| list.0).unwrap_or_default();
    let trimmed =
        list.into_iter().map(|Located { value, origin }| RuleLine { text: value.trim().to_owned(), origin });
    trimmed.filter(|line| !line.text.is_empty() && !line.text.starts_with('#')).collect()
}

fn data_file(
    key: &str,
    name: Located<String>,
    reader: &mut Reader<'_>,
    file: &Path,
    read_file: ReadFile<'_>,
) -> Option<DataFile> {
    let path: PathBuf = beside(file, &name.value);
    match read_file(&path) {
        Ok(bytes) => Some(DataFile { path: path.into(), bytes: bytes.into(), origin: name.origin }),
        Err(e) => {
            let message = format!("{key}: cannot read {path:?}: {e}; check the path and its permissions");
            reader.errors.push(ConfigError::new(Some(name.origin), message));
            None
        }
    }
}

/// A word of the rule crate, whose error lists the words that there are.
struct Word<T>(T);

impl<T: std::str::FromStr<Err = oneway_rule::UnknownWord>> std::str::FromStr for Word<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|known| format!("{text:?} is not known; use {known}"))
    }
}

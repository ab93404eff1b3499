//! YAML as a tree, with the line of each part. Aliases are unfolded, and merge keys (`<<`), which configurations of
//! Clash are fond of.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Marker, Parser, StrInput};

/// How deep lists and tables may nest: reading recurses.
const MAX_DEPTH: usize = 64;

/// Parts of one document, those that aliases repeat included.
const MAX_NODES: usize = 2_000_000;

/// A part of a document.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) value: Value,
    /// How many parts it has, itself included.
    size: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    List(Vec<Node>),
    Table(Vec<(String, Node)>),
}

/// Where the document is broken, and how.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) line: usize,
    pub(super) column: usize,
    pub(super) message: String,
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// The entries of a list; none of anything else.
    pub(super) fn list(&self) -> &[Self] {
        if let Value::List(list) = &self.value { list } else { &[] }
    }

    /// The entries of a table; none of anything else.
    pub(super) fn table(&self) -> &[(String, Self)] {
        if let Value::Table(table) = &self.value { table } else { &[] }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.table().iter().find(|(known, _)| known == key).map(|(_, node)| node)
    }

    /// The text under a key.
    pub(super) fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// Whether a key is set to true.
    pub(super) fn is(&self, key: &str) -> bool {
        self.get(key).is_some_and(Self::is_true)
    }

    pub(super) fn is_true(&self) -> bool {
        self.text().is_some_and(|text| text.eq_ignore_ascii_case("true"))
    }

    pub(super) fn is_false(&self) -> bool {
        self.text().is_some_and(|text| text.eq_ignore_ascii_case("false"))
    }

    /// Whether it asks for nothing: it has no value, is false, or a table that is not enabled.
    pub(super) fn is_off(&self) -> bool {
        let disabled = |key: &&str| self.get(key).is_some_and(Self::is_false);
        self.is_nothing() || self.is_false() || ["enable", "enabled"].iter().any(disabled)
    }

    /// The first of these keys that asks for something.
    pub(super) fn first_of<'a>(&self, keys: &[&'a str]) -> Option<&'a str> {
        keys.iter().copied().find(|key| self.get(key).is_some_and(|value| !value.is_off()))
    }

    /// Whether it is what stands for no value, or empty.
    pub(super) fn is_nothing(&self) -> bool {
        match &self.value {
            Value::Text(text) => matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"),
            Value::List(list) => list.is_empty(),
            Value::Table(table) => table.is_empty(),
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

/// Reads the first document of a text.
pub(super) fn parse(text: &str) -> Result<Node, Broken> {
    let parser = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut reader = Reader { parser, anchors: HashMap::new(), nodes: 0 };
    loop {
        match reader.next()? {
            (Event::Nothing | Event::StreamStart | Event::DocumentStart(_), _) => {}
            (Event::StreamEnd | Event::DocumentEnd, mark) => return Err(broken(&mark, "the file is empty")),
            (event, mark) => return reader.node(event, mark, 0),
        }
    }
}

fn broken(mark: &Marker, message: impl Into<String>) -> Broken {
    Broken { line: mark.line(), column: mark.col() + 1, message: message.into() }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Marker), Broken> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start)),
            Some(Err(error)) => Err(broken(error.marker(), format!("this is no YAML: {}", error.info()))),
            None => Ok((Event::StreamEnd, Marker::new(0, 1, 0))),
        }
    }

    fn node(&mut self, event: Event<'a>, mark: Marker, depth: usize) -> Result<Node, Broken> {
        if depth > MAX_DEPTH {
            return Err(broken(&mark, format!("lists and tables nest more than {MAX_DEPTH} deep")));
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| broken(&mark, "this alias stands inside what it repeats"))?;
                self.count(node.size, &mark)?;
                return Ok(node);
            }
            Event::Scalar(text, _, anchor, _) => (anchor, Value::Text(text.into_owned())),
            Event::SequenceStart(anchor, _) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, mark) => list.push(self.node(event, mark, depth + 1)?),
                    }
                }
                (anchor, Value::List(list))
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Table(self.table(depth)?)),
            _ => return Err(broken(&mark, "the document ends too early")),
        };
        self.count(1, &mark)?;
        let inner: usize = match &value {
            Value::Text(_) => 0,
            Value::List(list) => list.iter().map(|node| node.size).sum(),
            Value::Table(table) => table.iter().map(|(_, node)| node.size).sum(),
        };
        let node = Node { line: mark.line(), value, size: 1 + inner };
        if anchor != 0 {
            // A copy, which counts like the original.
            self.count(node.size, &mark)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn table(&mut self, depth: usize) -> Result<Vec<(String, Node)>, Broken> {
        let mut table: Vec<(String, Node)> = Vec::new();
        let mut merged = Vec::new();
        let mut known = HashSet::new();
        loop {
            let (event, mark) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, mark, depth + 1)?;
            let Value::Text(key) = key.value else { return Err(broken(&mark, "a key is a text")) };
            // YAML 1.2.2, 3.2.1.3. Which one was meant nobody knows.
            if key != "<<" && !known.insert(key.clone()) {
                return Err(broken(&mark, format!("the key {key:?} is there already")));
            }
            let (event, mark) = self.next()?;
            let value = self.node(event, mark, depth + 1)?;
            match (key.as_str(), value.value) {
                ("<<", Value::Table(entries)) => merged.extend(entries),
                ("<<", Value::List(tables)) => {
                    merged.extend(tables.iter().flat_map(|table| table.table().iter().cloned()));
                }
                (_, inner) => table.push((key, Node { value: inner, ..value })),
            }
        }
        // What is said here wins over what is merged.
        for (key, node) in merged {
            if known.insert(key.clone()) {
                table.push((key, node));
            }
        }
        Ok(table)
    }

    fn count(&mut self, nodes: usize, mark: &Marker) -> Result<(), Broken> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(broken(mark, format!("the document has more than {MAX_NODES} parts")));
        }
        Ok(())
    }
}

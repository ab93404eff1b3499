//! A rule's parts, each with the place where it stands.

use crate::error::Wrong;

/// A part of a rule, trimmed, and the byte of the line where it begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
}

impl<'a> Field<'a> {
    /// Trims `text`, which begins at byte `at`.
    pub(crate) fn new(text: &'a str, at: usize) -> Self {
        let from = text.trim_start();
        Self { text: from.trim_end(), at: at + text.len() - from.len() }
    }

    pub(crate) fn wrong(self, message: impl Into<String>) -> Wrong {
        Wrong::new(self.at, message)
    }

    /// What stands where this ends: nothing.
    pub(crate) fn end(self) -> Self {
        Field { text: "", at: self.at + self.text.len() }
    }

    /// The part before the first comma, and that behind it.
    pub(crate) fn split_first(self) -> (Self, Option<Self>) {
        self.cut(self.text.find(','))
    }

    /// The part before the last comma, and that behind it.
    pub(crate) fn split_last(self) -> (Self, Option<Self>) {
        self.cut(self.text.rfind(','))
    }

    fn cut(self, comma: Option<usize>) -> (Self, Option<Self>) {
        match comma.and_then(|comma| Some((self.text.get(..comma)?, self.text.get(comma + 1..)?))) {
            Some((left, right)) => {
                (Field::new(left, self.at), Some(Field::new(right, self.at + left.len() + 1)))
            }
            None => (self, None),
        }
    }

    /// What is inside the brackets that this begins and ends with.
    pub(crate) fn unwrap_brackets(self) -> Option<Self> {
        let inner = self.text.strip_prefix('(')?.strip_suffix(')')?;
        Some(Field::new(inner, self.at + 1))
    }

    /// The parts between the commas that are not inside brackets.
    pub(crate) fn split_outside_brackets(self) -> Result<Vec<Self>, Wrong> {
        let mut parts = Vec::new();
        let (mut depth, mut from) = (0usize, 0);
        for (at, byte) in self.text.bytes().enumerate() {
            match byte {
                b'(' => depth += 1,
                b')' if depth == 0 => {
                    return Err(Wrong::new(self.at + at, "this ) has no ("));
                }
                b')' => depth -= 1,
                b',' if depth == 0 => {
                    parts.push(Field::new(self.text.get(from..at).unwrap_or_default(), self.at + from));
                    from = at + 1;
                }
                _ => {}
            }
        }
        if depth > 0 {
            return Err(self.end().wrong("a ) is missing here"));
        }
        parts.push(Field::new(self.text.get(from..).unwrap_or_default(), self.at + from));
        Ok(parts)
    }
}

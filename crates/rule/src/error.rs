//! What is wrong with rules, and where.

/// Where in a text something is wrong, and what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {line}, column {column}: {message}")]
pub struct ParseError {
    /// The line of a file, or the position in a list, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is expected; one line.
    pub message: String,
}

/// What is wrong with a binary file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BinaryError(pub(crate) String);

impl BinaryError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// What is wrong in one line, and at which of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) at: usize,
    pub(crate) message: String,
    /// It is understood, and no flow could match it.
    pub(crate) never: bool,
}

impl Wrong {
    pub(crate) fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), never: false }
    }

    /// In the words of a user, who counts characters. `before` stands between the line's beginning and `text`.
    pub(crate) fn place(self, line: usize, before: usize, text: &str) -> ParseError {
        let lead = text.char_indices().take_while(|(at, _)| *at < self.at).count();
        ParseError { line, column: before + lead + 1, message: self.message }
    }
}

//! How programs are named that are not to be captured.

use std::fmt;
use std::str::FromStr;

use super::value::InvalidValue;

/// A program, by the name of its file or by its whole path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramName(String);

impl ProgramName {
    /// The name, or the path if it begins with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a program is meant that has this name and runs the file of this path.
    pub fn fits(&self, name: &str, path: &str) -> bool {
        if self.0.starts_with('/') { self.0 == path } else { self.0.eq_ignore_ascii_case(name) }
    }

    /// The rule that takes its flows past every proxy.
    pub(crate) fn rule(&self) -> String {
        let kind = if self.0.starts_with('/') { "PROCESS-PATH" } else { "PROCESS-NAME" };
        format!("{kind},{},{}", self.0, super::DIRECT)
    }
}

impl fmt::Display for ProgramName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ProgramName {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        // A comma ends a part of a rule, and a file may have that in its name; nobody's program does.
        let odd = |c: char| c.is_control() || c == ',';
        let relative = !text.starts_with('/') && text.contains('/');
        if text.trim() != text || text.is_empty() || text.contains(odd) || relative || text.ends_with('/') {
            return Err(InvalidValue(format!(
                "{text:?} is no program; give the name of its file, or the whole path, as `readlink /proc/PID/exe` prints it"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The path of a control group: in the file system, or below the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The path as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CgroupPath {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parts = || text.split('/').filter(|part| !part.is_empty());
        if text.contains('\0') || parts().next().is_none() || parts().any(|part| part == "..") {
            return Err(InvalidValue(format!(
                "{text:?} is no control group; give its path, as `cat /proc/PID/cgroup` shows it behind `0::`"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

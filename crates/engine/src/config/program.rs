//! How programs are named that are not to be captured.

use std::fmt;
use std::str::FromStr;

use oneway_flow::Process;

use super::value::InvalidValue;

/// A program, by the name of its file or by its whole path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramName(String);

impl ProgramName {
    /// The name, or the path if it begins with `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a program is meant that runs this file, or whose process the system calls so: of a script that is its own
    /// name, and of what was started by a link the link's.
    pub(crate) fn fits(&self, process: Option<&Process>, comm: Option<&str>) -> bool {
        if self.0.starts_with('/') {
            return process.is_some_and(|process| *process.path == *self.0);
        }
        // The system keeps 15 bytes of it (TASK_COMM_LEN).
        let short = comm.is_some_and(|comm| comm == self.0 || comm.len() == 15 && self.0.starts_with(comm));
        short || process.is_some_and(|process| process.name.eq_ignore_ascii_case(&self.0))
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
        let odd = |c: char| c.is_control();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_file_its_path_and_its_process() {
        let python = Process { name: "python3.11".into(), path: "/usr/bin/python3.11".into() };
        let fits = |name: &str, comm| name.parse::<ProgramName>().unwrap().fits(Some(&python), comm);
        for name in
            ["python3.11", "PYTHON3.11", "/usr/bin/python3.11", "proxy", "a-very-long-name-of-a-script"]
        {
            let comm = if name.starts_with("a-") { "a-very-long-nam" } else { "proxy" };
            assert!(fits(name, Some(comm)), "{name}");
        }
        for name in ["python", "/usr/bin/python3", "/proxy", "prox"] {
            assert!(!fits(name, Some("proxy")), "{name}");
        }
        assert!(!"proxy".parse::<ProgramName>().unwrap().fits(None, None));
    }
}

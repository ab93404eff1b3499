//! What files of `/proc` say of a process (`proc_pid(5)`). Names in them are whatever a program has called itself: bytes that
//! need not be text.

use std::sync::Arc;

use super::Process;

/// `/proc/PID/comm`
pub(super) fn comm(file: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(file).trim_end().into()
}

/// The parent: field 4 of `/proc/PID/stat`, behind the name in parentheses, which may have parentheses in it.
pub(super) fn parent(file: &[u8]) -> Option<u32> {
    let end = file.iter().rposition(|byte| *byte == b')')?;
    let behind = std::str::from_utf8(file.get(end + 1..)?).ok()?;
    behind.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The control group of version 2 in `/proc/PID/cgroup`, whose line has no controllers: `0::/user.slice` (cgroups(7)).
pub(super) fn cgroup(file: &[u8]) -> Option<String> {
    let line = file.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(String::from_utf8_lossy(line).into_owned())
}

/// What `/proc/PID/exe` leads to.
pub(super) fn program(link: &str) -> Process {
    // Of a file that was replaced since, as an update does.
    let path = link.strip_suffix(" (deleted)").unwrap_or(link);
    let name = path.rsplit('/').next().unwrap_or(path);
    Process { name: name.into(), path: path.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_call_itself_anything() {
        assert_eq!(&*comm(b"a\xffb\n"), "a\u{fffd}b");
        assert_eq!(parent(b"17 (a\xff) S 9 (b) R 5 17 17 0"), Some(5));
        assert_eq!(parent(b"17 (sh) S 12 17 17 0\n"), Some(12));
        for torn in [&b"17 (sh"[..], b"17 (sh)", b"17 (sh) S", b"17 (sh) S x", b""] {
            assert_eq!(parent(torn), None);
        }
        assert_eq!(cgroup(b"12:cpu:/a\n0::/b\xff c\n").as_deref(), Some("/b\u{fffd} c"));
        assert_eq!(cgroup(b"12:cpu:/a\n"), None);
        let deleted = program("/usr/bin/x (deleted)");
        assert_eq!((&*deleted.name, &*deleted.path), ("x", "/usr/bin/x"));
    }
}

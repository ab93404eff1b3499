//! How much memory there is for this process.

use std::path::Path;

/// Bytes that the machine has, or fewer where a control group around this process has a limit (`memory.max`,
/// Documentation/admin-guide/cgroup-v2.rst). None if neither is told.
pub(super) fn memory() -> Option<u64> {
    memory_below(Path::new("/"))
}

fn memory_below(root: &Path) -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(&root.join("proc/meminfo")).and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    let groups = root.join("sys/fs/cgroup");
    let own = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    // Where there is no limit it says `max`.
    let limit = |group: &Path| read(&groups.join(group).join("memory.max"))?.trim().parse().ok();
    Path::new(own).ancestors().filter_map(limit).chain(machine).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let memory = || memory_below(root.path());
        assert_eq!(memory(), None);
        write("proc/meminfo", "MemTotal:        2000 kB\nMemFree:         1000 kB\n");
        assert_eq!(memory(), Some(2_048_000));
        write("proc/self/cgroup", "1:name=other:/a\n0::/system.slice/one.service\n");
        write("sys/fs/cgroup/system.slice/one.service/memory.max", "max\n");
        assert_eq!(memory(), Some(2_048_000));
        write("sys/fs/cgroup/system.slice/memory.max", "70000\n");
        assert_eq!(memory(), Some(70_000));
        // As seen inside a namespace of control groups.
        write("proc/self/cgroup", "0::/\n");
        write("sys/fs/cgroup/memory.max", "60000\n");
        assert_eq!(memory(), Some(60_000));
    }

    #[test]
    fn this_machine_tells() {
        assert!(super::memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}

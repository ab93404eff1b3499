//! The sysctls of a namespace.

use std::fs;
use std::path::Path;

use crate::error::LabError;
use crate::ns::NetNs;

/// Made by the kernel when first needed.
const WITHOUT: &[&str] = &["ipv4/tcp_fastopen_key", "ipv4/tcp_available_congestion_control"];

/// Every readable sysctl below `net/ipv4` and `net/ipv6`, sorted, as `key = value`.
pub(super) fn all(namespace: &NetNs) -> Result<Vec<String>, LabError> {
    namespace.run(|| {
        let mut found = Vec::new();
        let root = Path::new("/proc/sys/net");
        for family in ["ipv4", "ipv6"] {
            walk(root, &root.join(family), &mut found);
        }
        found.sort();
        found
    })
}

/// What cannot be read, because it can only be written for example, is no configuration.
fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(root, &path, found);
            continue;
        }
        let key = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if WITHOUT.contains(&key.as_str()) {
            continue;
        }
        if let Ok(text) = fs::read_to_string(&path) {
            found.push(format!("{key} = {}", text.trim_end()));
        }
    }
}

//! What fuzz targets reach of what the system says of sockets and processes.

use super::{diag, text};

/// An answer of the kernel's table of sockets.
pub fn sockets(datagram: &[u8]) {
    let _ = diag::one(datagram);
    let mut found = Vec::new();
    let _ = diag::list(datagram, 53, &mut found);
    assert!(found.iter().all(|(at, ..)| at.port() == 53));
}

/// Any of the files of `/proc` that are read of a process.
pub fn files(file: &[u8]) {
    let _ = (text::comm(file), text::parent(file));
    let group = text::cgroup(file);
    assert!(group.is_none_or(|group| !group.contains('\n')));
    let link = String::from_utf8_lossy(file);
    let program = text::program(&link);
    assert!(program.path.ends_with(&*program.name) && !program.name.contains('/'));
}

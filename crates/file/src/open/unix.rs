//! Where there are devices, FIFOs and descriptors among the files.

use std::ffi::OsStr;
use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::{Opened, no_file};

/// Folders of the descriptors of the process that looks.
const DESCRIPTORS: [&str; 3] = ["/dev/fd", "/proc/self/fd", "/proc/thread-self/fd"];

pub(crate) fn file(path: &Path) -> io::Result<Opened> {
    check(&fs::metadata(path)?)?;
    let file = open(path)?;
    // Between the two another may have come in its place.
    check(&file.metadata()?)?;
    Ok(Opened { file, pipe: false })
}

pub(crate) fn named(path: &Path) -> io::Result<Opened> {
    if !is_descriptor(path) {
        return file(path);
    }
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(no_file("a directory"));
    }
    let file = open(path)?;
    // It was opened so that a FIFO without a writer is not waited for; a writer is.
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(Opened { file, pipe: found.file_type().is_fifo() })
}

fn is_descriptor(path: &Path) -> bool {
    let number = |name: &OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    path == Path::new("/dev/stdin")
        || path.file_name().is_some_and(number)
            && path.parent().is_some_and(|folder| DESCRIPTORS.iter().any(|one| folder == Path::new(one)))
}

/// To open a FIFO waits for a writer unless it is told not to, and a terminal that is opened may become ours.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

fn check(found: &Metadata) -> io::Result<()> {
    if found.is_file() || is_null(found) { Ok(()) } else { Err(no_file(name(found.file_type()))) }
}

/// The one device that users, and programs that take a file away, mean as an empty file.
fn is_null(found: &Metadata) -> bool {
    found.file_type().is_char_device()
        && fs::metadata("/dev/null")
            .is_ok_and(|null| (null.mode(), null.rdev()) == (found.mode(), found.rdev()))
}

fn name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

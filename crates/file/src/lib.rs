//! Reading files whose names a user wrote, or that others may have put in their places.
//!
//! [`fs::read`](std::fs::read) of a device never ends, that of a FIFO waits for whoever may write into it one day, and a
//! file may be larger than memory. All that this program reads whole goes by the functions here: there is a limit on
//! what is read, and what is no file is refused before it is opened, since to open some devices already does something.
#![forbid(unsafe_code)]

#[cfg(not(unix))]
#[path = "open/portable.rs"]
mod open;
#[cfg(unix)]
#[path = "open/unix.rs"]
mod open;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How much is read of each kind of file, in bytes. What is longer is refused as a whole: half of a configuration is
/// another configuration.
pub mod limit {
    const MIB: u64 = 1 << 20;

    /// A configuration, ours or another program's. Lists of rules within it may be long; longer ones are files of their own.
    pub const CONFIGURATION: u64 = 64 * MIB;
    /// Rules, rule sets, databases. The largest in use, of cities, have 100 MiB.
    pub const DATA: u64 = 256 * MIB;
    /// Certificates of authorities. Those of a whole system have a quarter of a MiB.
    pub const CERTIFICATES: u64 = 16 * MIB;
    /// `hosts`. Lists of a million names that are blocked have 30 MiB.
    pub const HOSTS: u64 = 64 * MIB;
    /// Other settings of the system, such as `resolv.conf`; one of ours has in it what was there before.
    pub const SYSTEM: u64 = MIB;
    /// What this program has written itself: the journal, selections.
    pub const OWN: u64 = 16 * MIB;
    /// A file of `/proc`. A host of ten thousand containers has a list of mounts of some MiB.
    pub const PROC: u64 = 16 * MIB;
}

/// Reads a file of the system's or of our own, and no more than `most` bytes.
///
/// # Errors
/// It cannot be opened or read, is no file (`InvalidInput`), or is longer (`FileTooLarge`). The text says what it is.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_whole(open::file(path)?, most)
}

/// [`read`] as a text.
///
/// # Errors
/// As [`read`], and `InvalidData` if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    text(read(path, most)?)
}

/// Reads what a user names: besides a file one of this process's own descriptors, as a shell gives them for
/// `<(command)` and `/dev/stdin` is one. Whatever writes into that is waited for, as the user who has started it expects.
///
/// # Errors
/// As [`read`]. An empty pipe is an error, too (`UnexpectedEof`): a command that has failed, or a second look into what was
/// read before, must not count as an empty file.
pub fn read_named(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_whole(open::named(path)?, most)
}

/// [`read_named`] as a text.
///
/// # Errors
/// As [`read_named`], and `InvalidData` if it is not UTF-8.
pub fn read_named_text(path: &Path, most: u64) -> io::Result<String> {
    text(read_named(path, most)?)
}

/// Whether [`read`] would read a file, without doing so.
///
/// # Errors
/// As [`read`].
pub fn check(path: &Path, most: u64) -> io::Result<()> {
    let file = open::file(path)?.file;
    if file.metadata()?.len() > most { Err(too_long(most)) } else { Ok(()) }
}

/// Opens a file of the system's or of our own for reading; never waits for it, and never opens what is none.
///
/// # Errors
/// It cannot be opened, or is no file (`InvalidInput`).
pub fn open(path: &Path) -> io::Result<File> {
    Ok(open::file(path)?.file)
}

/// What was opened.
struct Opened {
    file: File,
    /// Whether it is a pipe, which can be read once.
    pipe: bool,
}

fn read_whole(Opened { file, pipe }: Opened, most: u64) -> io::Result<Vec<u8>> {
    // Files of /proc say that they have no bytes.
    let said = file.metadata()?.len();
    if said > most {
        return Err(too_long(most));
    }
    let mut bytes = Vec::with_capacity(said as usize);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(too_long(most));
    }
    if pipe && bytes.is_empty() {
        let why =
            "nothing came by the pipe: the command that writes into it has failed, or it was read before";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    Ok(bytes)
}

fn too_long(most: u64) -> io::Error {
    let text = match (most >> 20, most & ((1 << 20) - 1)) {
        (mib, 0) => format!("{mib} MiB"),
        _ => format!("{most} bytes"),
    };
    io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {text}, which is the limit"))
}

fn no_file(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {what} and no file"))
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let right = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + right.filter(|byte| **byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("it is no text (UTF-8): line {line} is wrong"))
    })
}

#[cfg(test)]
mod tests;

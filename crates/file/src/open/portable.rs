//! Systems whose devices have names that no file has, and that give programs no descriptors by name.

use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;

use crate::{Opened, no_file};

pub(crate) fn file(path: &Path) -> io::Result<Opened> {
    check(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    check(&file.metadata()?)?;
    Ok(Opened { file, pipe: false })
}

pub(crate) fn named(path: &Path) -> io::Result<Opened> {
    file(path)
}

fn check(found: &Metadata) -> io::Result<()> {
    match (found.is_file(), found.is_dir()) {
        (true, _) => Ok(()),
        (_, true) => Err(no_file("a directory")),
        _ => Err(no_file("a device")),
    }
}

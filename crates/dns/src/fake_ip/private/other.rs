//! Files in a folder that is the user's own.

use std::fs::File;
use std::io;
use std::path::Path;

/// A new file, for writing.
pub(super) fn create(path: &Path) -> io::Result<File> {
    File::create_new(path)
}

#![allow(clippy::disallowed_methods, reason = "the file that the test has made itself")]

use std::fs;
use std::io::ErrorKind;

use super::*;

fn refused(path: &Path, kind: ErrorKind, text: &str) {
    for error in [read(path, 8), read_named(path, 8), check(path, 8).map(|()| Vec::new())] {
        let error = error.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, text), "{path:?}");
    }
}

#[test]
fn the_limit_is_read_and_one_byte_more_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, "12345678").unwrap();
    assert_eq!(read_text(&path, 8).unwrap(), "12345678");
    assert_eq!(read_named_text(&path, 8).unwrap(), "12345678");
    check(&path, 8).unwrap();
    fs::write(&path, "123456789").unwrap();
    refused(&path, ErrorKind::FileTooLarge, "it has more than 8 bytes, which is the limit");
    // What has no bytes on the disk would have them in memory.
    fs::File::create(&path).unwrap().set_len(1 << 42).unwrap();
    refused(&path, ErrorKind::FileTooLarge, "it has more than 8 bytes, which is the limit");
    let error = read(&path, limit::DATA).unwrap_err();
    assert_eq!(error.to_string(), "it has more than 256 MiB, which is the limit");
}

#[test]
fn what_is_no_text_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    fs::write(&path, b"a\nb\xff").unwrap();
    let error = read_text(&path, 8).unwrap_err();
    assert_eq!(error.to_string(), "it is no text (UTF-8): line 2 is wrong");
}

#[test]
fn a_directory_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    refused(folder.path(), ErrorKind::InvalidInput, "it is a directory and no file");
}

#[cfg(unix)]
mod unix;

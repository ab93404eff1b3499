//! The file that survives a restart: a record for each name that got a slot, appended when it did.
//!
//! ```text
//! record = length of the body, 2 bytes │ CRC-32 of the body, 4 bytes │ body = slot, 4 bytes │ name
//! ```
//!
//! All numbers are little-endian. The first record has no slot ([`HEAD`]) and says which pools the slots are of. A record
//! that is cut off at the end is what a crash leaves behind, and is left out; anything else that does not fit means that
//! somebody else wrote here.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(unix)]
#[path = "private/unix.rs"]
mod private;
#[cfg(not(unix))]
#[path = "private/other.rs"]
mod private;

/// In the place of the slot: this record is about the file.
const HEAD: u32 = u32::MAX;
const VERSION: &str = "oneway fake-ip 1";
const FRAME: usize = 6;
const SLOT: usize = 4;
/// No file of ours is larger: names are rewritten long before.
const MOST: u64 = 256 << 20;
/// A file with fewer records than that is not worth rewriting.
const LEAST_REWRITTEN: usize = 1024;

/// Why the names of before could not be read or new ones not kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the fake addresses in {}: {source}; they will change with the next restart", path.display())]
pub struct StoreError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// What was in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// These names, or none of the present pools.
    Names(Vec<(u32, Arc<str>)>),
    /// Something that we did not write; it has been set aside there.
    Corrupt(PathBuf),
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    pools: String,
    file: File,
    records: usize,
}

impl Store {
    /// Reads the file, and starts a new one with what was in it. `pools` says which addresses the slots stand for: names
    /// of other pools are forgotten.
    pub(super) fn open(path: &Path, pools: &str) -> Result<(Self, Found), StoreError> {
        let fail = |what| move |source| StoreError { what, path: path.to_owned(), source };
        let found = match read(path).map_err(fail("read"))? {
            None => Found::Names(Vec::new()),
            Some(bytes) => match parse(&bytes, pools) {
                Some(names) => Found::Names(names),
                None => {
                    let aside = path.with_extension("fake-ip.corrupt");
                    fs::rename(path, &aside).map_err(fail("set aside"))?;
                    Found::Corrupt(aside)
                }
            },
        };
        let names: &[_] = match &found {
            Found::Names(names) => names,
            Found::Corrupt(_) => &[],
        };
        let file = write_anew(path, pools, names).map_err(fail("write"))?;
        let store = Self { path: path.to_owned(), pools: pools.to_owned(), file, records: names.len() };
        Ok((store, found))
    }

    /// Keeps a name's slot.
    pub(super) fn append(&mut self, slot: u32, name: &str) -> Result<(), StoreError> {
        let mut record = Vec::with_capacity(FRAME + SLOT + name.len());
        push(&mut record, slot, name);
        self.records += 1;
        // One call: a crash of this program leaves all of it or nothing.
        self.file.write_all(&record).map_err(|source| self.fail("add to", source))
    }

    /// Whether the file has grown to more than twice of what is in use.
    pub(super) fn is_due(&self, live: usize) -> bool {
        self.records >= 2 * live.max(LEAST_REWRITTEN)
    }

    /// Replaces the file by one with only these names.
    pub(super) fn rewrite(&mut self, names: &[(u32, Arc<str>)]) -> Result<(), StoreError> {
        self.file =
            write_anew(&self.path, &self.pools, names).map_err(|source| self.fail("rewrite", source))?;
        self.records = names.len();
        Ok(())
    }

    fn fail(&self, what: &'static str, source: io::Error) -> StoreError {
        StoreError { what, path: self.path.clone(), source }
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match oneway_file::read(path, MOST) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            // It is not one of ours: as little as an empty one.
            io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => Ok(Some(Vec::new())),
            _ => Err(error),
        },
    }
}

fn write_anew(path: &Path, pools: &str, names: &[(u32, Arc<str>)]) -> io::Result<File> {
    let beside = path.with_extension("fake-ip.new");
    let mut bytes = Vec::new();
    push(&mut bytes, HEAD, &format!("{VERSION} {pools}"));
    for (slot, name) in names {
        push(&mut bytes, *slot, name);
    }
    // What a crash has left, or another has put there: it is neither followed nor waited for.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = private::create(&beside)?;
    file.write_all(&bytes)?;
    // The new name must not come to the disk before what it names.
    file.sync_data()?;
    fs::rename(&beside, path)?;
    Ok(file)
}

fn push(out: &mut Vec<u8>, slot: u32, name: &str) {
    let name = name.as_bytes();
    // Names have 255 bytes at most.
    let Ok(len) = u16::try_from(SLOT + name.len()) else { return };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&slot.to_le_bytes());
    crc.update(name);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&slot.to_le_bytes());
    out.extend_from_slice(name);
}

/// The names in a file; none if it is not ours.
fn parse(bytes: &[u8], pools: &str) -> Option<Vec<(u32, Arc<str>)>> {
    let (HEAD, head, mut rest) = next(bytes).ok()? else { return None };
    let theirs = head.strip_prefix(VERSION)?;
    let mut names = Vec::new();
    while !rest.is_empty() {
        match next(rest) {
            Ok((HEAD, ..)) => return None,
            Ok((slot, name, after)) => {
                names.push((slot, Arc::from(name)));
                rest = after;
            }
            Err(Broken::CutOff) => break,
            Err(Broken::Wrong) => return None,
        }
    }
    if theirs.trim_start() != pools {
        names.clear();
    }
    Some(names)
}

enum Broken {
    CutOff,
    Wrong,
}

/// The first record's slot and name, and what follows it.
fn next(bytes: &[u8]) -> Result<(u32, &str, &[u8]), Broken> {
    let ([l0, l1, c0, c1, c2, c3], rest) = bytes.split_first_chunk::<FRAME>().ok_or(Broken::CutOff)?;
    let len = usize::from(u16::from_le_bytes([*l0, *l1]));
    if !(SLOT..=SLOT + 255).contains(&len) {
        return Err(Broken::Wrong);
    }
    let (body, rest) = rest.split_at_checked(len).ok_or(Broken::CutOff)?;
    if crc32fast::hash(body) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
        return Err(Broken::Wrong);
    }
    let (slot, name) = body.split_first_chunk::<SLOT>().ok_or(Broken::Wrong)?;
    let name = std::str::from_utf8(name).map_err(|_| Broken::Wrong)?;
    Ok((u32::from_le_bytes(*slot), name, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOLS: &str = "198.18.0.0/15 fc00:18::/64";

    fn names(found: Found) -> Vec<(u32, String)> {
        match found {
            Found::Names(names) => names.into_iter().map(|(slot, name)| (slot, name.to_string())).collect(),
            Found::Corrupt(path) => panic!("corrupt: {}", path.display()),
        }
    }

    fn filled(path: &Path, count: u32) -> Vec<(u32, String)> {
        let (mut store, found) = Store::open(path, POOLS).unwrap();
        assert!(names(found).is_empty());
        let all: Vec<_> = (0..count).map(|n| (n, format!("{n}.example"))).collect();
        for (slot, name) in &all {
            store.append(*slot, name).unwrap();
        }
        all
    }

    #[test]
    fn what_was_kept_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.fake-ip");
        let all = filled(&path, 9);
        for _ in 0..2 {
            assert_eq!(names(Store::open(&path, POOLS).unwrap().1), all);
        }
        assert!(names(Store::open(&path, "10.0.0.0/8 -").unwrap().1).is_empty(), "of other pools");
    }

    #[test]
    fn a_crash_while_writing_loses_the_last_record_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.fake-ip");
        let all = filled(&path, 5);
        let whole = fs::read(&path).unwrap();
        let last = FRAME + SLOT + "4.example".len();
        for cut in 1..=last {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(names(Store::open(&path, POOLS).unwrap().1), all[..4], "{cut}");
        }
    }

    #[test]
    fn what_somebody_else_wrote_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.fake-ip");
        for text in [&b""[..], b"x", b"some other file, and not a short one", &[0; 64]] {
            fs::write(&path, text).unwrap();
            let Found::Corrupt(aside) = Store::open(&path, POOLS).unwrap().1 else { panic!("{text:?}") };
            assert_eq!(fs::read(aside).unwrap(), text);
            assert!(names(Store::open(&path, POOLS).unwrap().1).is_empty());
        }
    }

    #[test]
    fn rewriting_keeps_what_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.fake-ip");
        let (mut store, _) = Store::open(&path, POOLS).unwrap();
        for n in 0..2 * LEAST_REWRITTEN as u32 {
            assert!(!store.is_due(10));
            store.append(n % 10, &format!("{n}.example")).unwrap();
        }
        assert!(store.is_due(10));
        store.rewrite(&[(7, Arc::from("kept.example"))]).unwrap();
        store.append(8, "later.example").unwrap();
        let expected = [(7, "kept.example".to_owned()), (8, "later.example".to_owned())];
        assert_eq!(names(Store::open(&path, POOLS).unwrap().1), expected);
    }

    proptest! {
        #[test]
        fn changed_bytes_are_noticed(at in 0..200_usize, bit in 0..8_u8) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.fake-ip");
            let all = filled(&path, 9);
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            // Set aside, or shortened at the end where a length was changed; never a wrong name.
            if let Found::Names(found) = Store::open(&path, POOLS).unwrap().1 {
                prop_assert!(found.len() < all.len());
                for (slot, name) in found {
                    prop_assert_eq!(&all[slot as usize].1, &*name);
                }
            }
        }
    }
}

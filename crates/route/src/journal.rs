//! The journal: every change's inverse, on disk before the change is made.
//!
//! One JSON document a line. The first names the boot and the network namespace that the others are
//! about; a journal of another boot or namespace is never applied. A line that was torn by a crash is
//! that of a change that was not made.
//!
//! Room for all lines of a plan is made sure of before its first change, where the file system can promise it: `/run` is
//! memory that others fill as well.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oneway_file::limit;
use serde::{Deserialize, Serialize};

use crate::change::{Change, Undo};
use crate::error::RouteError;
use crate::os;

const VERSION: u32 = 1;

/// Descriptors that are kept for undoing: a few sockets to the kernel and to daemons, and files one at a time.
const SPARE: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    journal: String,
    version: u32,
    boot: String,
    netns: u64,
    pid: u32,
}

impl Header {
    fn here() -> Result<Self, RouteError> {
        Ok(Self {
            journal: "oneway route".into(),
            version: VERSION,
            boot: os::boot()?,
            netns: os::netns()?,
            pid: std::process::id(),
        })
    }

    /// Whether the other was written about this boot and namespace, in a form that is understood.
    fn same_place(&self, other: &Self) -> bool {
        (&self.journal, self.version, &self.boot, self.netns)
            == (&other.journal, other.version, &other.boot, other.netns)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    step: String,
    #[serde(flatten)]
    undo: Undo,
}

impl Line {
    fn of(change: &Change) -> Self {
        Self { step: change.to_string(), undo: change.undo() }
    }
}

/// A journal that is being written. It also is the right to change this namespace's routing: there is
/// one per network namespace, until the process ends.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Its bytes, all of whole lines.
    length: u64,
    /// What was recorded and not yet undone, oldest first.
    done: Vec<Undo>,
    /// A program that has run out of descriptors can undo all the same, by closing these.
    spare: Vec<File>,
    _lock: os::Lock,
}

/// What a journal file holds.
#[derive(Debug)]
pub(crate) enum Found {
    /// There is none, or it was torn before its first line was whole.
    Nothing,
    /// It is about another boot: what it undoes is gone.
    OtherBoot,
    /// It is about another network namespace, or of another version.
    Elsewhere,
    /// What is to be undone, in the order it was made.
    Here(Vec<Undo>),
}

impl Journal {
    /// The journal's usual place for the calling thread's network namespace, below `dir`: two instances
    /// in two namespaces do not share it.
    ///
    /// # Errors
    /// When the kernel does not tell which namespace this is.
    pub fn path_in(dir: &Path) -> Result<PathBuf, RouteError> {
        Ok(dir.join(format!("oneway-route-{}.journal", os::netns()?)))
    }

    /// Begins one, which must not be there: [`recover`](crate::recover) comes first.
    ///
    /// # Errors
    /// [`RouteError::Running`] when another process holds this namespace's journal;
    /// [`RouteError::Journal`] when there is one already, or it cannot be written.
    pub fn create(path: &Path) -> Result<Self, RouteError> {
        let lock = os::Lock::take()?;
        let fail = |what| move |source| RouteError::Journal { what, path: path.to_owned(), source };
        let header = Header::here()?;
        let file = os::create_private(path).map_err(fail("create"))?;
        let begun = (0..SPARE).map(|_| file.try_clone()).collect::<io::Result<_>>().map_err(fail("create"));
        let begun = begun.and_then(|spare| {
            let (path, done) = (path.to_owned(), Vec::new());
            let mut journal = Self { path, file, length: 0, done, spare, _lock: lock };
            journal.write(&header)?;
            sync_dir(&journal.path).map_err(fail("create"))?;
            Ok(journal)
        });
        begun.inspect_err(|_| drop(fs::remove_file(path)))
    }

    /// Makes sure that there is room for the inverses of `changes`. Not all file systems can: where one cannot, it shows when
    /// they are recorded.
    pub(crate) fn reserve<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
    ) -> Result<(), RouteError> {
        let lengths = changes.map(|change| Ok(line(&Line::of(change))?.len() as u64));
        let outcome = lengths.sum::<io::Result<u64>>().and_then(|wanted| match wanted {
            0 => Ok(()),
            wanted => os::reserve(&self.file, self.length, wanted),
        });
        outcome.map_err(|source| RouteError::Journal {
            what: "make room for",
            path: self.path.clone(),
            source,
        })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a change's inverse on disk.
    pub(crate) fn record(&mut self, change: &Change) -> Result<(), RouteError> {
        let line = Line::of(change);
        self.write(&line)?;
        self.done.push(line.undo);
        Ok(())
    }

    /// Replaces what is recorded by the inverses of `changes`, which are all that is made, in one instant: so the file does
    /// not grow for as long as the program runs, and what is undone last stands first.
    pub(crate) fn rewrite<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
    ) -> Result<(), RouteError> {
        self.replace(changes.map(Line::of).collect())
    }

    /// Writes it anew if somebody has removed the file; says whether that was so.
    pub(crate) fn put_back(&mut self) -> Result<bool, RouteError> {
        if !matches!(self.path.try_exists(), Ok(false)) {
            return Ok(false);
        }
        let line = |undo: &Undo| Line { step: format!("what is undone by: {undo}"), undo: undo.clone() };
        self.replace(self.done.iter().map(line).collect())?;
        Ok(true)
    }

    fn replace(&mut self, lines: Vec<Line>) -> Result<(), RouteError> {
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let fail = |source| RouteError::Journal { what: "rewrite", path: self.path.clone(), source };
        let mut bytes = line(&Header::here()?).map_err(fail)?;
        for entry in &lines {
            bytes.extend(line(entry).map_err(fail)?);
        }
        // A crash in the midst of this may have left one.
        remove(&fresh)?;
        let written = os::create_private(&fresh).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&fresh, &self.path)?;
            sync_dir(&self.path)?;
            Ok(file)
        });
        // The one of before stands, and names all that is made.
        let written = written.inspect_err(|_| drop(fs::remove_file(&fresh)));
        self.file = written.map_err(fail)?;
        self.length = bytes.len() as u64;
        self.done = lines.into_iter().map(|line| line.undo).collect();
        Ok(())
    }

    fn write(&mut self, entry: &impl Serialize) -> Result<(), RouteError> {
        let outcome = line(entry).and_then(|bytes| {
            // One write: a line is either there, or torn at the end of the file.
            self.file.write_all(&bytes)?;
            self.file.sync_data()?;
            self.length += bytes.len() as u64;
            Ok(())
        });
        if outcome.is_err() {
            // Whatever is recorded behind a torn line is not read.
            let _ = self.file.set_len(self.length);
        }
        outcome.map_err(|source| RouteError::Journal { what: "write", path: self.path.clone(), source })
    }

    /// Lets go of the descriptors that were kept for undoing.
    pub(crate) fn spend(&mut self) {
        self.spare.clear();
    }

    /// What was recorded and not yet undone, oldest first.
    pub(crate) fn done(&mut self) -> &mut Vec<Undo> {
        &mut self.done
    }
}

fn line(entry: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(entry)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a journal.
pub(crate) fn read(path: &Path) -> Result<Found, RouteError> {
    let fail = |source| RouteError::Journal { what: "read", path: path.to_owned(), source };
    let bytes = match oneway_file::read(path, limit::OWN) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Err(fail(e)),
    };
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let Ok(header) = serde_json::from_slice::<Header>(first) else { return Ok(Found::Nothing) };
    let here = Header::here()?;
    if header.boot != here.boot {
        return Ok(Found::OtherBoot);
    }
    if !header.same_place(&here) {
        return Ok(Found::Elsewhere);
    }
    let mut list = Vec::new();
    for line in lines {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) => list.push(line.undo),
            // The end, or torn: its change was not made.
            Err(_) => break,
        }
    }
    Ok(Found::Here(list))
}

/// Removes a journal; it is no error when there is none.
pub(crate) fn remove(path: &Path) -> Result<(), RouteError> {
    let outcome = match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        outcome => outcome.and_then(|()| sync_dir(path)),
    };
    outcome.map_err(|source| RouteError::Journal { what: "remove", path: path.to_owned(), source })
}

fn sync_dir(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

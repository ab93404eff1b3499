//! What the user has selected, in a file that survives a restart.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// No file of ours is larger.
const MOST: u64 = 1 << 20;

/// From the names of groups to the names of their members.
type Names = BTreeMap<String, String>;

/// The selections and their file.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    path: PathBuf,
    names: Mutex<Names>,
}

impl Selected {
    /// Reads the file. One that is not ours is set aside with a warning.
    pub(crate) fn open(path: &Path) -> Self {
        let names = match read(path) {
            Ok(names) => names,
            Err(error) => {
                let aside = path.with_extension("selected.corrupt");
                let set_aside = fs::rename(path, &aside).is_ok();
                tracing::warn!(file = %path.display(), %error, set_aside, "selections of before are forgotten");
                Names::new()
            }
        };
        Self { path: path.to_owned(), names: Mutex::new(names) }
    }

    /// The member that was selected.
    pub(crate) fn of(&self, group: &str) -> Option<String> {
        self.names.lock().get(group).cloned()
    }

    /// Keeps a selection.
    ///
    /// # Errors
    /// The file cannot be written; the selection of before is in it then.
    pub(crate) fn keep(&self, group: &str, member: &str) -> io::Result<()> {
        let mut names = self.names.lock();
        names.insert(group.to_owned(), member.to_owned());
        write(&self.path, &names)
    }
}

fn read(path: &Path) -> io::Result<Names> {
    match oneway_file::read(path, MOST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Names::new()),
        found => serde_json::from_slice(&found?).map_err(io::Error::from),
    }
}

/// Whole or not at all: a crash leaves the old file or the new one.
fn write(path: &Path, names: &Names) -> io::Result<()> {
    let beside = path.with_extension("selected.new");
    // What a crash has left, or another has put there: it is neither followed nor waited for.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::create_new(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(names)?)?;
    file.sync_data()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_survive_and_rubbish_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oneway-1.selected");
        let selected = Selected::open(&path);
        assert_eq!(selected.of("auto"), None);
        selected.keep("auto", "far").unwrap();
        selected.keep("auto", "near").unwrap();
        assert_eq!(Selected::open(&path).of("auto").as_deref(), Some("near"));
        for rubbish in [&b"{"[..], b"[1, 2]", b"", b"\0\xff"] {
            fs::write(&path, rubbish).unwrap();
            assert_eq!(Selected::open(&path).of("auto"), None);
            assert_eq!(fs::read(path.with_extension("selected.corrupt")).unwrap(), rubbish);
            assert!(!path.exists());
        }
    }
}

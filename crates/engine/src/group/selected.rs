//! What the user has selected, in a file that survives a restart.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// No file of ours is larger.
const MOST: u64 = 1 << 20;

/// From the names of groups to the names of their members.
type Names = BTreeMap<String, String>;

/// The selections and their file.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    names: Names,
    /// There may be more in the file, which could not be read.
    unread: bool,
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// The network namespace, by the number that is not given twice: that in the name of the file is.
    netns: u64,
    names: Names,
}

/// What was found in the place of the file.
enum Found {
    /// Nothing, or the selections of another namespace that is gone.
    Nothing,
    Names(Names),
    /// Something that we did not write.
    NotOurs(String),
}

impl Selected {
    /// Reads the file. One that is not ours is set aside with a warning; one that cannot be read now stays where it is.
    pub(crate) fn open(path: &Path) -> Self {
        let kept = match read(path) {
            Ok(Found::Nothing) => Kept::default(),
            Ok(Found::Names(names)) => Kept { names, unread: false },
            Ok(Found::NotOurs(why)) => {
                let aside = path.with_extension("selected.corrupt");
                let set_aside = fs::rename(path, &aside).is_ok();
                tracing::warn!(file = %path.display(), why, set_aside, "selections of before are forgotten");
                Kept::default()
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "selections of before cannot be read; they are not in force");
                Kept { names: Names::new(), unread: true }
            }
        };
        Self { path: path.to_owned(), kept: Mutex::new(kept) }
    }

    /// The member that was selected.
    pub(crate) fn of(&self, group: &str) -> Option<String> {
        self.kept.lock().names.get(group).cloned()
    }

    /// Keeps a selection.
    ///
    /// # Errors
    /// The file cannot be written; the selection of before is in it then.
    pub(crate) fn keep(&self, group: &str, member: &str) -> io::Result<()> {
        let mut kept = self.kept.lock();
        kept.names.insert(group.to_owned(), member.to_owned());
        if kept.unread {
            // Writing would forget what is there.
            if let Found::Names(before) = read(&self.path)? {
                for (group, member) in before {
                    kept.names.entry(group).or_insert(member);
                }
            }
            kept.unread = false;
        }
        write(&self.path, &kept.names)
    }
}

fn read(path: &Path) -> io::Result<Found> {
    let bytes = match oneway_file::read(path, MOST) {
        Ok(bytes) => bytes,
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::NotFound => Ok(Found::Nothing),
                // Such a thing is none of ours.
                io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge => {
                    Ok(Found::NotOurs(error.to_string()))
                }
                _ => Err(error),
            };
        }
    };
    Ok(match serde_json::from_slice::<Content>(&bytes) {
        Ok(Content { netns, names }) if netns == here()? => Found::Names(names),
        Ok(_) => Found::Nothing,
        Err(error) => Found::NotOurs(error.to_string()),
    })
}

fn here() -> io::Result<u64> {
    oneway_route::netns().map_err(io::Error::other)
}

/// Whole or not at all: a crash leaves the old file or the new one.
fn write(path: &Path, names: &Names) -> io::Result<()> {
    let content = Content { netns: here()?, names: names.clone() };
    let beside = path.with_extension("selected.new");
    // What a crash has left, or another has put there: it is neither followed nor waited for.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::File::create_new(&beside)?;
    file.write_all(&serde_json::to_vec_pretty(&content)?)?;
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
    #[test]
    fn what_cannot_be_read_now_stays_and_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oneway-1.selected");
        Selected::open(&path).keep("auto", "far").unwrap();
        // As little can be opened as without descriptors, whoever asks: a link that leads to itself.
        let real = folder.path().join("real");
        fs::rename(&path, &real).unwrap();
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let selected = Selected::open(&path);
        assert_eq!(selected.of("auto"), None);
        assert!(selected.keep("other", "near").is_err());
        assert!(path.is_symlink() && !path.with_extension("selected.corrupt").exists());
        fs::rename(&real, &path).unwrap();
        selected.keep("other", "near").unwrap();
        let again = Selected::open(&path);
        assert_eq!((again.of("auto").as_deref(), again.of("other").as_deref()), (Some("far"), Some("near")));
    }

    #[test]
    fn selections_of_another_namespace_are_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("oneway-1.selected");
        Selected::open(&path).keep("auto", "far").unwrap();
        let mut content: Content = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        content.netns += 1;
        fs::write(&path, serde_json::to_vec(&content).unwrap()).unwrap();
        let selected = Selected::open(&path);
        assert_eq!(selected.of("auto"), None);
        selected.keep("other", "near").unwrap();
        let again = Selected::open(&path);
        assert_eq!((again.of("auto"), again.of("other").as_deref()), (None, Some("near")));
    }
}

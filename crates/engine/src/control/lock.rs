//! One instance in each network namespace.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::path::os;
use super::{StateError, StatePaths};

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

/// Who only looks whether it is held has it for a moment as well ([`InstanceLock::held_by`]), and is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// Held by the one instance that may change the host of a network namespace.
///
/// The kernel lets go of it when the process ends in whatever way (flock(2)), so a file left behind is no obstacle.
#[derive(Debug)]
pub struct InstanceLock {
    file: File,
    path: PathBuf,
}

impl InstanceLock {
    /// Takes the lock, and makes the folder for it if that is the private one.
    ///
    /// # Errors
    /// [`StateError::AlreadyRunning`] if another instance holds it; others if folder or file are of no use.
    pub fn acquire(paths: &StatePaths) -> Result<Self, StateError> {
        let path = &paths.lock;
        paths.prepare()?;
        let failed = |source| StateError::Lock { path: path.clone(), source };
        let until = Instant::now() + LOOK;
        loop {
            let mut file = os::open_private(path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(LOOK / 20);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StateError::AlreadyRunning { pid: holder(&mut file) });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            // The holder before us removes the file when it goes: we may have locked the one it removed.
            if os::is_at(&file, path).map_err(failed)? {
                write_pid(&mut file).map_err(failed)?;
                return Ok(Self { file, path: path.clone() });
            }
        }
    }

    /// The process that holds the lock. `None` if nobody does.
    ///
    /// # Errors
    /// [`StateError::Lock`] if the file cannot be opened, for example because it is another user's.
    pub fn held_by(paths: &StatePaths) -> Result<Option<Option<u32>>, StateError> {
        let failed = |source| StateError::Lock { path: paths.lock.clone(), source };
        let mut file = match oneway_file::open(&paths.lock) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => Ok(Some(holder(&mut file))),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// The locked file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file and lets go of the lock, as dropping it does, and says if that failed.
    ///
    /// # Errors
    /// [`StateError::Lock`] if the file cannot be removed; the lock is gone all the same.
    pub fn release(self) -> Result<(), StateError> {
        self.remove().map_err(|source| StateError::Lock { path: self.path.clone(), source })
    }

    /// Removes the file while it is still locked, so that it is surely ours.
    fn remove(&self) -> std::io::Result<()> {
        if os::is_at(&self.file, &self.path)? { fs::remove_file(&self.path) } else { Ok(()) }
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // A file that stays is no obstacle, only untidy.
        let _ = self.remove();
    }
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// Says whose the lock is. A full disk takes no number, which is for people alone: `recover` has to work there as well.
fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    match writeln!(file, "{}", std::process::id()) {
        Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
        done => done,
    }
}

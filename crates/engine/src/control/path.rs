//! Where an instance keeps its control socket, journal and lock: one set for each network namespace.

use std::path::{Path, PathBuf};

use super::StateError;

#[cfg(target_os = "linux")]
#[path = "path/linux.rs"]
pub(super) mod os;
#[cfg(not(target_os = "linux"))]
#[path = "path/unsupported.rs"]
pub(super) mod os;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

/// The files of the instance in one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePaths {
    /// The control socket.
    pub control: PathBuf,
    /// The journal of changes to the host.
    pub journal: PathBuf,
    /// The file that the instance holds locked as long as it lives.
    pub lock: PathBuf,
}

impl StatePaths {
    /// The files for the network namespace of the calling thread.
    ///
    /// The folder is `/run` where it can be written, else `$XDG_RUNTIME_DIR` if nobody but the user can write there, else
    /// `/tmp/oneway-UID`, which [`InstanceLock::acquire`](super::InstanceLock::acquire) makes. In `/run` the files
    /// of the machine's own namespace, that of process 1, are named `oneway.*`; everywhere else they bear the
    /// namespace's number: `oneway-4026532183.*`.
    ///
    /// # Errors
    /// When the namespace cannot be told.
    pub fn here() -> Result<Self, StateError> {
        os::here()
    }

    /// The files `STEM.sock`, `STEM.journal` and `STEM.lock` in a folder.
    pub fn in_folder(folder: &Path, stem: &str) -> Self {
        let file = |extension: &str| folder.join(format!("{stem}.{extension}"));
        Self { control: file("sock"), journal: file("journal"), lock: file("lock") }
    }

    /// The same files with another control socket. Journal and lock stay where they are: two instances with
    /// different sockets would change the same host.
    #[must_use]
    pub fn with_control(self, control: Option<PathBuf>) -> Self {
        match control {
            Some(control) => Self { control, ..self },
            None => self,
        }
    }

    /// Makes the folder of these files if it is the private one, and checks that nobody else can write to it.
    ///
    /// # Errors
    /// [`StateError::Folder`] and [`StateError::UnsafeFolder`].
    pub fn prepare(&self) -> Result<(), StateError> {
        self.lock.parent().map_or(Ok(()), os::prepare_folder)
    }

    /// Checks the same of a folder that is there. Before anything in it is believed.
    ///
    /// # Errors
    /// [`StateError::Folder`] and [`StateError::UnsafeFolder`].
    pub fn check(&self) -> Result<(), StateError> {
        self.lock.parent().map_or(Ok(()), os::check_folder)
    }

    /// What the user should know of where the files are, if that is no place for them.
    pub fn warning(&self) -> Option<String> {
        let folder = self.lock.parent()?;
        let why = os::instead_of_run(folder)?;
        Some(format!(
            "the files of this instance are in {folder:?}, as /run cannot be written ({why}): only the same user and root \
             find it by `oneway status` and the like, and whatever clears /tmp takes the journal by which `oneway recover` \
             undoes what a killed instance leaves, and the lock that keeps a second one away; make /run writable, or set \
             XDG_RUNTIME_DIR"
        ))
    }

    /// Removes the folder that [`StatePaths::prepare`] made, if it is empty.
    pub fn tidy(&self) {
        if let Some(folder) = self.lock.parent() {
            os::tidy_folder(folder);
        }
    }

    /// The control sockets at which an instance in this namespace may listen: the caller's own first, then those
    /// of other users that the caller might be allowed to open.
    pub fn control_candidates(&self) -> Vec<PathBuf> {
        let mut candidates = vec![self.control.clone()];
        for other in os::control_candidates() {
            if !candidates.contains(&other) {
                candidates.push(other);
            }
        }
        candidates
    }
}

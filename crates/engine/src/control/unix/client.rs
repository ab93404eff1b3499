//! The asking end. Blocking: a command asks one thing and ends.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::connect::connect;
use crate::control::path::os;
use crate::control::{ControlError, ControlReply, ControlRequest};

/// Longer than stopping with thousands of flows may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Enough for 100,000 flows.
const REPLY_LIMIT: u64 = 64 << 20;

/// The asking end of the control socket.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    path: PathBuf,
    server: Option<u32>,
}

impl ControlClient {
    /// Connects to the first of several paths at which somebody listens. In a folder that is named for a user, as
    /// `/tmp/oneway-UID` is, nobody but that user and root is believed to be an instance.
    ///
    /// # Errors
    /// [`ControlError::Denied`] if there is a socket that this user may not open, else
    /// [`ControlError::NotRunning`] with the first path.
    pub fn connect(paths: &[PathBuf]) -> Result<Self, ControlError> {
        let mut failure = None;
        for path in paths {
            match connect(path) {
                Ok(stream) => {
                    let failed = |source| ControlError::Talk { path: path.clone(), source };
                    let server = os::listener(&stream).map_err(failed)?;
                    if server.is_some_and(|uid| !os::may_serve(path, uid)) {
                        continue;
                    }
                    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
                    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
                    return Ok(Self { stream: BufReader::new(stream), path: path.clone(), server });
                }
                Err(e) => match e.kind() {
                    io::ErrorKind::PermissionDenied => {
                        failure = Some(ControlError::Denied { path: path.clone() })
                    }
                    // A socket without a listener is what a killed instance leaves behind.
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {}
                    _ => failure = Some(ControlError::Talk { path: path.clone(), source: e }),
                },
            }
        }
        let first = paths.first().cloned().unwrap_or_default();
        Err(failure.unwrap_or(ControlError::NotRunning { path: first }))
    }

    /// The user whose instance it is, as the system tells, and where it listens.
    pub fn server(&self) -> (Option<u32>, &Path) {
        (self.server, &self.path)
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with the words of the instance; others if the conversation fails.
    pub fn request(&mut self, request: &ControlRequest) -> Result<ControlReply, ControlError> {
        let talk = |source| ControlError::Talk { path: self.path.clone(), source };
        let protocol = |source| ControlError::Protocol { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(request).map_err(protocol)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(talk)?;
        line.clear();
        (&mut self.stream).take(REPLY_LIMIT).read_until(b'\n', &mut line).map_err(talk)?;
        if line.is_empty() {
            return Err(talk(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer")));
        }
        match serde_json::from_slice(&line).map_err(protocol)? {
            ControlReply::Error(why) => Err(ControlError::Refused(why)),
            reply => Ok(reply),
        }
    }
}

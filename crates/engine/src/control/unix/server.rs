//! The listening end.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connect::is_taken;
use crate::control::{ControlError, ControlReply, ControlRequest};

/// Connections at a time. One more takes the place of the one that has been silent longest.
const CONNECTIONS: usize = 16;

/// A request is a few words.
const REQUEST_LIMIT: u64 = 4096;

/// For a client to say something, or to take an answer, before its place is given to another.
const PATIENCE: Duration = Duration::from_secs(30);

/// After `accept` failed, which it does again at once while descriptors are short.
const PAUSE: Duration = Duration::from_millis(200);

/// The listening end of the control socket. Dropped, it removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket, to remove only our own.
    identity: (u64, u64),
    /// Held for reading from a request to the end of its answer.
    answering: Arc<RwLock<()>>,
}

impl ControlServer {
    /// Makes the socket with mode 0600 and takes the place of one that nobody listens at.
    ///
    /// # Errors
    /// [`ControlError::Occupied`] if the path is no socket or somebody listens there, else [`ControlError::Bind`].
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let failed = |source| ControlError::Bind { path: path.to_owned(), source };
        refuse_occupied(path)?;
        // Made under another name and moved, so that the path never holds a socket of the wrong mode and never
        // none at all.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(format!(".{}", std::process::id()));
        let fresh = PathBuf::from(fresh);
        if fs::symlink_metadata(&fresh).is_ok_and(|found| found.file_type().is_socket()) {
            fs::remove_file(&fresh).map_err(failed)?;
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        let placed = place(&listener, &fresh, path);
        match placed {
            Ok(identity) => Ok(Self { listener, path: path.to_owned(), identity, answering: Arc::default() }),
            Err(e) => {
                // The error that matters is the one before.
                let _ = fs::remove_file(&fresh);
                Err(failed(e))
            }
        }
    }

    /// Answers until this future is dropped, and with it every connection. Runs inside a tokio runtime with I/O and time enabled.
    ///
    /// The handler may take its time, as it does for [`ControlRequest::Stop`]; other connections are served
    /// meanwhile.
    pub async fn serve<H, F>(&self, handler: H)
    where
        H: Fn(ControlRequest) -> F + Send + Sync + 'static,
        F: Future<Output = ControlReply> + Send + 'static,
    {
        let listener = self.listener.try_clone().and_then(tokio::net::UnixListener::from_std);
        let listener = match listener {
            Ok(listener) => listener,
            Err(e) => {
                tracing::error!(path = ?self.path, error = %e, "cannot listen at the control socket");
                return;
            }
        };
        let handler = Arc::new(handler);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let silent = Arc::new(Silent::default());
        let mut connections = JoinSet::new();
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let place = silent.make_room(&places).await;
                    let (handler, silent) = (handler.clone(), silent.clone());
                    let answering = self.answering.clone();
                    // Of those that have ended nothing is kept.
                    while connections.try_join_next().is_some() {}
                    connections.spawn(async move {
                        if let Err(e) = converse(stream, &*handler, &answering, &silent).await {
                            tracing::debug!(error = %e, "a control connection ended early");
                        }
                        drop(place);
                    });
                }
                Err(e) => {
                    tracing::debug!(error = %e, "cannot accept a control connection");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Waits until every request that was received is answered, so that the process may end.
    pub async fn answered(&self) {
        drop(self.answering.write().await);
    }

    /// Removes a socket that a killed instance left behind, one that nobody listens at. To be called with the
    /// instance's lock held.
    pub fn remove_abandoned(path: &Path) {
        let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
        if is_socket
            && !is_taken(path)
            && let Err(e) = fs::remove_file(path)
        {
            tracing::warn!(?path, error = %e, "cannot remove an abandoned control socket");
        }
    }

    /// Removes the socket, if it is still ours.
    pub fn remove(&self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if ours && let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = ?self.path, error = %e, "cannot remove the control socket");
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Finishes a fresh socket and moves it to its path.
fn place(listener: &UnixListener, fresh: &Path, path: &Path) -> io::Result<(u64, u64)> {
    listener.set_nonblocking(true)?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o600))?;
    let identity = identity(&fs::symlink_metadata(fresh)?);
    fs::rename(fresh, path)?;
    Ok(identity)
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn refuse_occupied(path: &Path) -> Result<(), ControlError> {
    let occupied = |why| Err(ControlError::Occupied { path: path.to_owned(), why });
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => occupied("there is something else at this path"),
        Ok(_) if is_taken(path) => occupied("another program listens there"),
        _ => Ok(()),
    }
}

/// The connections that say nothing, in the order in which they began to. Each is told to end by its sender being dropped.
#[derive(Debug, Default)]
struct Silent(Mutex<(u64, BTreeMap<u64, oneshot::Sender<()>>)>);

impl Silent {
    fn enter(&self) -> (u64, oneshot::Receiver<()>) {
        let (sender, ended) = oneshot::channel();
        let (number, waiting) = &mut *self.0.lock();
        *number += 1;
        waiting.insert(*number, sender);
        (*number, ended)
    }

    fn leave(&self, number: u64) {
        self.0.lock().1.remove(&number);
    }

    /// A place, where there is none that of whoever has been silent longest.
    async fn make_room(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(place) = places.clone().try_acquire_owned() {
                return Some(place);
            }
            drop(self.0.lock().1.pop_first());
            // While all are being answered nobody is silent; one may be soon.
            if let Ok(place) = timeout(PAUSE, places.clone().acquire_owned()).await {
                return place.ok();
            }
        }
    }
}

/// Answers the requests of one connection, one line each.
async fn converse<H, F>(
    mut stream: tokio::net::UnixStream,
    handler: &H,
    answering: &RwLock<()>,
    silent: &Silent,
) -> io::Result<()>
where
    H: Fn(ControlRequest) -> F,
    F: Future<Output = ControlReply>,
{
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        let why = "permission denied; run as root or as the user of the instance".to_owned();
        return answer(&mut stream, &ControlReply::Error(why)).await;
    }
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut stream).take(REQUEST_LIMIT);
        let (number, ended) = silent.enter();
        let read = tokio::select! {
            read = timeout(PATIENCE, limited.read_until(b'\n', &mut line)) => read,
            _ = ended => return Ok(()),
        };
        silent.leave(number);
        if !read.is_ok_and(|read| read.is_ok_and(|bytes| bytes > 0)) {
            return Ok(());
        }
        let _answering = answering.read().await;
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => handler(request).await,
            Err(e) => ControlReply::Error(format!("cannot understand the request: {e}")),
        };
        answer(stream.get_mut(), &reply).await?;
        // Without its end a line was cut at the limit; what follows is not the start of a request.
        if !line.ends_with(b"\n") {
            return Ok(());
        }
    }
}

async fn answer(stream: &mut tokio::net::UnixStream, reply: &ControlReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    timeout(PATIENCE, stream.write_all(&line)).await?
}

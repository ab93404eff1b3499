use std::fs;
use std::future::ready;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::control::path::os;
use crate::control::{Bytes, ControlError, ControlReply, ControlRequest, FlowInfo};

/// A server at `PATH` that is gone when this is dropped.
struct Running {
    _runtime: tokio::runtime::Runtime,
    server: Arc<ControlServer>,
}

fn flow() -> FlowInfo {
    FlowInfo {
        id: 1,
        network: "udp".to_owned(),
        source: "192.0.2.1:5000".parse().unwrap(),
        target: "198.51.100.1:53".to_owned(),
        rule: "MATCH".to_owned(),
        outbound: "direct".to_owned(),
        bytes: Bytes { up: 3, down: 4 },
        age_s: 5,
        state: "open".to_owned(),
    }
}

fn start(path: &Path) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Arc::new(ControlServer::bind(path).unwrap());
    let serving = server.clone();
    runtime.spawn(async move {
        serving
            .serve(|request| {
                ready(match request {
                    ControlRequest::Flows => ControlReply::Flows(vec![flow()]),
                    ControlRequest::Stop => ControlReply::Stopped,
                    ControlRequest::Confirm => ControlReply::Confirmed(true),
                    _ => ControlReply::Error("no status here".to_owned()),
                })
            })
            .await;
    });
    Running { _runtime: runtime, server }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("oneway.sock");
    (folder, path)
}

fn say(path: &Path, words: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(words).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn asks_and_answers_on_one_connection() {
    let (_folder, path) = place();
    let running = start(&path);
    let mut client = ControlClient::connect(std::slice::from_ref(&path)).unwrap();
    assert_eq!(client.request(&ControlRequest::Flows).unwrap(), ControlReply::Flows(vec![flow()]));
    let refused = client.request(&ControlRequest::Status).unwrap_err();
    assert_eq!(refused.to_string(), "no status here");
    assert_eq!(client.request(&ControlRequest::Stop).unwrap(), ControlReply::Stopped);
    drop(running);
}

#[test]
fn the_words_on_the_socket() {
    let (_folder, path) = place();
    let _running = start(&path);
    assert_eq!(say(&path, b"{\"request\":\"stop\"}\n"), "{\"reply\":\"stopped\"}\n");
    assert_eq!(
        say(&path, b"{\"request\":\"flows\"}\n"),
        "{\"reply\":\"flows\",\"data\":[{\"id\":1,\"network\":\"udp\",\"source\":\"192.0.2.1:5000\",\
         \"target\":\"198.51.100.1:53\",\"rule\":\"MATCH\",\"outbound\":\"direct\",\"bytes\":{\"up\":3,\"down\":4},\
         \"age_s\":5,\"state\":\"open\"}]}\n"
    );
}

#[test]
fn nonsense_is_answered_and_does_no_harm() {
    let (_folder, path) = place();
    let _running = start(&path);
    assert!(
        say(&path, b"hello\n").starts_with("{\"reply\":\"error\",\"data\":\"cannot understand the request: ")
    );
    assert!(say(&path, b"{\"request\":\"reboot\"}\n").contains("unknown variant `reboot`"));
    assert!(say(&path, &[b'x'; 4096]).starts_with("{\"reply\":\"error\""));
    UnixStream::connect(&path).unwrap().write_all(b"{\"req").unwrap();
    assert_eq!(say(&path, b"{\"request\":\"stop\"}\n"), "{\"reply\":\"stopped\"}\n");
}

#[test]
fn others_are_served_while_some_are_silent() {
    let (_folder, path) = place();
    let _running = start(&path);
    let silent: Vec<_> = (0..10).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(say(&path, b"{\"request\":\"stop\"}\n"), "{\"reply\":\"stopped\"}\n");
    drop(silent);
}

#[test]
fn those_who_say_nothing_keep_nobody_out() {
    let (_folder, path) = place();
    let _running = start(&path);
    let patience = Some(std::time::Duration::from_secs(10));
    // One that has asked before is silent, too, and there are more than there are places.
    let mut first = ControlClient::connect(std::slice::from_ref(&path)).unwrap();
    first.request(&ControlRequest::Flows).unwrap();
    let silent: Vec<_> = (0..40).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut last = UnixStream::connect(&path).unwrap();
    last.set_read_timeout(patience).unwrap();
    last.write_all(b"{\"request\":\"stop\"}\n").unwrap();
    let mut answer = String::new();
    BufReader::new(last).read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"reply\":\"stopped\"}\n");
    // The first ones had to go, the last ones are still there.
    first.request(&ControlRequest::Flows).unwrap_err();
    let mut newest = silent.last().unwrap();
    newest.set_read_timeout(patience).unwrap();
    newest.write_all(b"{\"request\":\"stop\"}\n").unwrap();
    newest.read_exact(&mut [0]).unwrap();
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let (folder, path) = place();
    let running = start(&path);
    let found = fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    running.server.remove();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_socket_left_behind_is_replaced() {
    let (_folder, path) = place();
    drop(UnixListener::bind(&path).unwrap());
    let not_running = ControlClient::connect(std::slice::from_ref(&path)).unwrap_err();
    assert!(matches!(not_running, ControlError::NotRunning { .. }), "{not_running}");
    let _running = start(&path);
    ControlClient::connect(&[path]).unwrap();
}

#[test]
fn only_an_abandoned_socket_is_removed() {
    let (folder, path) = place();
    let running = start(&path);
    ControlServer::remove_abandoned(&path);
    assert!(path.exists());
    drop(running);
    assert!(!path.exists());
    drop(UnixListener::bind(&path).unwrap());
    ControlServer::remove_abandoned(&path);
    assert!(!path.exists());
    ControlServer::remove_abandoned(&path);
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    ControlServer::remove_abandoned(&file);
    assert!(file.exists());
}

#[test]
fn what_is_somebody_elses_is_left_alone() {
    let (_folder, path) = place();
    let running = start(&path);
    let refused = ControlServer::bind(&path).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "cannot make the control socket {path:?}: another program listens there; choose another path with --control"
        )
    );
    // A socket that took our path is not ours to remove.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    running.server.remove();
    assert!(path.exists());

    let (_folder, path) = place();
    fs::write(&path, "precious").unwrap();
    let refused = ControlServer::bind(&path).unwrap_err();
    assert!(matches!(refused, ControlError::Occupied { .. }), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn the_first_path_with_a_listener_is_taken() {
    let (folder, path) = place();
    let _running = start(&path);
    let missing = folder.path().join("missing");
    let mut client = ControlClient::connect(&[missing.clone(), path]).unwrap();
    assert_eq!(client.request(&ControlRequest::Stop).unwrap(), ControlReply::Stopped);
    let nobody = ControlClient::connect(std::slice::from_ref(&missing)).unwrap_err();
    assert_eq!(
        nobody.to_string(),
        format!("oneway is not running here: nothing answers at {missing:?}; start it with `oneway run`")
    );
}

#[test]
fn a_full_queue_holds_up_nobody() {
    let (_folder, path) = place();
    // The queue of this listener has room for one, which nobody takes.
    #[expect(clippy::disallowed_methods, reason = "it leaves by no network")]
    let full = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
    let full = full.unwrap();
    rustix::net::bind(&full, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    let (done, when_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let asked = ControlClient::connect(std::slice::from_ref(&path)).unwrap_err();
        let refused = ControlServer::bind(&path).unwrap_err();
        ControlServer::remove_abandoned(&path);
        done.send((asked, refused, path.exists())).unwrap();
    });
    let (asked, refused, is_there) = when_done.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    assert!(matches!(asked, ControlError::Talk { .. }), "{asked}");
    assert!(matches!(refused, ControlError::Occupied { .. }), "{refused}");
    assert!(is_there);
}

#[test]
fn whose_instance_answers_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let own = rustix::process::geteuid().as_raw();
    let at = |uid: u32| {
        let folder = folder.path().join(format!("oneway-{uid}"));
        fs::create_dir(&folder).unwrap();
        folder.join("oneway.sock")
    };
    let path = at(own);
    let _running = start(&path);
    let client = ControlClient::connect(std::slice::from_ref(&path)).unwrap();
    assert_eq!(client.server(), (Some(own), path.as_path()));
    // Where another user's should be, and it is not root's either, it is none.
    assert!(os::may_serve(&at(own + 7), 0));
    assert!(!os::may_serve(&folder.path().join(format!("oneway-{}/oneway.sock", own + 7)), own + 8));
}

#[test]
fn an_end_without_an_answer_is_an_error() {
    let (_folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
    });
    let mut client = ControlClient::connect(&[path]).unwrap();
    let ended = client.request(&ControlRequest::Flows).unwrap_err();
    assert!(matches!(ended, ControlError::Talk { .. }), "{ended}");
    peer.join().unwrap();
}

#[test]
fn the_end_waits_for_answers() {
    let (_folder, path) = place();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Arc::new(ControlServer::bind(&path).unwrap());
    let serving = server.clone();
    let (asked, when_asked) = std::sync::mpsc::channel();
    let (go, gone) = tokio::sync::watch::channel(());
    runtime.spawn(async move {
        serving
            .serve(move |_| {
                let (asked, mut gone) = (asked.clone(), gone.clone());
                async move {
                    let _ = asked.send(());
                    // Ends when the sender is dropped.
                    while gone.changed().await.is_ok() {}
                    ControlReply::Stopped
                }
            })
            .await;
    });
    let client = std::thread::spawn(move || say(&path, b"{\"request\":\"stop\"}\n"));
    when_asked.recv().unwrap();
    runtime.block_on(async {
        let mut answered = std::pin::pin!(server.answered());
        assert!(polled(answered.as_mut()).await.is_pending());
        drop(go);
        answered.await;
    });
    drop(runtime);
    assert_eq!(client.join().unwrap(), "{\"reply\":\"stopped\"}\n");
}

#[test]
fn connections_end_with_the_answering() {
    let (_folder, path) = place();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = Arc::new(ControlServer::bind(&path).unwrap());
    let serving = server.clone();
    let task = runtime.spawn(async move { serving.serve(|_| ready(ControlReply::Stopped)).await });
    let mut client = ControlClient::connect(std::slice::from_ref(&path)).unwrap();
    assert_eq!(client.request(&ControlRequest::Stop).unwrap(), ControlReply::Stopped);
    task.abort();
    assert!(runtime.block_on(task).unwrap_err().is_cancelled());
    let ended = client.request(&ControlRequest::Stop).unwrap_err();
    assert!(matches!(ended, ControlError::Talk { .. }), "{ended}");
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());
}

/// Polls once.
async fn polled<F: Future>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::thread;

use super::*;

#[test]
fn devices_fifos_and_sockets_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    for device in ["/dev/zero", "/dev/full", "/dev/urandom"] {
        refused(Path::new(device), ErrorKind::InvalidInput, "it is a device and no file");
    }
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    refused(&link, ErrorKind::InvalidInput, "it is a device and no file");
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    refused(&fifo, ErrorKind::InvalidInput, "it is a FIFO and no file");
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    refused(&socket, ErrorKind::InvalidInput, "it is a socket and no file");
}

#[test]
fn the_null_device_is_an_empty_file() {
    let null = Path::new("/dev/null");
    assert_eq!((read(null, 8).unwrap().len(), read_named(null, 8).unwrap().len()), (0, 0));
}

#[cfg(target_os = "linux")]
#[test]
fn files_of_proc_are_read_although_they_say_that_they_are_empty() {
    let status = read_text(Path::new("/proc/self/status"), limit::PROC).unwrap();
    assert!(status.contains("VmRSS"), "{status}");
}

#[test]
fn a_pipe_of_a_shell_is_read_to_its_end_and_once() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let path = format!("/dev/fd/{}", reader.as_raw_fd());
    let path = Path::new(&path);
    assert_eq!(read(path, 8).unwrap_err().to_string(), "it is a FIFO and no file");
    let (begun, wait) = std::sync::mpsc::channel();
    let write = thread::spawn(move || {
        // The reader is there before anything was written: it has to wait.
        wait.recv().unwrap();
        for byte in b"12345678" {
            writer.write_all(&[*byte]).unwrap();
        }
    });
    begun.send(()).unwrap();
    assert_eq!(read_named_text(path, 8).unwrap(), "12345678");
    write.join().unwrap();
    let error = read_named(path, 8).unwrap_err();
    assert!(error.to_string().starts_with("nothing came by the pipe: "), "{error}");
}

#[test]
fn a_pipe_that_does_not_end_is_read_up_to_the_limit() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let path = format!("/dev/fd/{}", reader.as_raw_fd());
    let write = thread::spawn(move || while writer.write_all(&[b'x'; 4096]).is_ok() {});
    let error = read_named(Path::new(&path), 1 << 20).unwrap_err();
    assert_eq!(error.to_string(), "it has more than 1 MiB, which is the limit");
    drop(reader);
    write.join().unwrap();
}

#[test]
fn a_fifo_behind_a_descriptor_without_a_writer_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    // Linux: to open it for both does not wait.
    let both = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let path = format!("/dev/fd/{}", both.as_raw_fd());
    let again = open::named(Path::new(&path)).unwrap();
    drop(both);
    assert_eq!(read_whole(again, 8).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

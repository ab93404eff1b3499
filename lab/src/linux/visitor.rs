//! A program that visits servers with the C library's sockets and names, in a process of its own: it sees the machine as any
//! program does.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::harness::{ROLE as ROLE_VARIABLE, TestResult};
use crate::ns::NetNs;
use crate::program::Program;

/// The part that the test program plays.
pub(crate) const ROLE: &str = "lab-visitor";

/// Whom it visits.
const VISITS: &str = "ONEWAY_LAB_VISITS";

const PATIENCE: Duration = Duration::from_secs(5);

/// A program to start, which becomes the visitor: `program` is given `words` and the visitor's own path, the test program's
/// or that of a copy of it. Each of `visits` is `http HOST:PORT` or `echo HOST:PORT` (by UDP), and gives a line: the same
/// words, and what came of it.
pub fn visitor<S: AsRef<OsStr>>(
    namespace: &NetNs,
    program: &str,
    words: impl IntoIterator<Item = S>,
    own: &Path,
    visits: &[String],
) -> Program {
    let words = words.into_iter().map(|word| word.as_ref().to_owned()).chain([own.as_os_str().to_owned()]);
    Program::new(namespace, program, words).env(ROLE_VARIABLE, ROLE).env(VISITS, visits.join(","))
}

/// What the process does. It fails if any visit does.
#[allow(clippy::print_stdout, reason = "the test that started this one reads the lines")]
pub(crate) fn play() -> TestResult {
    let visits = std::env::var(VISITS)?;
    let mut failed = 0;
    for visit in visits.split(',').filter(|visit| !visit.is_empty()) {
        let outcome = match visit.split_once(' ') {
            Some(("http", to)) => http(to),
            Some(("echo", to)) => echo(to),
            _ => Err(std::io::ErrorKind::InvalidInput.into()),
        };
        failed += usize::from(outcome.is_err());
        match outcome {
            Ok(what) => println!("{visit} {what}"),
            Err(error) => println!("{visit} failed: {error}"),
        }
    }
    if failed > 0 { Err(format!("{failed} visits failed").into()) } else { Ok(()) }
}

/// The status line.
fn http(to: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

fn echo(to: &str) -> std::io::Result<String> {
    let to = to.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"anybody there")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned())
}

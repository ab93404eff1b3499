//! A SOCKS server in a process of its own: as a program on the captured machine, with a user id that can be excluded.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use super::{SocksOptions, SocksServer};
use crate::error::LabError;
use crate::harness::{ROLE as ROLE_VARIABLE, TestResult};
use crate::ns::NetNs;
use crate::program::{Oneway, Program};

/// The part that the test program plays.
pub(crate) const ROLE: &str = "lab-socks";

/// Where it listens: addresses and ports with commas between them.
const LISTEN: &str = "ONEWAY_LAB_SOCKS_LISTEN";

/// A SOCKS server, version 5 and 4, without a password, in a process of its own. Only test programs that run under
/// [`Harness`](crate::harness::Harness) can start one: the process is the test program again.
#[derive(Debug)]
pub struct SocksProcess {
    /// The process.
    pub process: Oneway,
}

impl SocksProcess {
    /// Starts it in `namespace` on each of `addresses`, as the user `uid` if one is given.
    ///
    /// # Errors
    /// As of [`Program::start`]; in a user namespace there is no second user id.
    pub fn start(namespace: &NetNs, addresses: &[SocketAddr], uid: Option<u32>) -> Result<Self, LabError> {
        let listen: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let program = Program::new::<&str>(namespace, "/proc/self/exe", [])
            .env(ROLE_VARIABLE, ROLE)
            .env(LISTEN, listen.join(","))
            .ready("ready:", Duration::from_secs(5));
        let program = match uid {
            Some(uid) => program.uid(uid),
            None => program,
        };
        Ok(Self { process: program.start()? })
    }

    /// Starts it in `namespace` by way of another program, which is given the server's program behind its own `words` and
    /// is expected to become it.
    ///
    /// # Errors
    /// As of [`Program::start`].
    pub fn start_by(
        namespace: &NetNs,
        program: &str,
        words: &[&str],
        addresses: &[SocketAddr],
    ) -> Result<Self, LabError> {
        let own = std::env::current_exe().map_err(|source| LabError::Program {
            what: "find",
            program: "the test program".to_owned(),
            source,
        })?;
        let listen: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let words = words.iter().map(OsString::from).chain([own.into_os_string()]);
        let program = Program::new(namespace, program, words)
            .env(ROLE_VARIABLE, ROLE)
            .env(LISTEN, listen.join(","))
            .ready("ready:", Duration::from_secs(5));
        Ok(Self { process: program.start()? })
    }
}

/// What the process does.
#[allow(clippy::print_stdout, reason = "the process that started this one waits for the line")]
pub(crate) fn play() -> TestResult {
    let listen = std::env::var(LISTEN)?;
    let addresses = listen.split(',').map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    let _server = SocksServer::start(&NetNs::current("here")?, &addresses, SocksOptions::default())?;
    println!("ready: SOCKS on {listen}");
    loop {
        std::thread::park();
    }
}

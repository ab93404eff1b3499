//! The listeners of `--capture redirect`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use oneway_capture::listener::listen_for_redirected;

use crate::config::{CaptureMode, Config};
use crate::error::EngineError;

/// The port that is taken where it is free.
const PORT: u16 = 16_262;
/// Others that are tried, each chosen by the kernel.
const TRIES: usize = 16;

/// The listeners of each worker, on the loopback address of each family that there is, all on one port.
#[derive(Debug, Default)]
pub(super) struct Redirected {
    /// `None` where nothing is redirected.
    pub(super) port: Option<u16>,
    pub(super) of_workers: Vec<Vec<TcpListener>>,
}

/// The port that `run` would redirect to, if it does that.
pub(super) fn port(config: &Config) -> Option<u16> {
    (config.capture.mode == CaptureMode::Redirect).then_some(PORT)
}

/// Listens with so many workers, if the configuration asks for it.
///
/// # Errors
/// [`EngineError::Listen`] when there is no port.
pub(super) fn listen(config: &Config, workers: usize) -> Result<Redirected, EngineError> {
    let Some(wanted) = port(config) else { return Ok(Redirected::default()) };
    let mut outcome = on(wanted, workers);
    for _ in 0..TRIES {
        if outcome.is_ok() {
            break;
        }
        outcome = on(0, workers);
    }
    outcome.map_err(|source| EngineError::Listen { address: Ipv4Addr::LOCALHOST.into(), source })
}

fn on(port: u16, workers: usize) -> io::Result<Redirected> {
    // Alone at first: a program of the same user may share a port that is to be shared.
    let port = listen_for_redirected((Ipv4Addr::LOCALHOST, port).into(), false)?.local_addr()?.port();
    let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into()];
    match listen_for_redirected((Ipv6Addr::LOCALHOST, port).into(), false) {
        Ok(_) => addresses.push(Ipv6Addr::LOCALHOST.into()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A host without IPv6 has nothing of it to redirect.
        Err(_) => {}
    }
    let listen = |_| {
        let each = addresses.iter().map(|ip| listen_for_redirected(SocketAddr::new(*ip, port), true));
        each.collect::<io::Result<Vec<_>>>()
    };
    let of_workers = (0..workers).map(listen).collect::<io::Result<Vec<_>>>()?;
    Ok(Redirected { port: Some(port), of_workers })
}

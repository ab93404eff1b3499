//! The sockets that the packet filter hands this host's own traffic to: `--capture redirect` and `--capture tproxy`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use oneway_capture::listener::listen_for_redirected;
use oneway_capture::tproxy::{self, Datagrams};

use crate::config::{CaptureMode, Config};
use crate::error::EngineError;
use crate::worker::Handed;

/// The port that is taken where it is free.
const PORT: u16 = 16_262;
/// Others that are tried, each chosen by the kernel.
const TRIES: usize = 16;

/// The sockets of each worker, on the loopback address of each family that there is, all on one port.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// `None` where nothing is handed over.
    pub(super) port: Option<u16>,
    pub(super) of_workers: Vec<Handed>,
}

/// The port that `run` would have things handed to, if it does that.
pub(super) fn port(config: &Config) -> Option<u16> {
    (config.capture.mode != CaptureMode::Tun).then_some(PORT)
}

/// Makes those of so many workers, if the configuration asks for it.
///
/// # Errors
/// [`EngineError::Listen`] when there is no port, or no right to transparent sockets.
pub(super) fn open(config: &Config, workers: usize) -> Result<Sockets, EngineError> {
    let Some(wanted) = port(config) else { return Ok(Sockets::default()) };
    let transparent = config.capture.mode == CaptureMode::Tproxy;
    let mut outcome = on(wanted, transparent, workers);
    for _ in 0..TRIES {
        if outcome.is_ok() {
            break;
        }
        outcome = on(0, transparent, workers);
    }
    outcome.map_err(|source| EngineError::Listen { address: Ipv4Addr::LOCALHOST.into(), source })
}

fn on(port: u16, transparent: bool, workers: usize) -> io::Result<Sockets> {
    let listen = |ip: IpAddr, port, shared| match transparent {
        true => tproxy::listen(SocketAddr::new(ip, port), shared),
        false => listen_for_redirected(SocketAddr::new(ip, port), shared),
    };
    let [v4, v6]: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    // Alone at first: a program of the same user may share a port that is to be shared.
    let port = listen(v4, port, false)?.local_addr()?.port();
    let mut addresses = vec![v4];
    match listen(v6, port, false) {
        Ok(_) => addresses.push(v6),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A host without IPv6 has nothing of it to hand over.
        Err(_) => {}
    }
    if transparent {
        let alone = |ip: &IpAddr| Datagrams::bind(SocketAddr::new(*ip, port), false).map(drop);
        addresses.iter().try_for_each(alone)?;
    }
    let of_worker = |_| -> io::Result<Handed> {
        let listeners: io::Result<Vec<TcpListener>> =
            addresses.iter().map(|ip| listen(*ip, port, true)).collect();
        let datagrams = addresses.iter().filter(|_| transparent);
        let datagrams = datagrams.map(|ip| Datagrams::bind(SocketAddr::new(*ip, port), true));
        Ok(Handed { transparent, listeners: listeners?, datagrams: datagrams.collect::<io::Result<_>>()? })
    };
    let of_workers = (0..workers).map(of_worker).collect::<io::Result<_>>()?;
    Ok(Sockets { port: Some(port), of_workers })
}

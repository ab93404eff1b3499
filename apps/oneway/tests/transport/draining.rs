//! Connections whose client is done, while what it has said waits for a server that reads slowly.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

use oneway_lab::client::{Client, wait_until};
use oneway_lab::harness::{Failed, TestResult};
use oneway_lab::pattern;
use oneway_lab::topology::{Simple, Topology, address};
use socket2::SockRef;

use crate::common::{SECOND, ask, run};
use crate::streams::{is_reset, no_flow_is_left};

/// More than the sockets on the way hold, and less than what is held for the client.
const LEN: usize = 300_000;

/// A laboratory whose sockets hold little.
fn lab() -> Result<Simple, Failed> {
    let lab = Topology::simple()?;
    lab.host.set_sysctl("ipv4/tcp_wmem", "4096 16384 32768")?;
    Ok(lab)
}

/// A listener beyond, of whose connections little is received before it is read.
fn listen(lab: &Simple, to: SocketAddr) -> Result<TcpListener, Failed> {
    let listener = lab.net.run(|| TcpListener::bind(to))??;
    SockRef::from(&listener).set_recv_buffer_size(4096)?;
    Ok(listener)
}

/// A connection both of whose halves are closed, with [`LEN`] bytes that the server, which is returned, has yet to read.
fn done(client: &Client, listener: &TcpListener, server_first: bool) -> Result<TcpStream, Failed> {
    let mut stream = client.tcp(listener.local_addr()?, 5 * SECOND)?.connected()?;
    let server = listener.accept()?.0;
    if server_first {
        server.shutdown(Shutdown::Write)?;
        assert_eq!(stream.read(&mut [0])?, 0);
    }
    stream.write_all(&pattern::bytes(LEN))?;
    stream.shutdown(Shutdown::Write)?;
    if !server_first {
        server.shutdown(Shutdown::Write)?;
        assert_eq!(stream.read(&mut [0])?, 0);
    }
    Ok(server)
}

/// The server has closed first, so that the connection rests in TIME-WAIT, which gives way (RFC 6191).
pub fn a_port_used_again_leaves_the_upload_of_before_alone() -> TestResult {
    let lab = lab()?;
    let _oneway = run(&lab.host, None, &[])?;
    let own = [(Ipv4Addr::UNSPECIFIED, 40_000).into(), SocketAddr::from((Ipv6Addr::UNSPECIFIED, 40_001))];
    for (to, own) in address::SPARE.ports(5001).into_iter().zip(own) {
        let listener = listen(&lab, to)?;
        let client = lab.host.client().source_port(own);
        let mut server = done(&client, &listener, true)?;
        let mut again = None;
        wait_until(2 * SECOND, "the port can be used again", || {
            again = client.tcp(to, 2 * SECOND).and_then(|dial| dial.connected()).ok();
            again.is_some()
        })?;
        let mut again = again.ok_or("no connection")?;
        let mut received = Vec::new();
        server.read_to_end(&mut received).map_err(|error| format!("{to}: {error}"))?;
        assert!(received == pattern::bytes(LEN), "{to}: {} bytes", received.len());
        let mut server = listener.accept()?.0;
        again.write_all(b"again")?;
        let mut heard = [0; 5];
        server.read_exact(&mut heard)?;
        assert_eq!(&heard, b"again", "{to}");
        drop((again, server));
        no_flow_is_left(&lab.host)?;
    }
    Ok(())
}

/// A rule that comes to forbid them is for them, too.
pub fn a_reload_that_forbids_them_resets_them() -> TestResult {
    let lab = lab()?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("oneway.toml");
    let write = |rule: &str| std::fs::write(&file, format!("[rules]\nlist = [{rule:?}]\n"));
    write("MATCH,direct")?;
    let _oneway = run(&lab.host, None, &["--config", file.to_str().ok_or("a path that is no text")?])?;
    let mut servers = Vec::new();
    for to in address::SPARE.ports(5001) {
        servers.push(done(&lab.host.client(), &listen(&lab, to)?, false)?);
    }
    write("MATCH,block")?;
    let done = ask(&lab.host, "reload")?;
    assert_eq!(done["reset"], 2, "{done}");
    servers.iter().try_for_each(is_told)?;
    no_flow_is_left(&lab.host)
}

/// A FIN behind a part of what the client has said would tell the server that this was all.
pub fn they_are_reset_when_the_program_stops() -> TestResult {
    for server_first in [false, true] {
        let lab = lab()?;
        let mut oneway = run(&lab.host, None, &[])?;
        let mut servers = Vec::new();
        for to in address::SPARE.ports(5001) {
            servers.push(done(&lab.host.client(), &listen(&lab, to)?, server_first)?);
        }
        oneway.stop(5 * SECOND)?;
        servers.iter().try_for_each(is_told)?;
    }
    Ok(())
}

/// A server that is gone takes the rest with it.
pub fn a_server_that_resets_ends_them() -> TestResult {
    let lab = lab()?;
    let _oneway = run(&lab.host, None, &[])?;
    for to in address::SPARE.ports(5001) {
        let server = done(&lab.host.client(), &listen(&lab, to)?, false)?;
        // What it has not read makes closing a reset (RFC 2525, 2.17).
        drop(server);
        no_flow_is_left(&lab.host).map_err(|error| format!("{to}: {error:?}"))?;
    }
    Ok(())
}

fn is_told(server: &TcpStream) -> TestResult {
    wait_until(5 * SECOND, "the server hears of the reset", || is_reset(server))?;
    Ok(())
}

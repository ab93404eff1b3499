//! A client whose connection the kernel has accepted before its outbound is connected: whether it still waits for that.

use std::net::SocketAddr;
use std::time::Duration;

use oneway_flow::is_orphan;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// How long the outbound is still waited for after a client has closed its half and said nothing, and how often it is then
/// asked whether anybody is there. With the device a client that repeats its SYN no more is given as much.
const PATIENCE: Duration = Duration::from_secs(5);

/// Resolves when the client has reset the connection.
pub(super) async fn has_reset(client: &TcpStream) {
    loop {
        match client.ready(Interest::ERROR).await {
            Ok(ready) if ready.is_error() => return,
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Resolves when the client, whose socket is that from `from` to `dst`, has closed it without having said anything: there is
/// nothing to deliver then, and nobody to deliver to.
///
/// The FIN alone does not tell: a client that has only closed its half may wait for what the server says first, and one that
/// has sent a request and is gone has it delivered. So the kernel is asked whose the socket is.
pub(super) async fn has_left(client: &TcpStream, from: SocketAddr, dst: SocketAddr) {
    match client.peek(&mut [0]).await {
        // The end, with nothing before it.
        Ok(0) => {}
        Ok(_) => std::future::pending().await,
        Err(_) => return,
    }
    loop {
        sleep(PATIENCE).await;
        // It is cancelled only when the runtime ends, and then nobody is waited for.
        if tokio::task::spawn_blocking(move || is_orphan(from, dst)).await.unwrap_or(true) {
            return;
        }
    }
}

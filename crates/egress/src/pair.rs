//! Two sockets that are connected to each other, for what is answered inside this program.

#[cfg(all(unix, target_vendor = "apple"))]
#[path = "pair/datagrams.rs"]
mod kind;
#[cfg(all(unix, not(target_vendor = "apple")))]
#[path = "pair/sequenced.rs"]
mod kind;
#[cfg(unix)]
#[path = "pair/unix.rs"]
mod os;
#[cfg(not(unix))]
#[path = "pair/unsupported.rs"]
mod os;

use tokio::net::{TcpStream, UdpSocket};

use crate::tie::{self, TunnelEnd};
use crate::{EgressError, Protected};

/// A stream for a flow that ends here instead of on a network, and the end to answer it at. It cannot loop, as nothing of
/// it ever leaves this process: it has no address and no port.
///
/// # Errors
/// [`EgressError::Create`]; [`EgressError::Unsupported`] on systems without such sockets.
pub fn local_pair() -> Result<(Protected<TcpStream>, TcpStream), EgressError> {
    let (flow, own) = os::pair()?;
    Ok((Protected::new(flow, None), own))
}

/// The same, for a flow whose bytes go on over something that is no socket: the two ends also tell each other of resets,
/// which such sockets do not have.
///
/// # Errors
/// As [`local_pair`].
pub fn tunnel_pair() -> Result<(Protected<TcpStream>, TcpStream, TunnelEnd), EgressError> {
    let (flow, own) = os::pair()?;
    let (flow_end, tunnel_end) = tie::tie();
    Ok((Protected::new(flow, None).tied(flow_end), own, tunnel_end))
}

/// The same for datagrams, each of which stays one. The flow's end looks like a socket to a relay, and the sender of what
/// comes out of it is nobody.
///
/// # Errors
/// As [`local_pair`].
pub fn datagram_pair() -> Result<(Protected<UdpSocket>, UdpSocket), EgressError> {
    let (flow, own) = os::datagram_pair()?;
    Ok((Protected::new(flow, None), own))
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_goes_in_comes_out_and_ends() {
        let (flow, mut own) = local_pair().unwrap();
        let (mut flow, _) = flow.into_parts();
        flow.write_all(b"question").await.unwrap();
        let mut buffer = [0; 8];
        own.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"question");
        own.write_all(b"answer").await.unwrap();
        own.shutdown().await.unwrap();
        let mut answer = Vec::new();
        flow.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    }

    #[tokio::test]
    async fn a_tunnel_and_its_flow_tell_each_other_how_they_end() {
        let (mut flow, own, tunnel) = tunnel_pair().unwrap();
        let tie = flow.take_tie().unwrap();
        assert!(!tie.is_cut());
        tunnel.cut();
        drop(own);
        assert_eq!(flow.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(tie.is_cut());

        let (flow, _own, tunnel) = tunnel_pair().unwrap();
        drop(flow);
        tunnel.gone().await;
        assert!(!tunnel.was_reset());
        let (mut flow, _own, tunnel) = tunnel_pair().unwrap();
        let tie = flow.take_tie().unwrap();
        tie.reset();
        drop(tie);
        tunnel.gone().await;
        assert!(tunnel.was_reset());
    }

    #[tokio::test]
    async fn datagrams_stay_apart() {
        let (flow, own) = datagram_pair().unwrap();
        for size in [1, 1400, 65_000] {
            own.send(&vec![7; size]).await.unwrap();
        }
        let mut buffer = vec![0; 70_000];
        for size in [1, 1400, 65_000] {
            assert_eq!(flow.recv(&mut buffer).await.unwrap(), size);
        }
    }
}

//! Two sockets that are connected to each other, for what is answered inside this program.

#[cfg(unix)]
#[path = "pair/unix.rs"]
mod os;
#[cfg(not(unix))]
#[path = "pair/unsupported.rs"]
mod os;

use tokio::net::TcpStream;

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
}

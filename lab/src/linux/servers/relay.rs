//! Carries bytes between the two connections of a proxy.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

/// Bytes carried, in both directions together.
pub(crate) type Carried = Arc<AtomicU64>;

/// Carries until both sides have ended; a FIN travels as a FIN, a RST as a RST. A change of `killed` resets both.
pub(crate) async fn relay(
    mut near: TcpStream,
    mut far: TcpStream,
    carried: Carried,
    mut killed: watch::Receiver<u64>,
) {
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    killed.mark_unchanged();
    let broken = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        tokio::select! {
            done = async {
                tokio::try_join!(
                    copy(near_read, far_write, &carried),
                    copy(far_read, near_write, &carried),
                )
            } => done.is_err(),
            _ = killed.changed() => true,
        }
    };
    if broken {
        super::reset_on_drop(&near);
        super::reset_on_drop(&far);
    }
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, carried: &Carried) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        carried.fetch_add(read as u64, Ordering::Relaxed);
    }
}

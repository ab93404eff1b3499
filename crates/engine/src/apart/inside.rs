//! The process inside, until it becomes the program.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use oneway_capture::listener::listen_on_device;
use oneway_capture::namespace::{inherited, unshare};
use oneway_capture::tun::{Tun, TunOptions};
use oneway_flow::SocketTable;
use rustix::mount::MountPropagationFlags;
use rustix::thread::CapabilitySet;

use super::{ApartError, Made, Wish, descriptors, resolver};

/// Moves the calling process, which must have a single thread, into namespaces of its own as the one outside wishes, hands
/// the TUN over, and returns when that carries what comes. `channel` is the number of the descriptor that
/// [`Outside::new`](super::Outside::new) has given, handed over across `exec`.
///
/// # Errors
/// [`ApartError::Talk`] when the process outside has given up. All other failures are told to it, and then are this one's
/// failure too.
pub fn enter(channel: RawFd) -> Result<(), ApartError> {
    let channel = UnixStream::from(inherited(channel).map_err(ApartError::Talk)?);
    let (text, _) = descriptors::receive(&channel).map_err(ApartError::Talk)?;
    let wish: Wish = serde_json::from_slice(&text).map_err(|e| ApartError::Talk(e.into()))?;
    let made = make(&wish);
    let (told, kept) = match &made {
        Ok((made, queues, listeners, table)) => {
            let mut kept: Vec<BorrowedFd<'_>> = queues.iter().map(AsFd::as_fd).collect();
            kept.extend(table.iter().map(AsFd::as_fd));
            kept.extend(listeners.iter().map(AsFd::as_fd));
            (serde_json::to_vec(&Ok::<_, String>(made)), kept)
        }
        Err(error) => (serde_json::to_vec(&Err::<Made, _>(error.to_string())), Vec::new()),
    };
    let mut told = told.map_err(|e| ApartError::Talk(e.into()))?;
    told.push(b'\n');
    descriptors::send(&channel, &told, &kept).map_err(ApartError::Talk)?;
    drop(kept);
    made?;
    let mut go = [0];
    (&channel).read_exact(&mut go).map_err(ApartError::Talk)
}

type Handed = (Made, Vec<OwnedFd>, Vec<TcpListener>, Option<SocketTable>);

fn make(wish: &Wish) -> Result<Handed, ApartError> {
    let inside = |error: &dyn std::fmt::Display| ApartError::Inside(error.to_string());
    into_namespaces()?;
    let options = TunOptions {
        name: Some(wish.tun.clone()),
        queues: wish.queues,
        no_offload: !wish.offload,
        ..TunOptions::default()
    };
    let tun = Tun::open(&options).map_err(|e| inside(&e))?;
    let name = tun.name().to_owned();
    let addresses = oneway_route::furnish(&name, wish.mtu, &wish.addresses, wish.congestion.as_deref())
        .map_err(|e| inside(&e))?;
    let mut notes = Vec::new();
    notes.extend(match wish.nameserver {
        Some(nameserver) => resolver::replace(nameserver),
        None => resolver::unreachable(),
    });
    let mut listeners = Vec::new();
    if wish.listeners {
        for _ in 0..wish.queues {
            for net in &addresses {
                let at = SocketAddr::new(net.addr(), 0);
                let listener = listen_on_device(at, &name)
                    .map_err(|e| inside(&format!("cannot listen on the TUN's address {at}: {e}")))?;
                listeners.push(listener);
            }
        }
    }
    let table = SocketTable::open();
    if let Err(error) = &table {
        notes.push(format!(
            "rules on programs and users match nothing: the kernel does not tell whose sockets are: {error}"
        ));
    }
    let netns = oneway_route::netns().map_err(|e| inside(&e))?;
    let queues = tun.into_fds();
    let made = Made { tun: name, netns, addresses, queues: queues.len(), table: table.is_ok(), notes };
    Ok((made, queues, listeners, table.ok()))
}

/// With the right to, directly; without, in a user namespace where the user stays who he is.
fn into_namespaces() -> Result<(), ApartError> {
    let refused = |source: std::io::Error| ApartError::Namespace { source };
    let sets = rustix::thread::capabilities(None).map_err(|e| refused(e.into()))?;
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    if sets.effective.contains(needed) {
        unshare(false).map_err(refused)?;
    } else {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        unshare(true).map_err(refused)?;
        let write = |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text).map_err(refused);
        // user_namespaces(7): without CAP_SETGID outside, setgroups must be denied before gid_map is written.
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{uid} {uid} 1"))?;
        write("gid_map", format!("{gid} {gid} 1"))?;
    }
    // What is mounted here is nobody else's business; what is mounted outside later still comes here.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|e| ApartError::Inside(format!("cannot make the mounts private: {e}")))
}

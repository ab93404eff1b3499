//! Packets that no sane sender makes, handed to a device by an `AF_PACKET` socket.

use std::io;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Socket, Type};

use crate::error::LabError;
use crate::ns::NetNs;
use crate::packet_socket::packet_socket;

/// Sends raw packets by one device, as they are: a TUN's program reads them.
#[derive(Debug)]
pub struct Injector {
    plain: Socket,
    offloaded: Socket,
}

impl Injector {
    /// An injector for a device without link-layer headers.
    ///
    /// # Errors
    /// [`LabError::Capture`] when the kernel refuses, [`LabError::Netlink`] when there is no such device.
    pub fn open(namespace: &NetNs, device: &str) -> Result<Self, LabError> {
        let index = namespace.link_index(device)?;
        let fail = |source| LabError::Capture { device: device.to_owned(), source };
        let plain = namespace.run(|| packet_socket(Type::RAW, index))?.map_err(fail)?;
        let offloaded = namespace.run(|| packet_socket(Type::RAW, index))?.map_err(fail)?;
        expect_virtio_header(&offloaded).map_err(fail)?;
        Ok(Self { plain, offloaded })
    }

    /// Sends these bytes in place of an IP packet, and waits while the device's queue is full.
    ///
    /// # Errors
    /// Those of `send(2)`.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        send(&self.plain, packet)
    }

    /// Sends a packet behind a `virtio_net_hdr` of ten bytes, which the kernel turns into the packet's properties.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a header that the kernel does not believe.
    pub fn send_offloaded(&self, header: &[u8; 10], packet: &[u8]) -> io::Result<()> {
        send(&self.offloaded, &[header.as_slice(), packet].concat())
    }
}

fn send(socket: &Socket, bytes: &[u8]) -> io::Result<()> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match socket.send(bytes) {
            Ok(_) => return Ok(()),
            Err(error) if is_full(&error) && Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// `PACKET_VNET_HDR`, packet(7).
fn expect_virtio_header(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the borrow of `socket`; the value points to a live int of that length.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

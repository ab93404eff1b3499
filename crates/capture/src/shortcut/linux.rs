//! The table of renamed connections, and the program that reads it.

mod bpf;
mod program;

use std::ffi::CString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use bpf::Map;
use program::{ENDS, Ends, program};

/// Connections whose packets the kernel renames by itself.
///
/// Safe to share between threads. When this is dropped, all packets come to the device's readers again.
#[derive(Debug)]
pub struct Shortcuts {
    names: Map,
    _link: OwnedFd,
}

impl Shortcuts {
    /// For packets that leave by `device`, with room for `most` entries of [`Self::insert`].
    ///
    /// # Errors
    /// What bpf(2) said: without `CAP_BPF` and `CAP_NET_ADMIN` `PermissionDenied`, before Linux 6.6 `InvalidInput`.
    pub fn attach(device: &str, most: usize) -> io::Result<Self> {
        let name = CString::new(device)?;
        // SAFETY: if_nametoindex reads a text that ends in a zero and lives until the call returns.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let names = Map::new(ENDS, ENDS, u32::try_from(most).unwrap_or(u32::MAX))?;
        let program = bpf::load(&program(names.number()), c"MIT")?;
        let link = bpf::attach_to_egress(&program, index)?;
        Ok(Self { names, _link: link })
    }

    /// From now on packets from `from.0` to `from.1` become packets from `to.0` to `to.1`. All four are of one family.
    ///
    /// # Errors
    /// `ArgumentListTooLong` (`E2BIG`) when the table is full; `InvalidInput` for two families.
    pub fn insert(&self, from: (SocketAddr, SocketAddr), to: (SocketAddr, SocketAddr)) -> io::Result<()> {
        if [from.1, to.0, to.1].iter().any(|end| end.is_ipv4() != from.0.is_ipv4()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.names.insert(&bytes(from), &bytes(to))
    }

    /// Packets of these ends come to this program again.
    pub fn remove(&self, from: (SocketAddr, SocketAddr)) {
        // That there was none is fine, and nothing else can be wrong with it.
        let _ = self.names.remove(&bytes(from));
    }
}

fn bytes((src, dst): (SocketAddr, SocketAddr)) -> [u8; ENDS] {
    let ends = Ends {
        src: address(src.ip()),
        dst: address(dst.ip()),
        src_port: src.port().to_be_bytes(),
        dst_port: dst.port().to_be_bytes(),
    };
    let mut bytes = [0; ENDS];
    let parts = ends.src.into_iter().chain(ends.dst).chain(ends.src_port).chain(ends.dst_port);
    bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    bytes
}

fn address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from);
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

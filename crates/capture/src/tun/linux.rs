//! `/dev/net/tun` (kernel: `drivers/net/tun.c`, `Documentation/networking/tuntap.rst`).

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::io::{read, write, writev};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use oneway_stack::offload::{Coalescer, segment};
use oneway_stack::tcp::Payload;
use oneway_wire::virtio::VirtioNetHdr;

use super::{Offload, TunError, TunOptions};
use crate::FRAME_HEADER;
use crate::fault::Fault;
use crate::pcap::PcapWriter;

/// Packets that [`Queue::read_joined`] takes in one turn: some superpackets' worth.
const BATCH: usize = 128;

/// Parts that [`Queue::write_vectored`] takes: the headers, and the data of the stack's segments.
const MAX_PARTS: usize = 1 + Payload::MAX_PARTS;

/// A TUN device and its queues.
#[derive(Debug)]
pub struct Tun {
    name: String,
    offload: Offload,
    queues: Vec<Queue>,
}

/// One queue of a TUN device (`IFF_MULTI_QUEUE`), non-blocking.
///
/// The kernel gives a flow's packets to the queue that the flow was last answered on.
#[derive(Debug)]
pub struct Queue {
    device: File,
    vnet_hdr: bool,
    offload: Offload,
    /// Where superpackets are cut for a device that takes none.
    pieces: Mutex<Vec<u8>>,
    pcap: Option<Arc<PcapWriter>>,
    faults: Option<Mutex<Faults>>,
}

#[derive(Debug)]
struct Faults {
    from_kernel: Fault,
    to_kernel: Fault,
}

impl Tun {
    /// Creates the interface, or joins a persistent one of that name, and opens its queues.
    ///
    /// Needs `CAP_NET_ADMIN` unless a persistent interface belongs to this user. The interface vanishes with the last
    /// descriptor.
    pub fn open(options: &TunOptions) -> Result<Self, TunError> {
        let wanted = options.name.as_deref().unwrap_or("");
        if wanted.len() > 15 || wanted.contains(|c: char| c == '/' || c.is_whitespace()) {
            return Err(TunError::Name(wanted.to_owned()));
        }
        let count = options.queues.max(1);
        let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
        if count > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        if !options.no_offload {
            flags |= libc::IFF_VNET_HDR;
        }
        let mut name = wanted.to_owned();
        let mut devices = Vec::with_capacity(count);
        for _ in 0..count {
            let device = open_node()?;
            name = set_iff(&device, &name, flags)
                .map_err(|source| TunError::Create { name: name.clone(), source })?;
            devices.push(device);
        }
        Self::with_devices(name, devices, !options.no_offload, options)
    }

    /// Takes over descriptors of a TUN that somebody else opened, one for each queue.
    ///
    /// Needs no capability. The descriptors must have been opened with `IFF_TUN | IFF_NO_PI`; with `IFF_VNET_HDR`
    /// offload is used as well. Whether `IFF_NO_PI` is missing the link alone tells (`IFLA_TUN_PI`): `TUNGETIFF` has the same
    /// bit for a descriptor without a filter (`IFF_NOFILTER`, `__tun_chr_ioctl`), as those of a TUN all are.
    pub fn from_fds(fds: Vec<OwnedFd>, options: &TunOptions) -> Result<Self, TunError> {
        let mut name = String::new();
        let mut vnet_hdr = false;
        let mut devices = Vec::with_capacity(fds.len());
        for fd in fds {
            let number = fd.as_raw_fd();
            let bad = |source| TunError::NotTun { fd: number, source };
            let device = File::from(fd);
            let (device_name, flags) = attached(number)?;
            vnet_hdr = flags & libc::IFF_VNET_HDR != 0;
            let status = rustix::fs::fcntl_getfl(&device).map_err(|e| bad(e.into()))?;
            rustix::fs::fcntl_setfl(&device, status | rustix::fs::OFlags::NONBLOCK)
                .map_err(|e| bad(e.into()))?;
            name = device_name;
            devices.push(device);
        }
        Self::with_devices(name, devices, vnet_hdr, options)
    }

    /// Like [`Tun::from_fds`], by number, as `--tun-fd` gives it. The descriptor stays its owner's: this has another one of the
    /// same open file, which does not block from now on, and the interface lives until both are closed.
    pub fn from_raw_fd(fd: RawFd, options: &TunOptions) -> Result<Self, TunError> {
        Self::name_of_raw_fd(fd)?;
        // SAFETY: the call takes two integers, and fails for a number that is not open.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
        if own < 0 {
            return Err(TunError::NotTun { fd, source: io::Error::last_os_error() });
        }
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else knows it.
        Self::from_fds(vec![unsafe { OwnedFd::from_raw_fd(own) }], options)
    }

    /// The name of the TUN that [`Tun::from_raw_fd`] would take over. Changes nothing.
    pub fn name_of_raw_fd(fd: RawFd) -> Result<String, TunError> {
        if fd < 3 {
            return Err(TunError::NotTun { fd, source: io::ErrorKind::InvalidInput.into() });
        }
        attached(fd).map(|(name, _)| name)
    }

    /// Its queues' descriptors, to be handed to another process and taken over there by [`Tun::from_fds`].
    pub fn into_fds(self) -> Vec<OwnedFd> {
        self.queues.into_iter().map(|queue| queue.device.into()).collect()
    }

    fn with_devices(
        name: String,
        devices: Vec<File>,
        vnet_hdr: bool,
        options: &TunOptions,
    ) -> Result<Self, TunError> {
        let mut offload = Offload::default();
        if vnet_hdr {
            for device in &devices {
                let size = FRAME_HEADER as libc::c_int;
                // SAFETY: TUNSETVNETHDRSZ reads one int, which lives until the call returns.
                let done = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
                if done < 0 {
                    let source = io::Error::last_os_error();
                    return Err(TunError::Setup { doing: "set the header size", name, source });
                }
            }
            // The offload flags belong to the device, not to the queue: once is enough.
            offload =
                devices.first().map(|device| set_offload(device, options.no_offload)).unwrap_or_default();
        }
        let pcap = match &options.pcap {
            Some(path) => {
                let writer = PcapWriter::create(path)
                    .map_err(|source| TunError::Pcap { path: path.clone(), source })?;
                Some(Arc::new(writer))
            }
            None => None,
        };
        let queues = devices
            .into_iter()
            .map(|device| Queue {
                device,
                vnet_hdr,
                offload,
                pieces: Mutex::default(),
                pcap: pcap.clone(),
                faults: options.fault.as_ref().map(|spec| {
                    let mut back = spec.clone();
                    back.seed = back.seed.wrapping_add(1);
                    Mutex::new(Faults { from_kernel: Fault::new(spec.clone()), to_kernel: Fault::new(back) })
                }),
            })
            .collect();
        Ok(Self { name, offload, queues })
    }

    /// The interface's name, as the kernel gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel does for us on this device.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// The queues, to be handed to workers.
    pub fn into_queues(self) -> Vec<Queue> {
        self.queues
    }
}

impl Queue {
    /// Reads one frame (header and packet) and returns its length; `WouldBlock` when there is none.
    ///
    /// `frame` should be [`crate::MAX_FRAME`] long: the kernel cuts off what does not fit.
    pub fn read(&self, frame: &mut [u8]) -> io::Result<usize> {
        let Some(faults) = &self.faults else {
            let len = self.read_device(frame)?;
            self.record(frame.get(..len).unwrap_or_default());
            return Ok(len);
        };
        let mut faults = faults.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            if let Some(due) = faults.from_kernel.pop_due(Instant::now()) {
                let len = due.len().min(frame.len());
                if let (Some(to), Some(from)) = (frame.get_mut(..len), due.get(..len)) {
                    to.copy_from_slice(from);
                }
                self.record(&due);
                return Ok(len);
            }
            let len = self.read_device(frame)?;
            faults.from_kernel.push(Instant::now(), frame.get(..len).unwrap_or_default());
        }
    }

    /// Reads what is waiting, as far as there is room in `batch`, and joins what can be. For a device whose packets come
    /// cut ([`Offload::tcp_segmentation`]). True if there may be more.
    ///
    /// # Errors
    /// Those of `read(2)`; what was read before is in `batch`. `WouldBlock` when there was nothing at all.
    pub fn read_joined(&self, batch: &mut Coalescer) -> io::Result<bool> {
        for _ in 0..BATCH {
            let Some(frame) = batch.room() else { break };
            match self.read(frame) {
                Ok(len) => batch.commit(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !batch.is_empty() => {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Hands one frame to the kernel, in pieces where the device takes no superpackets. Never blocks: a full device is an
    /// error, and what it does not take is lost.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        if self.vnet_hdr {
            return self.write_frame(frame);
        }
        let (header, packet) = frame.split_at_checked(FRAME_HEADER).ok_or(io::ErrorKind::InvalidInput)?;
        // An ordinary packet with whole checksums.
        if header.iter().all(|&byte| byte == 0) {
            return self.write_frame(frame);
        }
        self.write_cut(header, &[packet])
    }

    /// Hands one frame in parts to the kernel, without copying them together where the kernel can do so. The first part
    /// has all headers. Otherwise as [`Queue::write`].
    pub fn write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.vnet_hdr && self.faults.is_none() && self.pcap.is_none() {
            return Ok(writev(&self.device, parts).map(drop)?);
        }
        let mut slices: [&[u8]; MAX_PARTS] = [&[]; MAX_PARTS];
        let slices = slices.get_mut(..parts.len()).ok_or(io::ErrorKind::InvalidInput)?;
        slices.iter_mut().zip(parts).for_each(|(slice, part)| *slice = &**part);
        if self.vnet_hdr {
            return self.write_frame(&slices.concat());
        }
        let first = slices.first_mut().ok_or(io::ErrorKind::InvalidInput)?;
        let (header, packet) = first.split_at_checked(FRAME_HEADER).ok_or(io::ErrorKind::InvalidInput)?;
        *first = packet;
        self.write_cut(header, slices)
    }

    /// Does in software what the device lacks: cuts superpackets, completes checksums.
    fn write_cut(&self, header: &[u8], parts: &[&[u8]]) -> io::Result<()> {
        let header = header.first_chunk().ok_or(io::ErrorKind::InvalidInput)?;
        let mut pieces = self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut result = Ok(());
        // One piece that is lost is no reason to lose the others.
        let each =
            |packet: &[u8]| result = self.write_packet(packet).and(std::mem::replace(&mut result, Ok(())));
        segment(&VirtioNetHdr::decode(header), parts, &mut pieces, each)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        result
    }

    fn write_packet(&self, packet: &[u8]) -> io::Result<()> {
        if self.faults.is_none() && self.pcap.is_none() {
            return Ok(write(&self.device, packet).map(drop)?);
        }
        self.write_frame(&[&[0; FRAME_HEADER], packet].concat())
    }

    /// Hands a frame that the device takes as it is to the kernel, by way of the record and the faults.
    fn write_frame(&self, frame: &[u8]) -> io::Result<()> {
        self.record(frame);
        match &self.faults {
            None => self.write_device(frame),
            Some(faults) => {
                let mut faults = faults.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                faults.to_kernel.push(Instant::now(), frame);
                drop(faults);
                self.flush_faults()
            }
        }
    }

    /// Whether [`Queue::flush_faults`] has to be called about once a millisecond.
    pub fn has_faults(&self) -> bool {
        self.faults.is_some()
    }

    /// Hands delayed frames that are due by now to the kernel.
    pub fn flush_faults(&self) -> io::Result<()> {
        let Some(faults) = &self.faults else { return Ok(()) };
        let mut faults = faults.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while let Some(frame) = faults.to_kernel.pop_due(Instant::now()) {
            // A frame that was corrupted on purpose may be one that the kernel refuses: then it is lost.
            let _ = self.write_device(&frame);
        }
        Ok(())
    }

    /// Lets a task wait for packets. To be called on a tokio runtime with I/O.
    pub fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the queue owns its descriptor and never gives it away or closes it while it lives, so the descriptor
        // that is registered stays the same open file until the registration is dropped together with the queue.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE | Interest::ERROR) }
            .map_err(io::Error::from)
    }

    /// Whether the device is still there; that it was deleted is an error.
    pub fn check(&self) -> io::Result<()> {
        get_iff(self.device.as_raw_fd()).map(drop)
    }

    /// What the kernel does on this device. TCP superpackets and partial checksums can be written to every device: what
    /// the kernel does not do is done here.
    pub fn offload(&self) -> Offload {
        self.offload
    }

    /// Whether frames carry a `virtio_net_hdr` to and from the kernel.
    pub fn vnet_hdr(&self) -> bool {
        self.vnet_hdr
    }

    /// Writes out what the packet file has buffered.
    pub fn flush_pcap(&self) -> io::Result<()> {
        self.pcap.as_ref().map_or(Ok(()), |pcap| pcap.flush())
    }

    fn read_device(&self, frame: &mut [u8]) -> io::Result<usize> {
        if self.vnet_hdr {
            return Ok(read(&self.device, frame)?);
        }
        let (header, packet) = frame.split_at_mut_checked(FRAME_HEADER).ok_or(io::ErrorKind::InvalidInput)?;
        header.fill(0);
        let len = read(&self.device, packet)?;
        Ok(FRAME_HEADER + len)
    }

    fn write_device(&self, frame: &[u8]) -> io::Result<()> {
        if self.vnet_hdr {
            return Ok(write(&self.device, frame).map(drop)?);
        }
        Ok(write(&self.device, frame.get(FRAME_HEADER..).unwrap_or_default()).map(drop)?)
    }

    fn record(&self, frame: &[u8]) {
        if let Some(pcap) = &self.pcap {
            // A full disk must not stop traffic; the file then ends early.
            let _ = pcap.write(frame);
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

fn open_node() -> Result<File, TunError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|source| TunError::Open { source })
}

/// `TUNSETIFF`: attaches the descriptor to the interface and returns the interface's name.
fn set_iff(device: &File, name: &str, flags: libc::c_int) -> io::Result<String> {
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(name_of(&request))
}

/// The TUN that the descriptor is attached to, and its flags.
fn attached(fd: RawFd) -> Result<(String, libc::c_int), TunError> {
    match get_iff(fd) {
        Ok((name, flags)) if flags & libc::IFF_TUN != 0 => Ok((name, flags)),
        Ok(_) => Err(TunError::NotTun { fd, source: io::ErrorKind::InvalidInput.into() }),
        Err(source) => Err(TunError::NotTun { fd, source }),
    }
}

/// `TUNGETIFF`: the interface that the descriptor is attached to, and its flags.
fn get_iff(device: RawFd) -> io::Result<(String, libc::c_int)> {
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // SAFETY: TUNGETIFF writes one ifreq, which lives until the call returns; what is no TUN, or not open, refuses it.
    if unsafe { libc::ioctl(device, libc::TUNGETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled in the flags, and every bit pattern is a valid short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), libc::c_int::from(flags as u16)))
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `TUNSETOFFLOAD`, the most that this kernel takes, or nothing. USO came with Linux 6.2.
fn set_offload(device: &File, none: bool) -> Offload {
    let tcp = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let udp = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let steps = [
        (tcp | udp, Offload { checksum: true, tcp_segmentation: true, udp_segmentation: true }),
        (tcp, Offload { checksum: true, tcp_segmentation: true, udp_segmentation: false }),
        (libc::TUN_F_CSUM, Offload { checksum: true, tcp_segmentation: false, udp_segmentation: false }),
        (0, Offload::default()),
    ];
    let first = if none { steps.len() - 1 } else { 0 };
    for (flags, offload) in steps.into_iter().skip(first) {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        if unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) } == 0 {
            return offload;
        }
    }
    Offload::default()
}

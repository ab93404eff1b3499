//! The calls of bpf(2) that are needed here (`include/uapi/linux/bpf.h`).

use std::ffi::CStr;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;

const BPF_MAP_TYPE_HASH: u32 = 1;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;
/// Entries take memory when they are made, not when the map is.
const BPF_F_NO_PREALLOC: u32 = 1;

/// One instruction: operation, registers (destination in the low nibble), offset, immediate value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Insn {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) immediate: i32,
}

/// A hash map from `K` to `V`. Neither may have padding: the kernel compares and copies their bytes.
#[derive(Debug)]
pub(super) struct Map(OwnedFd);

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

#[repr(C)]
struct MapElem {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// # Safety
/// `attr` must be what `command` reads, and every address in it must be valid for what the kernel does with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr` (the rest of its union counts as zero); the caller
    // answers for what they mean.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), mem::size_of::<T>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as libc::c_int) }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: bpf(2) has just made this descriptor (close-on-exec), and nothing else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

impl Map {
    /// A map of up to `most` entries, with keys and values of so many bytes.
    pub(super) fn new(key_size: usize, value_size: usize, most: u32) -> io::Result<Self> {
        let attr = MapCreate {
            map_type: BPF_MAP_TYPE_HASH,
            key_size: key_size as u32,
            value_size: value_size as u32,
            max_entries: most,
            map_flags: BPF_F_NO_PREALLOC,
        };
        // SAFETY: BPF_MAP_CREATE reads these five fields, which are numbers.
        unsafe { bpf(BPF_MAP_CREATE, &attr) }.map(|fd| Self(owned(fd)))
    }

    /// Puts an entry in, in place of one with that key. `E2BIG` when the map is full.
    pub(super) fn insert<const K: usize, const V: usize>(
        &self,
        key: &[u8; K],
        value: &[u8; V],
    ) -> io::Result<()> {
        let attr = MapElem {
            map_fd: self.number(),
            padding: 0,
            key: key.as_ptr() as u64,
            value: value.as_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads a key and a value of the map's sizes, which the caller's arrays have, and both live
        // until the call returns.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
    }

    /// Takes an entry out. `NotFound` if there is none.
    pub(super) fn remove<const K: usize>(&self, key: &[u8; K]) -> io::Result<()> {
        let attr =
            MapElem { map_fd: self.number(), padding: 0, key: key.as_ptr() as u64, value: 0, flags: 0 };
        // SAFETY: the kernel reads a key of the map's size, which lives until the call returns.
        unsafe { bpf(BPF_MAP_DELETE_ELEM, &attr) }.map(drop)
    }

    /// What instructions call it by.
    pub(super) fn number(&self) -> u32 {
        self.0.as_raw_fd() as u32
    }
}

/// Hands a classifier for packets to the kernel, which proves that it ends and touches nothing else.
pub(super) fn load(program: &[Insn], license: &CStr) -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the kernel reads the instructions and the text, which live until the call returns; there is no log.
    unsafe { bpf(BPF_PROG_LOAD, &attr) }.map(owned)
}

/// Runs `program` on every packet that leaves by the device, for as long as the descriptor lives (TCX, Linux 6.6).
pub(super) fn attach_to_egress(program: &OwnedFd, device: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: device,
        attach_type: BPF_TCX_EGRESS,
        flags: 0,
    };
    // SAFETY: BPF_LINK_CREATE reads these four fields, which are numbers.
    unsafe { bpf(BPF_LINK_CREATE, &attr) }.map(owned)
}

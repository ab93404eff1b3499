//! The program that the kernel runs on each packet on its way into the device.
//!
//! It is written out here because the kernel takes instructions and not source, and whoever builds this should need no
//! second compiler. In C it would read:
//!
//! ```text
//! if (!plain_tcp(skb)) return TCX_NEXT;                     headers in reach, no options, no fragment, no SYN/FIN/RST
//! other = map_lookup_elem(&names, &(struct names){ src, dst, ports });
//! if (!other) return TCX_NEXT;
//! l3_csum_replace, l4_csum_replace, skb_store_bytes(other);
//! skb->mark = 0;
//! return redirect(skb->ifindex, BPF_F_INGRESS);
//! ```
//!
//! Instructions: RFC 9669. Helpers and `struct __sk_buff`: `include/uapi/linux/bpf.h`.

use std::mem::offset_of;

use super::bpf::Insn;

/// Both ends of a packet: source, destination, their ports. An IPv4 address takes the first four bytes of its place.
/// Everything is in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Ends {
    pub(super) src: [u8; 16],
    pub(super) dst: [u8; 16],
    pub(super) src_port: [u8; 2],
    pub(super) dst_port: [u8; 2],
}

/// Bytes of [`Ends`].
pub(super) const ENDS: usize = size_of::<Ends>();
const ADDRESSES: i32 = offset_of!(Ends, src_port) as i32;
const DST: i16 = offset_of!(Ends, dst) as i16;
const PORTS: i16 = offset_of!(Ends, src_port) as i16;

/// Where [`Ends`] of the packet are put together, from the frame pointer: a multiple of eight.
const KEY: i16 = -40;

const MAP_LOOKUP_ELEM: i32 = 1;
const SKB_STORE_BYTES: i32 = 9;
const L3_CSUM_REPLACE: i32 = 10;
const L4_CSUM_REPLACE: i32 = 11;
const REDIRECT: i32 = 23;
const CSUM_DIFF: i32 = 28;

const BPF_F_INGRESS: i32 = 1;
const BPF_F_PSEUDO_HDR: i32 = 0x10;
const BPF_PSEUDO_MAP_FD: u8 = 1;
/// Others' programs and then the device get the packet.
const TCX_NEXT: i32 = -1;

const SKB_MARK: i16 = 8;
const SKB_PROTOCOL: i16 = 16;
const SKB_INGRESS_IFINDEX: i16 = 36;
const SKB_IFINDEX: i16 = 40;
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
const TCP: i32 = 6;
/// FIN, SYN and RST (RFC 9293, 3.1).
const BEGINS_OR_ENDS: i32 = 0x07;

/// Registers. The kernel keeps R6 to R9 over calls of helpers; R10 is the frame pointer.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
const SKB: u8 = 6;
const OTHER: u8 = 7;
const DIFF: u8 = 8;
const FP: u8 = 10;

#[derive(Clone, Copy)]
enum Width {
    Byte = 0x10,
    Half = 0x08,
    Word = 0x00,
    Double = 0x18,
}

#[derive(Clone, Copy)]
enum Jump {
    Equal = 0x10,
    Greater = 0x20,
    Set = 0x40,
    NotEqual = 0x50,
}

/// Where a header's fields are.
struct Header {
    /// Bytes that must be in reach: IP and TCP without options.
    len: i32,
    src: i32,
    dst: i32,
    /// Words of an address.
    words: i16,
    ports: i32,
    flags: i16,
    checksum: i32,
}

const V4: Header = Header { len: 40, src: 12, dst: 16, words: 1, ports: 20, flags: 33, checksum: 36 };
const V6: Header = Header { len: 60, src: 8, dst: 24, words: 4, ports: 40, flags: 53, checksum: 56 };

/// The checksum of an IPv4 header.
const V4_HEADER_CHECKSUM: i32 = 10;

/// The program, over the map of this number.
pub(super) fn program(map: u32) -> Vec<Insn> {
    let mut code = Assembler::default();
    code.mov(SKB, R1);
    code.load(Width::Word, R2, SKB, SKB_DATA);
    code.load(Width::Word, R3, SKB, SKB_DATA_END);
    code.load(Width::Word, R0, SKB, SKB_PROTOCOL);
    let to_v4 = code.jump(Jump::Equal, R0, i32::from(ETH_P_IP.to_be()));
    code.pass_if(Jump::NotEqual, R0, i32::from(ETH_P_IPV6.to_be()));
    // Without a checksum in the IP header, what a device has summed up of a received packet (CHECKSUM_COMPLETE) would
    // not be kept right by `l4_csum_replace`; of what this host sends nothing is.
    code.load(Width::Word, R4, SKB, SKB_INGRESS_IFINDEX);
    code.pass_if(Jump::NotEqual, R4, 0);
    code.reach(&V6);
    code.load(Width::Byte, R4, R2, 6);
    code.pass_if(Jump::NotEqual, R4, TCP);
    code.rename(&V6, map, false);
    code.land(to_v4);
    code.reach(&V4);
    code.load(Width::Byte, R4, R2, 0);
    code.pass_if(Jump::NotEqual, R4, 0x45);
    code.load(Width::Half, R4, R2, 6);
    code.pass_if(Jump::Set, R4, i32::from(0x3fff_u16.to_be()));
    code.load(Width::Byte, R4, R2, 9);
    code.pass_if(Jump::NotEqual, R4, TCP);
    code.rename(&V4, map, true);
    code.pass();
    code.insns
}

#[derive(Default)]
struct Assembler {
    insns: Vec<Insn>,
    /// Jumps to where the packet is left alone.
    passes: Vec<usize>,
}

impl Assembler {
    fn emit(&mut self, code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> usize {
        self.insns.push(Insn { code, registers: src << 4 | dst, offset, immediate });
        self.insns.len() - 1
    }

    fn mov(&mut self, dst: u8, src: u8) {
        self.emit(0xbf, dst, src, 0, 0);
    }

    fn set(&mut self, dst: u8, value: i32) {
        self.emit(0xb7, dst, 0, 0, value);
    }

    fn add(&mut self, dst: u8, value: i32) {
        self.emit(0x07, dst, 0, 0, value);
    }

    fn load(&mut self, width: Width, dst: u8, src: u8, offset: i16) {
        self.emit(0x61 | width as u8, dst, src, offset, 0);
    }

    fn store(&mut self, dst: u8, offset: i16, src: u8) {
        self.emit(0x63, dst, src, offset, 0);
    }

    fn call(&mut self, helper: i32) {
        self.emit(0x85, 0, 0, 0, helper);
    }

    fn jump(&mut self, jump: Jump, dst: u8, value: i32) -> usize {
        self.emit(0x05 | jump as u8, dst, 0, 0, value)
    }

    fn pass_if(&mut self, jump: Jump, dst: u8, value: i32) {
        let at = self.jump(jump, dst, value);
        self.passes.push(at);
    }

    /// Lets a jump lead to here.
    fn land(&mut self, jump: usize) {
        let distance = self.insns.len() - jump - 1;
        if let Some(insn) = self.insns.get_mut(jump) {
            insn.offset = distance as i16;
        }
    }

    /// The end of every way that leaves the packet alone.
    fn pass(&mut self) {
        for jump in std::mem::take(&mut self.passes) {
            self.land(jump);
        }
        self.set(R0, TCX_NEXT);
        self.emit(0x95, 0, 0, 0, 0);
    }

    /// Passes unless the headers lie in reach (R2 is their start, R3 the end of what does).
    fn reach(&mut self, header: &Header) {
        self.mov(R4, R2);
        self.add(R4, header.len);
        let at = self.emit(0x0d | Jump::Greater as u8, R4, R3, 0, 0);
        self.passes.push(at);
    }

    /// Looks the packet up, and if it is known renames it and lets it come in.
    fn rename(&mut self, header: &Header, map: u32, has_header_checksum: bool) {
        self.load(Width::Byte, R4, R2, header.flags);
        self.pass_if(Jump::Set, R4, BEGINS_OR_ENDS);
        for at in (KEY..KEY + ENDS as i16).step_by(4) {
            self.emit(0x62 | Width::Word as u8, FP, 0, at, 0);
        }
        for word in 0..header.words {
            self.load(Width::Word, R4, R2, header.src as i16 + 4 * word);
            self.store(FP, KEY + 4 * word, R4);
            self.load(Width::Word, R4, R2, header.dst as i16 + 4 * word);
            self.store(FP, KEY + DST + 4 * word, R4);
        }
        self.load(Width::Word, R4, R2, header.ports as i16);
        self.store(FP, KEY + PORTS, R4);

        self.emit(Width::Double as u8, R1, BPF_PSEUDO_MAP_FD, 0, map as i32);
        self.emit(0, 0, 0, 0, 0);
        self.mov(R2, FP);
        self.add(R2, i32::from(KEY));
        self.call(MAP_LOOKUP_ELEM);
        self.pass_if(Jump::Equal, R0, 0);
        self.mov(OTHER, R0);

        self.mov(R1, FP);
        self.add(R1, i32::from(KEY));
        self.set(R2, ADDRESSES);
        self.mov(R3, OTHER);
        self.set(R4, ADDRESSES);
        self.set(R5, 0);
        self.call(CSUM_DIFF);
        self.mov(DIFF, R0);
        if has_header_checksum {
            self.checksum(L3_CSUM_REPLACE, V4_HEADER_CHECKSUM, 0);
        }
        self.checksum(L4_CSUM_REPLACE, header.checksum, BPF_F_PSEUDO_HDR);
        self.mov(R1, SKB);
        self.set(R2, header.checksum);
        self.load(Width::Word, R3, FP, KEY + PORTS);
        self.load(Width::Word, R4, OTHER, PORTS);
        self.set(R5, 4);
        self.call(L4_CSUM_REPLACE);

        let address = 4 * i32::from(header.words);
        self.write(header.src, 0, address);
        self.write(header.dst, DST, address);
        self.write(header.ports, PORTS, 4);

        // The mark is the sender's; what comes out of a device has none.
        self.set(R4, 0);
        self.store(SKB, SKB_MARK, R4);
        self.load(Width::Word, R1, SKB, SKB_IFINDEX);
        self.set(R2, BPF_F_INGRESS);
        self.call(REDIRECT);
        self.emit(0x95, 0, 0, 0, 0);
    }

    /// Adds [`DIFF`] to a checksum.
    fn checksum(&mut self, helper: i32, at: i32, flags: i32) {
        self.mov(R1, SKB);
        self.set(R2, at);
        self.set(R3, 0);
        self.mov(R4, DIFF);
        self.set(R5, flags);
        self.call(helper);
    }

    /// Writes a part of the other [`Ends`] into the packet.
    fn write(&mut self, at: i32, part: i16, len: i32) {
        self.mov(R1, SKB);
        self.set(R2, at);
        self.mov(R3, OTHER);
        self.add(R3, i32::from(part));
        self.set(R4, len);
        self.set(R5, 0);
        self.call(SKB_STORE_BYTES);
    }
}

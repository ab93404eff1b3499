//! QUIC: the ClientHello in a client's first Initial packets, which are encrypted with keys that anybody can derive (RFC 9001,
//! 5.2; RFC 9369, 3.3).

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit};
use aes_gcm::Aes128Gcm;
use aes_gcm::aead::AeadInPlace;
use aes_gcm::aead::generic_array::GenericArray;
use hkdf::Hkdf;
use sha2::Sha256;

use crate::reader::{Reader, Stop};
use crate::{MOST, Sniffed, tls};

/// Datagrams that are looked at for one ClientHello.
const MOST_DATAGRAMS: usize = 8;
/// Pieces of it that may come out of order.
const MOST_PIECES: usize = 64;
/// An authentication tag of AEAD_AES_128_GCM.
const TAG: usize = 16;
/// How much of the ciphertext header protection is made from (RFC 9001, 5.4.2).
const SAMPLE: usize = 16;

/// What a version of QUIC derives the keys of Initial packets from.
struct Version {
    number: u32,
    /// The long header's type of an Initial packet.
    initial: u8,
    salt: [u8; 20],
    labels: [&'static str; 3],
}

const VERSIONS: [Version; 2] = [
    Version {
        number: 1,
        initial: 0,
        salt: *b"\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a",
        labels: ["quic key", "quic iv", "quic hp"],
    },
    Version {
        number: 0x6b33_43cf,
        initial: 1,
        salt: *b"\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9",
        labels: ["quicv2 key", "quicv2 iv", "quicv2 hp"],
    },
];

/// An Initial packet as a client makes it: of version 1, or 2; with this connection ID and packet number, and these frames.
/// None for an ID of more than 20 bytes, or more frames than a packet takes.
#[cfg(feature = "client")]
pub fn initial(version: u8, id: &[u8], number: u8, frames: &[u8]) -> Option<Vec<u8>> {
    let version = VERSIONS.get(usize::from(version).checked_sub(1)?)?;
    let keys = Keys::of(version, id)?;
    // A packet number of one byte, and padding for the sample.
    let mut payload = frames.to_vec();
    payload.resize(payload.len().max(SAMPLE), 0);
    let len = u16::try_from(1 + payload.len() + TAG).ok().filter(|len| *len < 1 << 14)? | 1 << 14;
    let id_len = u8::try_from(id.len()).ok().filter(|len| *len <= 20)?;
    let first = 0b1100_0000 | version.initial << 4;
    let head =
        [&[first][..], &version.number.to_be_bytes(), &[id_len], id, &[0, 0], &len.to_be_bytes()].concat();
    let number_at = head.len();
    let mut packet = [head, vec![number]].concat();
    let mut nonce = keys.iv;
    *nonce.last_mut()? ^= number;
    let nonce = GenericArray::from_slice(&nonce);
    let tag = keys.payload.encrypt_in_place_detached(nonce, &packet, &mut payload).ok()?;
    packet.extend([payload.as_slice(), tag.as_slice()].concat());
    let sample = packet.get(number_at + 4..)?.get(..SAMPLE)?;
    let mut mask = GenericArray::clone_from_slice(sample);
    keys.header.encrypt_block(&mut mask);
    *packet.first_mut()? ^= mask.first()? & 0x0f;
    *packet.get_mut(number_at)? ^= mask.get(1)?;
    Some(packet)
}

/// Whether a datagram begins like an Initial packet of a version that is known here.
pub fn is_initial(datagram: &[u8]) -> bool {
    Header::parse(datagram).is_ok()
}

/// Puts a client's ClientHello together from its first datagrams.
#[derive(Debug, Default)]
pub struct Quic {
    /// The destination connection ID of its first packet, which the keys are made from.
    id: Option<Vec<u8>>,
    pieces: Vec<(usize, Vec<u8>)>,
    bytes: usize,
    datagrams: usize,
}

impl Quic {
    /// Takes in the client's next datagram. After an answer other than [`Sniffed::More`] there is no use in more.
    pub fn datagram(&mut self, datagram: &[u8]) -> Sniffed {
        self.datagrams += 1;
        let mut rest = datagram;
        let mut any = false;
        // Several packets may share a datagram (RFC 9000, 12.2).
        while let Ok(header) = Header::parse(rest) {
            let id = self.id.get_or_insert_with(|| header.id.to_vec());
            let Some(frames) = header.open(id) else { break };
            any = true;
            if self.frames(&frames).is_err() {
                return Sniffed::Nothing;
            }
            rest = rest.get(header.end..).unwrap_or_default();
        }
        if !any && self.pieces.is_empty() {
            return Sniffed::Nothing;
        }
        match tls::client_hello(&self.message()) {
            Sniffed::More if self.datagrams >= MOST_DATAGRAMS => Sniffed::Nothing,
            found => found,
        }
    }

    /// Keeps what CRYPTO frames carry (RFC 9000, 19.6). Others that an Initial packet may have are passed over.
    fn frames(&mut self, frames: &[u8]) -> Result<(), Stop> {
        let mut reader = Reader::whole(frames);
        while !reader.is_empty() {
            match reader.varint()? {
                // PADDING, PING
                0 | 1 => {}
                // ACK, and with counts of ECN
                kind @ (2 | 3) => {
                    let [_largest, _delay, ranges, _first] =
                        [reader.varint()?, reader.varint()?, reader.varint()?, reader.varint()?];
                    for _ in 0..ranges.saturating_mul(2) {
                        reader.varint()?;
                    }
                    for _ in 0..if kind == 3 { 3 } else { 0 } {
                        reader.varint()?;
                    }
                }
                6 => {
                    let offset = usize::try_from(reader.varint()?).map_err(|_| Stop::Wrong)?;
                    let len = usize::try_from(reader.varint()?).map_err(|_| Stop::Wrong)?;
                    let data = reader.take(len)?;
                    let full = self.pieces.len() >= MOST_PIECES || self.bytes + len > MOST;
                    if full || offset > MOST {
                        return Err(Stop::Wrong);
                    }
                    self.bytes += len;
                    self.pieces.push((offset, data.to_vec()));
                }
                // CONNECTION_CLOSE, and what has no place here
                _ => return Err(Stop::Wrong),
            }
        }
        Ok(())
    }

    /// The beginning of the message without a gap.
    fn message(&mut self) -> Vec<u8> {
        self.pieces.sort_by_key(|(offset, _)| *offset);
        let mut message = Vec::new();
        for (offset, data) in &self.pieces {
            let Some(known) = message.len().checked_sub(*offset) else { break };
            message.extend_from_slice(data.get(known..).unwrap_or_default());
        }
        message
    }
}

/// An Initial packet whose header is still protected (RFC 9000, 17.2.2).
struct Header<'a> {
    version: &'static Version,
    id: &'a [u8],
    /// From the first byte of the packet to its end.
    packet: &'a [u8],
    /// Where the packet number begins.
    number_at: usize,
    /// Where the packet ends in its datagram.
    end: usize,
}

impl<'a> Header<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, Stop> {
        let mut reader = Reader::whole(bytes);
        let first = reader.number(1)?;
        let number = reader.number(4)?;
        let version = VERSIONS.iter().find(|version| version.number as usize == number).ok_or(Stop::Wrong)?;
        // The long form, the fixed bit, and the type.
        if first >> 4 != usize::from(0b1100 | version.initial) {
            return Err(Stop::Wrong);
        }
        let id = reader.vector(1)?.rest();
        let source = reader.vector(1)?.rest();
        if id.len() > 20 || source.len() > 20 {
            return Err(Stop::Wrong);
        }
        let token = usize::try_from(reader.varint()?).map_err(|_| Stop::Wrong)?;
        reader.take(token)?;
        let len = usize::try_from(reader.varint()?).map_err(|_| Stop::Wrong)?;
        let number_at = bytes.len() - reader.rest().len();
        reader.take(len)?;
        let end = bytes.len() - reader.rest().len();
        // A packet number of up to 4 bytes is assumed where the sample is taken from.
        if len < 4 + SAMPLE {
            return Err(Stop::Wrong);
        }
        let packet = bytes.get(..end).ok_or(Stop::Wrong)?;
        Ok(Self { version, id, packet, number_at, end })
    }

    /// Removes the protection of header and payload. None if it was not made with the keys of this connection ID.
    fn open(&self, id: &[u8]) -> Option<Vec<u8>> {
        let keys = Keys::of(self.version, id)?;
        let sample = self.packet.get(self.number_at + 4..)?.get(..SAMPLE)?;
        let mut mask = GenericArray::clone_from_slice(sample);
        keys.header.encrypt_block(&mut mask);
        let mut packet = self.packet.to_vec();
        let (first_mask, number_mask) = mask.split_first()?;
        let first = packet.first_mut()?;
        // Of a long header four bits are protected (RFC 9001, 5.4.1).
        *first ^= first_mask & 0x0f;
        let number_len = usize::from(*first & 3) + 1;
        let mut number = 0_u64;
        let protected = packet.get_mut(self.number_at..)?.iter_mut().take(number_len);
        for (byte, mask) in protected.zip(number_mask) {
            *byte ^= mask;
            number = number << 8 | u64::from(*byte);
        }
        let (header, payload) = packet.split_at_mut_checked(self.number_at + number_len)?;
        let (payload, tag) = payload.split_at_mut_checked(payload.len().checked_sub(TAG)?)?;
        let mut nonce = keys.iv;
        // The first packets of a connection are numbered from 0, so that nothing of the number is left out.
        for (byte, number) in nonce.iter_mut().rev().zip(number.to_be_bytes().iter().rev()) {
            *byte ^= number;
        }
        let nonce = GenericArray::from_slice(&nonce);
        keys.payload.decrypt_in_place_detached(nonce, header, payload, GenericArray::from_slice(tag)).ok()?;
        Some(payload.to_vec())
    }
}

/// The client's keys.
struct Keys {
    payload: Aes128Gcm,
    iv: [u8; 12],
    header: Aes128,
}

impl Keys {
    fn of(version: &Version, id: &[u8]) -> Option<Self> {
        let (_, initial) = Hkdf::<Sha256>::extract(Some(&version.salt), id);
        let mut client = [0; 32];
        expand(&initial, "client in", &mut client)?;
        let secret = Hkdf::<Sha256>::from_prk(&client).ok()?;
        let (mut key, mut iv, mut header) = ([0; 16], [0; 12], [0; 16]);
        let [key_label, iv_label, header_label] = version.labels;
        expand(&secret, key_label, &mut key)?;
        expand(&secret, iv_label, &mut iv)?;
        expand(&secret, header_label, &mut header)?;
        Some(Self { payload: Aes128Gcm::new(&key.into()), iv, header: Aes128::new(&header.into()) })
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
fn expand(secret: &Hkdf<Sha256>, label: &str, out: &mut [u8]) -> Option<()> {
    let len = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_len = [u8::try_from(b"tls13 ".len() + label.len()).ok()?];
    secret.expand_multi_info(&[&len, &label_len, b"tls13 ", label.as_bytes(), &[0]], out).ok()
}

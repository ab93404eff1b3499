//! Datagrams, each sealed for itself.
//!
//! ```text
//! SIP004:  salt [address payload]tag
//! SIP022:  {session packet} [type time (session of client) padding address payload]tag    AES; {} by the key itself
//!          nonce [session packet type time (session of client) padding address payload]tag    ChaCha20
//! ```

use std::io;
use std::sync::Arc;

use aes::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use shadowsocks_crypto::v2::udp::UdpCipher;

use super::cipher::{Sequence, TAG};
use super::{Key, Method, fill, invalid, is_recent, now, random};
use crate::socks5::datagram::decode_header;

/// RSV and FRAG in front of an address in the header of a SOCKS5 datagram.
const SOCKS_PREFIX: usize = 3;

/// Session and packet.
pub(super) const IDS: usize = 16;
pub(super) const NONCE: usize = 24;

const TO_SERVER: u8 = 0;
pub(super) const TO_CLIENT: u8 = 1;

/// Sessions of the server that are remembered: one, and the one before while its last packets arrive.
const SESSIONS: usize = 2;

/// What the datagrams of one client socket have in common.
pub(crate) struct Packets {
    key: Arc<Key>,
    pub(super) session: u64,
    next: u64,
    servers: Vec<(u64, Window)>,
}

impl Packets {
    pub(crate) fn new(key: Arc<Key>) -> io::Result<Self> {
        Ok(Self { key, session: u64::from_be_bytes(random()?), next: 0, servers: Vec::new() })
    }

    /// The packet for a datagram that stands behind the header of SOCKS5.
    pub(crate) fn seal(&mut self, datagram: &[u8]) -> io::Result<Vec<u8>> {
        decode_header(datagram).map_err(|_| invalid("a datagram without its header"))?;
        let datagram = datagram.get(SOCKS_PREFIX..).unwrap_or_default();
        let mut out = Vec::new();
        if !self.key.method.is_2022() {
            out.resize(self.key.method.key_len(), 0);
            fill(&mut out)?;
            Sequence::new(&self.key, &out).seal(datagram, &mut out);
            return Ok(out);
        }
        let ids = [self.session.to_be_bytes(), self.next.to_be_bytes()].concat();
        self.next = self.next.wrapping_add(1);
        let body = [&[TO_SERVER][..], &now().to_be_bytes(), &[0, 0], datagram].concat();
        let mut ids: [u8; IDS] = ids.try_into().map_err(|_| invalid("ids of another length"))?;
        if self.key.method == Method::Blake3Chacha20Poly1305 {
            let nonce: [u8; NONCE] = random()?;
            out.extend_from_slice(&nonce);
            out.extend_from_slice(&ids);
            out.extend_from_slice(&body);
            out.extend_from_slice(&[0; TAG]);
            let cipher = UdpCipher::new(self.key.method.kind(), &self.key.bytes, self.session);
            cipher.encrypt_packet(&nonce, out.get_mut(NONCE..).unwrap_or_default());
            return Ok(out);
        }
        let nonce = ids;
        block(&self.key, &mut ids, true)?;
        out.extend_from_slice(&ids);
        out.extend_from_slice(&body);
        out.extend_from_slice(&[0; TAG]);
        let cipher = UdpCipher::new(self.key.method.kind(), &self.key.bytes, self.session);
        cipher.encrypt_packet(nonce.get(4..).unwrap_or_default(), out.get_mut(IDS..).unwrap_or_default());
        Ok(out)
    }

    /// The datagram in a packet of the server, behind the header of SOCKS5.
    ///
    /// # Errors
    /// It is nobody's who has the key, or was here before: to be dropped.
    pub(crate) fn open(&mut self, packet: &mut [u8]) -> io::Result<Vec<u8>> {
        let short = || invalid("a packet that is too short");
        if !self.key.method.is_2022() {
            let (salt, message) = packet.split_at_mut_checked(self.key.method.key_len()).ok_or_else(short)?;
            let opened = Sequence::new(&self.key, salt).open(message)?;
            return Ok([&[0; SOCKS_PREFIX], opened].concat());
        }
        let is_chacha = self.key.method == Method::Blake3Chacha20Poly1305;
        let (outer, message) =
            packet.split_at_mut_checked(if is_chacha { NONCE } else { IDS }).ok_or_else(short)?;
        let len = message.len().checked_sub(TAG).ok_or_else(short)?;
        let mut nonce = outer.to_vec();
        let mut session = 0;
        if !is_chacha {
            let mut ids: [u8; IDS] = outer.try_into().map_err(|_| short())?;
            block(&self.key, &mut ids, false)?;
            session = u64::from_be_bytes(*ids.first_chunk().ok_or_else(short)?);
            nonce = ids.to_vec();
        }
        let cipher = UdpCipher::new(self.key.method.kind(), &self.key.bytes, session);
        let salt = if is_chacha { &nonce[..] } else { nonce.get(4..).unwrap_or_default() };
        if !cipher.decrypt_packet(salt, message) {
            return Err(invalid("a packet of nobody who has the key"));
        }
        let opened = message.get(..len).unwrap_or_default();
        let (ids, opened) =
            if is_chacha { opened.split_at_checked(IDS).ok_or_else(short)? } else { (&nonce[..], opened) };
        let (session, number) = ids.split_first_chunk::<8>().ok_or_else(short)?;
        let number = number.first_chunk::<8>().ok_or_else(short)?;
        let datagram = self.body(opened)?;
        if !self.is_new(u64::from_be_bytes(*session), u64::from_be_bytes(*number)) {
            return Err(invalid("a packet that was here before"));
        }
        Ok([&[0; SOCKS_PREFIX], datagram].concat())
    }

    /// Address and payload in what a server of SIP022 says.
    fn body<'a>(&self, opened: &'a [u8]) -> io::Result<&'a [u8]> {
        let short = || invalid("a packet that is too short");
        let (&[kind, ref time @ ..], rest) = opened.split_first_chunk::<9>().ok_or_else(short)?;
        let time: [u8; 8] = *time;
        let (session, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (padding, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let is_ours = kind == TO_CLIENT
            && is_recent(u64::from_be_bytes(time))
            && u64::from_be_bytes(*session) == self.session;
        if !is_ours {
            return Err(invalid("a packet for another session, or from another time"));
        }
        rest.get(usize::from(u16::from_be_bytes(*padding))..).ok_or_else(short)
    }

    fn is_new(&mut self, session: u64, number: u64) -> bool {
        let known = self.servers.iter().position(|(known, _)| *known == session);
        let at = known.unwrap_or_else(|| {
            if self.servers.len() == SESSIONS {
                self.servers.remove(0);
            }
            self.servers.push((session, Window::default()));
            self.servers.len() - 1
        });
        self.servers.get_mut(at).is_some_and(|(_, window)| window.take(number))
    }
}

/// Which packets of a session were here (RFC 6479 has the idea).
#[derive(Default)]
struct Window {
    /// One more than the highest number.
    end: u64,
    /// The numbers below, the highest one first.
    seen: u128,
}

impl Window {
    /// Whether the number is here for the first time, and not older than can be told.
    fn take(&mut self, number: u64) -> bool {
        if number >= self.end {
            let ahead = number.saturating_add(1) - self.end;
            self.seen = u32::try_from(ahead).ok().and_then(|n| self.seen.checked_shl(n)).unwrap_or(0) | 1;
            self.end = number.saturating_add(1);
            return true;
        }
        let bit = u32::try_from(self.end - 1 - number).ok().and_then(|n| 1u128.checked_shl(n)).unwrap_or(0);
        let is_new = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }
}

/// One block by the key itself.
pub(super) fn block(key: &Key, bytes: &mut [u8; IDS], seal: bool) -> io::Result<()> {
    let wrong = |_| invalid("a key of another length");
    match key.method {
        Method::Blake3Aes128Gcm => {
            let cipher = Aes128::new_from_slice(&key.bytes).map_err(wrong)?;
            let block: &mut Block<Aes128> = bytes.into();
            if seal { cipher.encrypt_block(block) } else { cipher.decrypt_block(block) }
        }
        _ => {
            let cipher = Aes256::new_from_slice(&key.bytes).map_err(wrong)?;
            let block: &mut Block<Aes256> = bytes.into();
            if seal { cipher.encrypt_block(block) } else { cipher.decrypt_block(block) }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_counts_once() {
        let mut window = Window::default();
        for (number, is_new) in [
            (0, true),
            (0, false),
            (5, true),
            (3, true),
            (3, false),
            (5, false),
            (200, true),
            (72, false),
            (73, true),
            (73, false),
            (199, true),
            (u64::MAX, true),
            (200, false),
        ] {
            assert_eq!(window.take(number), is_new, "{number}");
        }
    }

    #[test]
    fn nonsense_is_dropped() {
        for method in Method::ALL {
            let password = match method.key_len() {
                16 => "AAAAAAAAAAAAAAAAAAAAAA==",
                _ => "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            };
            let mut packets = Packets::new(Arc::new(Key::new(method, password).unwrap())).unwrap();
            let datagram = [0, 0, 0, 1, 192, 0, 2, 1, 0, 53, b'x'];
            let sealed = packets.seal(&datagram).unwrap();
            for len in 0..sealed.len() {
                assert!(packets.open(&mut sealed[..len].to_vec()).is_err(), "{method} {len}");
            }
            // Our own one is no server's; SIP004 cannot tell.
            let own = packets.open(&mut sealed.clone());
            assert_eq!(own.is_ok(), !method.is_2022(), "{method}");
            assert!(packets.seal(&[0, 0, 0, 9]).is_err());
        }
    }
}

//! Sealing and opening one message after the other.

use std::io;

use shadowsocks_crypto::v1::Cipher;
use shadowsocks_crypto::v2::tcp::TcpCipher;

use super::{Key, invalid};

/// Length of what proves that a message is whole.
pub(super) const TAG: usize = 16;

/// The key of one direction of one connection, or of one packet, with the number of the next message.
pub(super) enum Sequence {
    Sip004(Box<Cipher>),
    Sip022(Box<TcpCipher>),
}

impl Sequence {
    pub(super) fn new(key: &Key, salt: &[u8]) -> Self {
        let kind = key.method.kind();
        if key.method.is_2022() {
            Self::Sip022(Box::new(TcpCipher::new(kind, &key.bytes, salt)))
        } else {
            Self::Sip004(Box::new(Cipher::new(kind, &key.bytes, salt)))
        }
    }

    /// Appends `plain`, sealed.
    pub(super) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(plain);
        out.extend_from_slice(&[0; TAG]);
        let message = out.get_mut(at..).unwrap_or_default();
        match self {
            Self::Sip004(cipher) => cipher.encrypt_packet(message),
            Self::Sip022(cipher) => cipher.encrypt_packet(message),
        }
    }

    /// Opens a message in place and returns what it says.
    ///
    /// # Errors
    /// Whoever made it does not know the key.
    pub(super) fn open<'a>(&mut self, message: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let len = message.len().checked_sub(TAG).ok_or_else(|| invalid("a message without its tag"))?;
        let is_right = match self {
            Self::Sip004(cipher) => cipher.decrypt_packet(message),
            Self::Sip022(cipher) => cipher.decrypt_packet(message),
        };
        if !is_right {
            return Err(invalid("it does not have our key; see the cipher and the password of the proxy"));
        }
        Ok(message.get(..len).unwrap_or_default())
    }
}

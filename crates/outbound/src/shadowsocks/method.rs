//! Ciphers, and the keys that passwords stand for.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shadowsocks_crypto::CipherKind;
use shadowsocks_crypto::v1::openssl_bytes_to_key;

/// A cipher, and with it the version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// SIP004.
    Aes128Gcm,
    /// SIP004.
    Aes256Gcm,
    /// SIP004.
    Chacha20IetfPoly1305,
    /// SIP022.
    Blake3Aes128Gcm,
    /// SIP022.
    Blake3Aes256Gcm,
    /// SIP022.
    Blake3Chacha20Poly1305,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::Chacha20IetfPoly1305,
        Self::Blake3Aes128Gcm,
        Self::Blake3Aes256Gcm,
        Self::Blake3Chacha20Poly1305,
    ];

    /// Its name in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Chacha20IetfPoly1305 => "chacha20-ietf-poly1305",
            Self::Blake3Aes128Gcm => "2022-blake3-aes-128-gcm",
            Self::Blake3Aes256Gcm => "2022-blake3-aes-256-gcm",
            Self::Blake3Chacha20Poly1305 => "2022-blake3-chacha20-poly1305",
        }
    }

    /// Whether it is of SIP022.
    pub(crate) const fn is_2022(self) -> bool {
        matches!(self, Self::Blake3Aes128Gcm | Self::Blake3Aes256Gcm | Self::Blake3Chacha20Poly1305)
    }

    /// Length of its keys in bytes, and of its salts.
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Blake3Aes128Gcm => 16,
            _ => 32,
        }
    }

    pub(super) const fn kind(self) -> CipherKind {
        match self {
            Self::Aes128Gcm => CipherKind::AES_128_GCM,
            Self::Aes256Gcm => CipherKind::AES_256_GCM,
            Self::Chacha20IetfPoly1305 => CipherKind::CHACHA20_POLY1305,
            Self::Blake3Aes128Gcm => CipherKind::AEAD2022_BLAKE3_AES_128_GCM,
            Self::Blake3Aes256Gcm => CipherKind::AEAD2022_BLAKE3_AES_256_GCM,
            Self::Blake3Chacha20Poly1305 => CipherKind::AEAD2022_BLAKE3_CHACHA20_POLY1305,
        }
    }

    /// Whether a password can be one for this cipher.
    ///
    /// # Errors
    /// What it should be instead; never with the password in it.
    pub fn check(self, password: &str) -> Result<(), String> {
        Key::new(self, password).map(drop)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        // What the cipher's authors call it.
        let text = if text == "chacha20-poly1305" { "chacha20-ietf-poly1305" } else { &text };
        Self::ALL.into_iter().find(|method| method.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("{text:?} is no cipher of Shadowsocks that is available; there are {known}")
        })
    }
}

/// What a password stands for.
#[derive(Clone)]
pub(crate) struct Key {
    pub(super) method: Method,
    pub(super) bytes: Vec<u8>,
}

impl Key {
    /// # Errors
    /// See [`Method::check`].
    pub(crate) fn new(method: Method, password: &str) -> Result<Self, String> {
        if password.is_empty() {
            return Err("Shadowsocks needs a `password`".to_owned());
        }
        let len = method.key_len();
        let bytes = if method.is_2022() {
            if password.contains(':') {
                return Err(
                    "Shadowsocks keys for users on a shared server (SIP023) are not available".to_owned()
                );
            }
            let decoded = STANDARD.decode(password).ok().filter(|bytes| bytes.len() == len);
            decoded.ok_or_else(|| {
                format!("the password for {method} is a key of {len} bytes in Base64, as `openssl rand -base64 {len}` makes it")
            })?
        } else {
            let mut bytes = vec![0; len];
            openssl_bytes_to_key(password.as_bytes(), &mut bytes);
            bytes
        };
        Ok(Self { method, bytes })
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("method", &self.method).finish_non_exhaustive()
    }
}

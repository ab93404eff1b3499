//! Packet protection (RFC 9001, 5) by AES, which every server knows (RFC 8446, 9.1). The library that all else of TLS is
//! made by has no function for one block, which headers need.

use std::sync::{Arc, LazyLock};

use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes256};
use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use rustls::crypto::cipher::{AeadKey, Iv, Nonce};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::quic::{Algorithm, HeaderProtectionKey, PacketKey, Tag};
use rustls::{CipherSuite, Error, SupportedCipherSuite, Tls13CipherSuite};

/// Octets of a tag (RFC 5116, 5.1).
pub(super) const TAG: usize = 16;

/// Octets of what a header's mask is made from (RFC 9001, 5.4.3).
const SAMPLE: usize = 16;

/// AES with keys of so many octets.
struct Aes(usize);

static AES_128: Aes = Aes(16);
static AES_256: Aes = Aes(32);

/// The suites of TLS 1.3 that are made of AES, with what QUIC needs.
static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let all = crate::provider().map_or_else(|_| Vec::new(), |provider| provider.cipher_suites.clone());
    let of = |suite: &SupportedCipherSuite| {
        let SupportedCipherSuite::Tls13(suite) = suite else { return None };
        let quic: &'static dyn Algorithm = match suite.common.suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256,
            _ => return None,
        };
        let common = CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        };
        Some(Tls13CipherSuite {
            common,
            hkdf_provider: suite.hkdf_provider,
            aead_alg: suite.aead_alg,
            quic: Some(quic),
        })
    };
    all.iter().filter_map(of).collect()
});

/// `provider` with the suites that QUIC can use, and no others.
pub(super) fn for_quic(provider: &CryptoProvider) -> Arc<CryptoProvider> {
    let cipher_suites = SUITES.iter().map(SupportedCipherSuite::Tls13).collect();
    Arc::new(CryptoProvider { cipher_suites, ..provider.clone() })
}

impl Algorithm for Aes {
    fn packet_key(&self, key: AeadKey, iv: Iv) -> Box<dyn PacketKey> {
        Box::new(Packets { key: AesGcm::new(key.as_ref()), iv })
    }

    fn header_protection_key(&self, key: AeadKey) -> Box<dyn HeaderProtectionKey> {
        Box::new(Headers::new(key.as_ref()))
    }

    fn aead_key_len(&self) -> usize {
        self.0
    }
}

/// AES-GCM (RFC 5116, 5.1 and 5.2). Boxed, as the keys that are made of a key are long.
enum AesGcm {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
    /// The key has no length of these; `rustls` makes none of those.
    None,
}

impl AesGcm {
    fn new(key: &[u8]) -> Self {
        if let Ok(key) = Aes128Gcm::new_from_slice(key) {
            return Self::Aes128(Box::new(key));
        }
        Aes256Gcm::new_from_slice(key).map_or(Self::None, |key| Self::Aes256(Box::new(key)))
    }

    fn encrypt(&self, nonce: [u8; 12], header: &[u8], payload: &mut [u8]) -> Result<[u8; TAG], Error> {
        let (nonce, payload) = (nonce.into(), payload.into());
        let tag = match self {
            Self::Aes128(key) => key.encrypt_inout_detached(&nonce, header, payload),
            Self::Aes256(key) => key.encrypt_inout_detached(&nonce, header, payload),
            Self::None => return Err(Error::EncryptError),
        };
        tag.map(Into::into).map_err(|_| Error::EncryptError)
    }

    fn decrypt(
        &self,
        nonce: [u8; 12],
        header: &[u8],
        payload: &mut [u8],
        tag: [u8; TAG],
    ) -> Result<(), Error> {
        let (nonce, payload, tag) = (nonce.into(), payload.into(), tag.into());
        let opened = match self {
            Self::Aes128(key) => key.decrypt_inout_detached(&nonce, header, payload, &tag),
            Self::Aes256(key) => key.decrypt_inout_detached(&nonce, header, payload, &tag),
            Self::None => return Err(Error::DecryptError),
        };
        opened.map_err(|_| Error::DecryptError)
    }
}

struct Packets {
    key: AesGcm,
    iv: Iv,
}

impl PacketKey for Packets {
    fn encrypt_in_place(&self, number: u64, header: &[u8], payload: &mut [u8]) -> Result<Tag, Error> {
        let tag = self.key.encrypt(Nonce::new(&self.iv, number).0, header, payload)?;
        Ok(Tag::from(tag.as_slice()))
    }

    fn decrypt_in_place<'a>(
        &self,
        number: u64,
        header: &[u8],
        payload: &'a mut [u8],
    ) -> Result<&'a [u8], Error> {
        let (payload, tag) = payload.split_last_chunk_mut::<TAG>().ok_or(Error::DecryptError)?;
        self.key.decrypt(Nonce::new(&self.iv, number).0, header, payload, *tag)?;
        Ok(payload)
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    // Both: RFC 9001, 6.6.
    fn confidentiality_limit(&self) -> u64 {
        1 << 23
    }

    fn integrity_limit(&self) -> u64 {
        1 << 52
    }
}

/// Header protection (RFC 9001, 5.4).
pub(super) enum Headers {
    Aes128(Box<Aes128>),
    Aes256(Box<Aes256>),
    /// As with [`AesGcm::None`].
    None,
}

impl Headers {
    pub(super) fn new(key: &[u8]) -> Self {
        if let Ok(key) = Aes128::new_from_slice(key) {
            return Self::Aes128(Box::new(key));
        }
        Aes256::new_from_slice(key).map_or(Self::None, |key| Self::Aes256(Box::new(key)))
    }

    /// RFC 9001, 5.4.1 and 5.4.3. `is_masked`: the length of the number is still to be unmasked.
    fn apply(&self, sample: &[u8], first: &mut u8, number: &mut [u8], is_masked: bool) -> Result<(), Error> {
        let sample: [u8; SAMPLE] =
            sample.try_into().map_err(|_| Error::General("a sample of another length".into()))?;
        let mut mask = sample.into();
        match self {
            Self::Aes128(key) => key.encrypt_block(&mut mask),
            Self::Aes256(key) => key.encrypt_block(&mut mask),
            Self::None => return Err(Error::EncryptError),
        }
        let is_long = *first & 0x80 != 0;
        let bits = mask[0] & if is_long { 0x0f } else { 0x1f };
        let clear = if is_masked { *first ^ bits } else { *first };
        let len = usize::from(clear & 3) + 1;
        let Some(number) = number.get_mut(..len) else {
            return Err(Error::General("a packet number of another length".into()));
        };
        *first ^= bits;
        for (octet, mask) in number.iter_mut().zip(&mask[1..]) {
            *octet ^= mask;
        }
        Ok(())
    }
}

impl HeaderProtectionKey for Headers {
    fn encrypt_in_place(&self, sample: &[u8], first: &mut u8, number: &mut [u8]) -> Result<(), Error> {
        self.apply(sample, first, number, false)
    }

    fn decrypt_in_place(&self, sample: &[u8], first: &mut u8, number: &mut [u8]) -> Result<(), Error> {
        self.apply(sample, first, number, true)
    }

    fn sample_len(&self) -> usize {
        SAMPLE
    }
}

/// RFC 9001, 5.8.
const RETRY_KEY: [u8; 16] =
    [0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e];
const RETRY_NONCE: [u8; 12] = [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];

/// Whether a Retry packet, its tag not counted, answers a packet to the connection `original` (RFC 9001, 5.8).
pub(super) fn is_retry_of(original: &[u8], retry: [&[u8]; 2], tag: [u8; TAG]) -> bool {
    let Ok(len) = u8::try_from(original.len()) else { return false };
    let pseudo = [&[len], original, retry[0], retry[1]].concat();
    AesGcm::new(&RETRY_KEY).decrypt(RETRY_NONCE, &pseudo, &mut [], tag).is_ok()
}

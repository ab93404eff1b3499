//! The key of the tokens by which an end that has forgotten a connection says so (RFC 9000, 10.3.2).

use hmac::{Hmac, KeyInit, Mac};
use quinn_proto::crypto::{CryptoError, HmacKey};
use rustls::crypto::CryptoProvider;
use sha2::Sha256;

use crate::TlsError;

pub(super) struct Key(Hmac<Sha256>);

impl Key {
    /// A key that nobody knows, for as long as the program runs.
    pub(super) fn new(provider: &CryptoProvider) -> Result<Self, TlsError> {
        let mut key = [0; 64];
        provider.secure_random.fill(&mut key).map_err(rustls::Error::from)?;
        Ok(Self(Hmac::new(&key.into())))
    }

    fn signature(&self, data: &[u8]) -> Hmac<Sha256> {
        let mut signing = self.0.clone();
        signing.update(data);
        signing
    }
}

impl HmacKey for Key {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let signature = self.signature(data).finalize().into_bytes();
        for (octet, signed) in signature_out.iter_mut().zip(signature) {
            *octet = signed;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        self.signature(data).verify_slice(signature).map_err(|_| CryptoError)
    }
}

//! The cryptography.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use crate::TlsError;

/// The algorithms that TLS is made of.
///
/// # Errors
/// [`TlsError::Processor`]: found out here, as the library panics.
pub fn provider() -> Result<Arc<CryptoProvider>, TlsError> {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    {
        if !graviola::util::is_cpu_supported() {
            return Err(TlsError::Processor);
        }
        Ok(Arc::new(rustls_graviola::default_provider()))
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Ok(Arc::new(rustls::crypto::ring::default_provider()))
}

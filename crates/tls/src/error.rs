//! Why there can be no TLS.

use std::io;
use std::path::PathBuf;

/// What is wrong before any server is spoken to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A name that no certificate can be for.
    #[error("{name:?} is no name that a certificate can be for; use a host name or an address")]
    Name {
        /// The name.
        name: String,
    },
    /// The file of authorities.
    #[error("cannot read the certificates in {}: {why}; name a file of PEM certificates that this user may read", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system has none, or they cannot be read.
    #[error(
        "the system's certificate authorities cannot be used: {why}; install them (ca-certificates) or name a file by `ca`"
    )]
    Roots {
        /// What was found instead.
        why: String,
    },
    /// The processor is too old.
    #[error(
        "this processor lacks the instructions for TLS (AES, AVX2, BMI2 and ADX, or ARM's AES and SHA-2)"
    )]
    Processor,
    /// The library refuses the combination.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::new(io::ErrorKind::Unsupported, error)
    }
}

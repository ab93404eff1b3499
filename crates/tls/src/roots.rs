//! The authorities that are trusted.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use oneway_file::limit;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::TlsError;

/// Names the file with the system's authorities (openssl-env(7)).
const SSL_CERT_FILE: &str = "SSL_CERT_FILE";

/// Authorities that have been read from a file. They are the same if it says the same. Cheap to clone.
#[derive(Clone)]
pub struct Authorities {
    pem: Arc<[u8]>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Reads a PEM file, which must have at least one.
    ///
    /// # Errors
    /// [`TlsError::Ca`].
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        of_file(path)
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        self.pem == other.pem
    }
}

impl Eq for Authorities {}

impl Hash for Authorities {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pem.hash(state);
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").field("len", &self.roots.len()).finish_non_exhaustive()
    }
}

fn of_file(path: &Path) -> Result<Authorities, TlsError> {
    let wrong = |why: String| TlsError::Ca { path: path.to_owned(), why };
    let pem = oneway_file::read_named(path, limit::CERTIFICATES).map_err(|error| wrong(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is none (PEM: -----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(Authorities { pem: pem.into(), roots: Arc::new(roots) })
}

/// Those of the system, read once.
pub(crate) fn of_system() -> Result<Arc<RootCertStore>, TlsError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    // What the user names instead of the system's would be read without a limit there. One that is missing is not alone:
    // there may be a folder of them, too.
    if let Some(path) = std::env::var_os(SSL_CERT_FILE).map(PathBuf::from)
        && let Err(error) = oneway_file::check(&path, limit::CERTIFICATES)
        && matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge)
    {
        let why = format!("cannot read {}, which {SSL_CERT_FILE} names: {error}", path.display());
        return Err(TlsError::Roots { why });
    }
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems have some that are malformed; they are of no use to anybody.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(TlsError::Roots { why });
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(roots))))
}

//! What a user says about a server's certificate.

use std::path::PathBuf;

use crate::Authorities;

/// How a server is told from an impostor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TlsSettings {
    /// The name that the certificate must be for, and that the server is told (SNI); without it that of the server's
    /// own address.
    pub server_name: Option<String>,
    /// A PEM file with the only authorities to trust; without it those of the system.
    pub ca: Option<PathBuf>,
    /// What was in that file, if it has been read: it is not read again then, and says something else when it has changed.
    pub authorities: Option<Authorities>,
    /// Protocols to offer (RFC 7301), the best one first.
    pub alpn: Vec<String>,
    /// Trust whoever answers.
    pub skip_verify: bool,
}

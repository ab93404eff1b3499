//! TLS towards servers that the configuration names: proxies and resolvers.
//!
//! [`TlsClient`] decides whom to trust and runs the handshake over any stream, [`QuicClient`] does so for QUIC; neither
//! makes a socket. The cryptography is
//! written in Rust, so that no system needs a C compiler to build for it.
#![forbid(unsafe_code)]

mod client;
mod error;
mod provider;
mod quic;
mod roots;
mod settings;
mod unverified;

pub use client::{TlsClient, TlsStream, check_name};
pub use error::TlsError;
pub use provider::provider;
pub use quic::QuicClient;
pub use roots::Authorities;
pub use settings::TlsSettings;

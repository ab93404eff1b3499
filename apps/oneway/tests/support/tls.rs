//! TLS in front of a server of the laboratory.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use oneway_lab::NetNs;
use oneway_lab::harness::Failed;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A key with its certificate, and the file that makes others trust it.
pub struct Identity {
    acceptor: TlsAcceptor,
    folder: tempfile::TempDir,
}

impl Identity {
    /// For these names and addresses, with these protocols (ALPN).
    pub fn new(names: &[&str], alpn: &[&str]) -> Result<Self, Failed> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names)?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("ca.pem"), cert.pem())?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der())?;
        let mut config = ServerConfig::builder_with_provider(oneway_tls::provider()?)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)?;
        config.alpn_protocols = alpn.iter().map(|word| word.as_bytes().to_vec()).collect();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), folder })
    }

    /// Its folder, for other files of the same test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A server that speaks TLS. Dropped, it ends with all its connections.
pub struct TlsServer {
    accepted: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl TlsServer {
    /// Starts it on these addresses in this namespace; `serve` is run for each connection after its handshake.
    pub fn start<F, Fut>(
        namespace: &NetNs,
        addresses: &[SocketAddr],
        identity: &Identity,
        serve: F,
    ) -> Result<Self, Failed>
    where
        F: Fn(TlsStream<TcpStream>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let (count, acceptor, addresses) =
            (Arc::clone(&accepted), identity.acceptor.clone(), addresses.to_vec());
        namespace.spawn_thread("tls", move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                for address in addresses {
                    let listener = match TcpListener::bind(address).await {
                        Ok(listener) => listener,
                        Err(error) => return drop(ready.send(Err(error))),
                    };
                    let (count, acceptor, serve) = (Arc::clone(&count), acceptor.clone(), serve.clone());
                    tokio::spawn(async move {
                        while let Ok((stream, _)) = listener.accept().await {
                            let (count, acceptor, serve) =
                                (Arc::clone(&count), acceptor.clone(), serve.clone());
                            tokio::spawn(async move {
                                let stream = acceptor.accept(stream).await?;
                                count.fetch_add(1, Ordering::Relaxed);
                                serve(stream).await
                            });
                        }
                    });
                }
                let _ = ready.send(Ok(()));
                let _ = stopped.await;
            });
        })?;
        started.recv()??;
        Ok(Self { accepted, _stop: stop })
    }

    /// TLS alone: what comes out of it goes on to the server at `behind`.
    pub fn in_front_of(
        namespace: &NetNs,
        addresses: &[SocketAddr],
        identity: &Identity,
        behind: SocketAddr,
    ) -> Result<Self, Failed> {
        Self::start(namespace, addresses, identity, move |stream| async move { splice(stream, behind).await })
    }

    /// Handshakes so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Carries bytes both ways, and the end of either direction as such.
#[allow(clippy::disallowed_methods, reason = "the server of the test is another program")]
pub async fn splice(mut stream: TlsStream<TcpStream>, behind: SocketAddr) -> io::Result<()> {
    let mut onward = TcpStream::connect(behind).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut onward).await.map(drop)
}

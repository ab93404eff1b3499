use std::path::PathBuf;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server for `names`, and a file that vouches for it.
fn server(names: &[&str], alpn: &[&str]) -> (TlsAcceptor, tempfile::TempDir, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider().unwrap())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|word| word.as_bytes().to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), folder, path)
}

/// What comes of a handshake, and of a question and its answer after it.
async fn talk(acceptor: &TlsAcceptor, host: &str, settings: &TlsSettings) -> io::Result<Option<Vec<u8>>> {
    let (client, far) = tokio::io::duplex(16 * 1024);
    let answering = async {
        let mut stream = acceptor.accept(far).await?;
        let mut question = [0; 8];
        stream.read_exact(&mut question).await?;
        assert_eq!(&question, b"question");
        stream.write_all(b"answer").await?;
        stream.shutdown().await
    };
    let asking = async {
        let mut stream = TlsClient::new(host, settings)?.connect(client).await?;
        stream.write_all(b"question").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        assert_eq!(answer, b"answer");
        Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
    };
    let (asked, _) = tokio::join!(asking, answering);
    asked
}

#[tokio::test]
async fn a_server_is_trusted_by_its_name_and_by_its_address() {
    let (acceptor, _folder, ca) = server(&["dns.example", "192.0.2.1", "2001:db8::1"], &["h2"]);
    let settings = TlsSettings { ca: Some(ca), alpn: vec!["h2".to_owned()], ..TlsSettings::default() };
    for host in ["dns.example", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(talk(&acceptor, host, &settings).await.unwrap().as_deref(), Some(&b"h2"[..]), "{host}");
    }
    let named = TlsSettings { server_name: Some("dns.example".to_owned()), ..settings };
    talk(&acceptor, "192.0.2.9", &named).await.unwrap();
}

#[tokio::test]
async fn an_impostor_is_not_trusted_unless_the_user_says_so() {
    let (acceptor, _folder, ca) = server(&["dns.example"], &[]);
    let (_, _other, other_ca) = server(&["dns.example"], &[]);
    let wrong_name = TlsSettings { ca: Some(ca), ..TlsSettings::default() };
    let error = talk(&acceptor, "other.example", &wrong_name).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let wrong_issuer = TlsSettings { ca: Some(other_ca), ..TlsSettings::default() };
    let error = talk(&acceptor, "dns.example", &wrong_issuer).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    let careless = TlsSettings { skip_verify: true, ..wrong_issuer };
    talk(&acceptor, "other.example", &careless).await.unwrap();
}

#[test]
fn what_is_wrong_is_said_before_anybody_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "nothing\n").unwrap();
    let with = |path: PathBuf| TlsSettings { ca: Some(path), ..TlsSettings::default() };
    let said = |host: &str, settings: &TlsSettings| TlsClient::new(host, settings).unwrap_err().to_string();
    assert!(said("dns.example", &with(empty)).contains("empty.pem: there is none"));
    assert!(said("dns.example", &with(folder.path().join("none.pem"))).contains("none.pem"));
    assert!(said("-.-", &TlsSettings::default()).contains("no name that a certificate can be for"));
}

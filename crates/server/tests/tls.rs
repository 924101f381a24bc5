//! TLS: the server is who it says, clients too where that is asked, and new certificates come with a signal.

mod common;

use alula_server::Config;
use alula_server::tls::TlsConfig;
use common::listen;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tls")).join(name)
}

fn tls(client_ca: bool) -> TlsConfig {
    TlsConfig { cert: file("server.pem"), key: file("server.key"), client_ca: client_ca.then(|| file("ca.pem")) }
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(file(name)).unwrap()
}

/// Asks for liveness; the answer and the server's certificate.
async fn ask(address: SocketAddr, as_client: bool) -> std::io::Result<(String, CertificateDer<'static>)> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match as_client {
        false => config.with_no_client_auth(),
        true => {
            let key = PrivateKeyDer::from_pem_file(file("client.key")).unwrap();
            config.with_client_auth_cert(vec![certificate("client.pem")], key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await?;
    Ok((String::from_utf8(text).unwrap(), shown))
}

#[tokio::test]
async fn served_over_tls_and_only_so() {
    let short = Duration::from_millis(500);
    let (address, _app, _stop) =
        listen(Config { tls: Some(tls(false)), header_timeout: short, ..Config::default() }, Vec::new()).await;
    let (text, shown) = ask(address, false).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(shown, certificate("server.pem"));
    // Plain text gets an alert and the end; silence gets the end.
    for bytes in [&b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"[..], b""] {
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain.write_all(bytes).await.unwrap();
        let mut out = Vec::new();
        _ = tokio::time::timeout(Duration::from_secs(5), plain.read_to_end(&mut out)).await.expect("it ends");
        assert!(!out.starts_with(b"HTTP"));
    }
}

#[tokio::test]
async fn clients_show_certificates_where_asked() {
    let (address, _app, _stop) = listen(Config { tls: Some(tls(true)), ..Config::default() }, Vec::new()).await;
    assert!(ask(address, true).await.unwrap().0.starts_with("HTTP/1.1 200"));
    assert!(ask(address, false).await.is_err());
}

#[tokio::test]
async fn certificates_are_read_anew() {
    let config = Config { tls: Some(tls(false)), ..Config::default() };
    let (address, app, _stop) = listen(config.clone(), Vec::new()).await;
    let other = TlsConfig { cert: file("other.pem"), key: file("other.key"), client_ca: None };
    let mixed = TlsConfig { key: file("server.key"), ..other.clone() };
    assert!(app.reload(&Config { tls: Some(mixed), ..config.clone() }).is_err(), "a key of another certificate");
    let missing = TlsConfig { cert: file("none.pem"), ..other.clone() };
    let e = app.reload(&Config { tls: Some(missing), ..config.clone() }).unwrap_err();
    assert!(e.to_string().contains("none.pem"), "{e}");
    assert_eq!(ask(address, false).await.unwrap().1, certificate("server.pem"));
    assert_eq!(app.reload(&Config { tls: Some(other), ..config }).unwrap(), ["certificates read"]);
    assert_eq!(ask(address, false).await.unwrap().1, certificate("other.pem"));
}

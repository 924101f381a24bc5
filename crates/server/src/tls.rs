//! TLS, and who may connect (RFC 8446; rustls with ring).

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of a server's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Its certificates, the server's first (PEM).
    pub cert: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Certificates of those who vouch for clients (PEM); with it, a client without one is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

/// Files that make no identity.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct TlsError {
    path: String,
    why: String,
}

fn fail(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> TlsError {
    let path = path.display().to_string();
    move |why| TlsError { path: path.clone(), why: why.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = fail(path);
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| fail(&e))?.collect();
    match all.map_err(|e| fail(&e))? {
        none if none.is_empty() => Err(fail(&"there is no certificate in it (PEM is needed)")),
        all => Ok(all),
    }
}

impl TlsConfig {
    /// Reads the files.
    ///
    /// # Errors
    /// One is not there, or not what it should be, or the key is another certificate's.
    pub fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| fail(&self.cert)(&e))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let fail = fail(path);
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| fail(&e))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| fail(&e))?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| fail(&self.key)(&e))?;
        let config = builder.with_single_cert(certificates(&self.cert)?, key);
        let mut config = config.map_err(|e| fail(&self.key)(&e))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

//! TLS by rustls. The certificate is read again when its file changes, so a renewal needs no restart.

use std::{
    fs, io,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A certificate that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}", file = .file.display())]
pub struct TlsError {
    file: PathBuf,
    why: String,
}

/// The certificate in use.
pub struct Certificate {
    files: (PathBuf, PathBuf),
    state: Mutex<State>,
}

struct State {
    acceptor: TlsAcceptor,
    stamps: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Certificate {
    /// Reads chain and key.
    pub fn load(files: &(PathBuf, PathBuf)) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self {
            state: Mutex::new(State { acceptor: read(files)?, stamps: stamps(files), looked: Instant::now() }),
            files: files.clone(),
        }))
    }

    /// Does the handshake.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = self.acceptor();
        acceptor.accept(stream).await
    }

    fn acceptor(&self) -> TlsAcceptor {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= LOOK_EVERY {
            state.looked = Instant::now();
            let stamps = stamps(&self.files);
            if stamps != state.stamps {
                match read(&self.files) {
                    Ok(acceptor) => {
                        tracing::info!("TLS certificate read again");
                        state.acceptor = acceptor;
                        state.stamps = stamps;
                    }
                    // Half-written, perhaps: the old one serves until the next look.
                    Err(error) => tracing::error!(%error, "the new TLS certificate cannot be used"),
                }
            }
        }
        state.acceptor.clone()
    }
}

fn stamps(files: &(PathBuf, PathBuf)) -> [Option<SystemTime>; 2] {
    [&files.0, &files.1].map(|f| fs::metadata(f).and_then(|m| m.modified()).ok())
}

fn read(files: &(PathBuf, PathBuf)) -> Result<TlsAcceptor, TlsError> {
    let broken = |file: &PathBuf, why: &dyn std::fmt::Display| TlsError { file: file.clone(), why: why.to_string() };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(&files.0).and_then(Iterator::collect).map_err(|e| broken(&files.0, &e))?;
    if chain.is_empty() {
        return Err(broken(&files.0, &"holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&files.1).map_err(|e| broken(&files.1, &e))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key);
    let mut config = config.map_err(|error| match error {
        rustls::Error::InvalidCertificate(_) => broken(&files.0, &"holds a certificate that cannot be read"),
        rustls::Error::InconsistentKeys(_) => broken(&files.1, &"is not the key of the certificate"),
        other => broken(&files.1, &other),
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

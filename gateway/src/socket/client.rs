//! An agent's end of the socket, as far as `patchbay check` needs it: it connects, reads, and answers pings.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError, handshake};
use http_body_util::Empty;
use hyper::{
    Request, Uri,
    header::{CONNECTION, HOST, UPGRADE},
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

/// For everything until the socket is open.
const CONNECT: Duration = Duration::from_secs(15);
/// Attempts to connect.
const DIALS: u32 = 5;
const BETWEEN_DIALS: Duration = Duration::from_secs(1);
/// A command's frame is far below it.
const MESSAGE_MAX: usize = 64 << 10;

/// Why there is no socket, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not where a gateway can be.
    #[error("{0:?} is not http://HOST[:PORT] or https://HOST[:PORT]")]
    Address(String),
    /// Nobody answers in time.
    #[error("{0} does not answer within 15 s")]
    Silent(String),
    /// Nobody is there.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// Somebody is there who has no socket for us.
    #[error("the upgrade at {0} failed: {1}")]
    Upgrade(String, WebSocketError),
    /// It was closed.
    #[error("the gateway closed the socket: {0}")]
    Closed(String),
    /// It broke.
    #[error("the socket broke: {0}")]
    Broken(#[from] WebSocketError),
    /// What came is no message of ours.
    #[error("the gateway sent what is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
}

/// Where it connects to.
#[derive(Debug, Clone)]
pub struct Address {
    authority: String,
    host: String,
    port: u16,
    tls: bool,
}

impl Address {
    /// Of `http://HOST[:PORT]` or `https://HOST[:PORT]`.
    ///
    /// # Errors
    /// [`ClientError::Address`].
    pub fn parse(url: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong());
        }
        // What is behind the last colon, where no bracket follows, is a port or nothing that can be.
        let behind = authority.as_str().rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
        if behind.is_some_and(|port| port.parse::<u16>().is_err()) {
            return Err(wrong());
        }
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            tls,
        })
    }
}

/// An open socket.
pub struct Client {
    socket: FragmentCollector<TokioIo<Upgraded>>,
}

impl Client {
    /// Connects as the agent with these credentials. The certificate of `https://` is not looked at: inside a cluster no
    /// certificate has the Service's name, and what is shown here is not whose gateway it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(address: &Address, api_id: &str, api_key: &str) -> Result<Self, ClientError> {
        let place = address.authority.clone();
        let connecting = async {
            let failed = |error| ClientError::Connect(place.clone(), error);
            let stream = dial(address).await.map_err(failed)?;
            if !address.tls {
                return upgrade(address, stream, api_id, api_key).await;
            }
            let name = ServerName::try_from(address.host.clone()).map_err(|_| ClientError::Address(place.clone()))?;
            let stream = TlsConnector::from(any_certificate()).connect(name, stream).await.map_err(failed)?;
            upgrade(address, stream, api_id, api_key).await
        };
        timeout(CONNECT, connecting).await.map_err(|_| ClientError::Silent(place.clone()))?
    }

    /// The next message. Pings are answered while it waits.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn message(&mut self) -> Result<Value, ClientError> {
        loop {
            let frame = self.socket.read_frame().await?;
            match frame.opcode {
                OpCode::Text => return Ok(serde_json::from_slice(&frame.payload)?),
                OpCode::Close => {
                    let reason = frame.payload.get(2..).unwrap_or_default();
                    return Err(ClientError::Closed(String::from_utf8_lossy(reason).into_owned()));
                }
                _ => {}
            }
        }
    }
}

/// Tries again once a second for a while: network policies let a new pod through a little late.
async fn dial(address: &Address) -> std::io::Result<TcpStream> {
    let mut left = DIALS;
    loop {
        match TcpStream::connect((address.host.as_str(), address.port)).await {
            Err(_) if left > 1 => left -= 1,
            done => return done,
        }
        sleep(BETWEEN_DIALS).await;
    }
}

async fn upgrade<S>(address: &Address, stream: S, api_id: &str, api_key: &str) -> Result<Client, ClientError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error| ClientError::Upgrade(address.authority.clone(), error);
    let request = Request::get("/api/v1/agents/ws")
        .header(HOST, &address.authority)
        .header(UPGRADE, "websocket")
        .header(CONNECTION, "Upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
        .header("Sec-WebSocket-Version", "13")
        .header("X-API-ID", api_id)
        .header("X-API-KEY", api_key)
        .body(Empty::<Bytes>::new())
        .map_err(|_| ClientError::Address(address.authority.clone()))?;
    let (mut socket, _) = handshake::client(&TokioExecutor::new(), request, stream).await.map_err(failed)?;
    socket.set_max_message_size(MESSAGE_MAX);
    Ok(Client { socket: FragmentCollector::new(socket) })
}

fn any_certificate() -> Arc<ClientConfig> {
    let provider = CryptoProvider::get_default().cloned();
    let provider = provider.unwrap_or_else(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|_| unreachable!("the provider has what TLS 1.2 and 1.3 need"))
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Arc::new(config)
}

/// Takes every certificate whose holder has its key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_gateways() {
        let address = |url| Address::parse(url).map(|a| (a.host, a.port, a.tls)).map_err(|error| error.to_string());
        assert_eq!(address("http://patchbay:3001").unwrap(), ("patchbay".to_owned(), 3001, false));
        assert_eq!(address("https://patchbay/").unwrap(), ("patchbay".to_owned(), 443, true));
        assert_eq!(address("http://[::1]:3001").unwrap(), ("::1".to_owned(), 3001, false));
        for wrong in [
            "patchbay:3001",
            "ws://patchbay",
            "http://u:p@patchbay",
            "http://patchbay/api",
            "http://",
            "a b",
            "http://h:99999",
            "http://h:",
        ] {
            assert!(address(wrong).unwrap_err().contains("HOST"), "{wrong}");
        }
    }
}

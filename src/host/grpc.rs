//! One unary gRPC call with a certificate of our own: a message in, a message out, as bytes. etcd's client port speaks nothing
//! else under RKE2. Knows no message, keeps no connection and retries nothing.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

/// Who we are to a server and whom we trust; all PEM.
#[derive(Clone)]
pub struct TlsIdentity {
    /// The authority that signed the server's certificate.
    pub authority: Vec<u8>,
    /// Our certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsIdentity(..)")
    }
}

/// A call.
#[derive(Debug, Clone)]
pub struct GrpcCall<'a> {
    /// `https://10.0.0.1:2379`
    pub server: &'a str,
    /// `/etcdserverpb.Cluster/MemberList`
    pub method: &'static str,
    /// The request, encoded.
    pub message: Vec<u8>,
    /// Certificates.
    pub identity: &'a TlsIdentity,
    /// For all of it, from the connection on.
    pub deadline: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// The address, or a certificate, is none.
    #[error("{server} cannot be asked; check its address and the certificates")]
    Unusable {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nobody listens, or one side does not trust the other.
    #[error(
        "no answer from {server}; see whether it runs, and whether its certificates are those of this cluster"
    )]
    NoAnswer {
        /// The server.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody listens and is silent.
    #[error("{server} said nothing for {deadline:?}; see whether it hangs")]
    TimedOut {
        /// The server.
        server: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It answers with an error.
    #[error("{server} answers {method} with {code}: {message}")]
    Refused {
        /// The server.
        server: String,
        /// What was asked.
        method: &'static str,
        /// gRPC's word.
        code: String,
        /// Its own words.
        message: String,
    },
}

impl GrpcError {
    /// Is nobody there at all? One that hangs, or that trusts nobody, is there.
    #[must_use]
    pub fn nobody_listens(&self) -> bool {
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let refused = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if refused == Some(io::ErrorKind::ConnectionRefused) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}

/// Makes the call.
///
/// # Errors
/// See [`GrpcError`].
pub(super) async fn call(call: &GrpcCall<'_>) -> Result<Bytes, GrpcError> {
    match tokio::time::timeout(call.deadline, ask(call)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(GrpcError::TimedOut { server: call.server.to_owned(), deadline: call.deadline }),
    }
}

async fn ask(call: &GrpcCall<'_>) -> Result<Bytes, GrpcError> {
    let server = || call.server.to_owned();
    let unusable = |source| GrpcError::Unusable { server: server(), source };
    let no_answer = |source| GrpcError::NoAnswer { server: server(), source };
    let TlsIdentity { authority, certificate, key } = call.identity;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority))
        .identity(Identity::from_pem(certificate, key));
    let endpoint = Endpoint::from_shared(server()).and_then(|endpoint| endpoint.tls_config(tls));
    let endpoint = endpoint.map_err(|error| unusable(error.into()))?.connect_timeout(call.deadline);
    let channel = endpoint.connect().await.map_err(|error| no_answer(error.into()))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| no_answer(error.into()))?;
    let method = PathAndQuery::from_static(call.method);
    match client.unary(Request::new(call.message.clone()), method, Verbatim).await {
        Ok(answer) => Ok(answer.into_inner()),
        // A server that does not want our certificate says so only now.
        Err(status) if std::error::Error::source(&status).is_some() => Err(no_answer(status.into())),
        Err(status) => {
            let code = word(status.code());
            Err(GrpcError::Refused {
                server: server(),
                method: call.method,
                code,
                message: status.message().to_owned(),
            })
        }
    }
}

fn word(code: Code) -> String {
    format!("{code:?}")
}

/// Messages as they are: whoever calls has encoded them.
struct Verbatim;

impl Codec for Verbatim {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Verbatim {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

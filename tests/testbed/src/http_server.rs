//! Hosts a closure over HTTP/1.1, with or without TLS. Owns connections; knows nothing of what is answered.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::pki::Identity;

/// A TLS server with this certificate; the caller's certificate is not looked at.
pub(crate) fn acceptor(identity: &Identity) -> Result<TlsAcceptor> {
    let chain =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("the certificate does not fit its key")?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves connections until its task is aborted; without an acceptor, in plain text.
pub(crate) async fn serve<F, A>(listener: TcpListener, acceptor: Option<TlsAcceptor>, service: F)
where
    F: Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Bytes>> + Send + 'static,
{
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, service) = (acceptor.clone(), service.clone());
        tokio::spawn(async move {
            match acceptor {
                None => serve_one(stream, service).await,
                Some(acceptor) => {
                    // A caller that goes away in the middle is its own affair.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    serve_one(stream, service).await;
                }
            }
        });
    }
}

async fn serve_one<S, F, A>(stream: S, service: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Bytes>> + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| answer(service.clone(), request));
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await);
}

async fn answer<F, A>(service: F, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Request<Bytes>) -> A,
    A: Future<Output = Response<Bytes>>,
{
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Ok(service(Request::from_parts(parts, body)).await.map(Full::new))
}

//! The ports at which RKE2's health is read: kubelet, and on a server also etcd and the supervisor.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Role;
use crate::http_server;
use crate::pki::{Authority, Identity, Purpose};

/// Where RKE2 keeps the authority of its supervisor.
const TLS: &str = "/var/lib/rancher/rke2/server/tls";

/// Binds all ports and serves them for as long as the process lives.
pub(crate) async fn start(role: Role, bind: Ipv4Addr) -> Result<()> {
    serve(bind, 10248, None, &[("/healthz", "ok")]).await?;
    if role == Role::Server {
        serve(bind, 2381, None, &[("/health", r#"{"health":"true"}"#)]).await?;
        serve(bind, 9345, Some(supervisor(bind)?), &[("/ping", "pong")]).await?;
    }
    Ok(())
}

async fn serve(
    bind: Ipv4Addr,
    port: u16,
    acceptor: Option<TlsAcceptor>,
    pages: &'static [(&'static str, &'static str)],
) -> Result<()> {
    let listener =
        TcpListener::bind((bind, port)).await.with_context(|| format!("cannot listen on {bind}:{port}"))?;
    tokio::spawn(http_server::serve(listener, acceptor, move |request: Request<Bytes>| {
        let page = pages.iter().find(|(path, _)| *path == request.uri().path());
        let mut response =
            Response::new(Bytes::from_static(page.map_or("not found", |(_, text)| text).as_bytes()));
        if page.is_none() {
            *response.status_mut() = StatusCode::NOT_FOUND;
        }
        std::future::ready(response)
    }));
    Ok(())
}

/// The certificate is made at the first start and kept, as the real one's authority is.
fn supervisor(bind: Ipv4Addr) -> Result<TlsAcceptor> {
    let dir = Path::new(TLS);
    let (authority, certificate, key) =
        (dir.join("server-ca.crt"), dir.join("serving.crt"), dir.join("serving.key"));
    let identity = if let (true, Ok(certificate), Ok(key)) =
        (authority.exists(), fs::read_to_string(&certificate), fs::read_to_string(&key))
    {
        Identity { certificate, key }
    } else {
        let made = Authority::new("rke2-server-ca@testbed")?;
        let addresses = [IpAddr::V4(bind), IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let identity = made.sign("rke2", Purpose::Server, &["localhost", "kubernetes"], &addresses)?;
        fs::create_dir_all(dir).with_context(|| format!("cannot make {TLS}"))?;
        fs::write(certificate, &identity.certificate)?;
        fs::write(key, &identity.key)?;
        fs::write(authority, made.certificate())?;
        identity
    };
    http_server::acceptor(&identity)
}

//! One GET over HTTP or HTTPS, answered piece by piece. The client is kube's: its TLS and certificates serve here as well, and
//! the binary carries one. Follows no redirect and retries nothing.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::{HeaderMap, Request, Uri};
use http_body::Body as _;
use kube::client::Body;
use kube::{Client, Config};

use crate::telemetry::chain;

/// A server that takes longer to accept a connection is away.
const CONNECT: Duration = Duration::from_secs(15);
/// A server that says nothing for so long has hung up.
const SILENCE: Duration = Duration::from_secs(30);

/// What a server answers.
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The content, as it comes.
    pub body: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for HttpAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpAnswer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Asks for `url` with these headers; `trusted` is a bundle of certificates (PEM) that count instead of this process's own.
///
/// # Errors
/// The URL is none, or there is no answer.
pub(super) async fn open(
    url: &str,
    headers: &[(&'static str, String)],
    trusted: Option<&Path>,
) -> io::Result<HttpAnswer> {
    let uri: Uri = url.parse().map_err(io::Error::other)?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(io::Error::other(format!("{url} is no http:// or https:// address")));
    };
    let server = format!("{scheme}://{authority}/").parse().map_err(io::Error::other)?;
    let mut config = Config::new(server);
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Without any of its own kube would look for those of this process first, and fail where there are none.
    config.root_cert = trusted.map(|_| Vec::new());
    config.root_cert_file = trusted.map(Path::to_path_buf);
    let client = Client::try_from(config).map_err(io::Error::other)?;
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Body::empty()).map_err(io::Error::other)?;
    // A certificate that nobody trusts is named by the last cause only.
    let answer = client.send(request).await.map_err(|error| io::Error::other(chain(&error)))?;
    let (parts, body) = answer.into_parts();
    Ok(HttpAnswer { status: parts.status.as_u16(), headers: parts.headers, body: pieces(body).boxed() })
}

fn pieces(body: Body) -> impl stream::Stream<Item = io::Result<Bytes>> {
    let mut body = Box::pin(body);
    stream::poll_fn(move |context| {
        let body: Pin<&mut Body> = body.as_mut();
        body.poll_frame(context)
            .map(|frame| frame.map(|frame| frame.map_err(|error| io::Error::other(error.to_string()))))
    })
    .filter_map(|frame| async {
        match frame {
            // Trailers say nothing here.
            Ok(frame) => frame.into_data().ok().map(Ok),
            Err(error) => Some(Err(error)),
        }
    })
}

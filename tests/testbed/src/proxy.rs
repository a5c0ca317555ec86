//! A proxy that spoils things between one client and an API server: answers errors in the server's place, loses answers of
//! what was done, and cuts every connection for a while. Owns its listener and its connections; knows no Kubernetes object.

use std::convert::Infallible;
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// What becomes of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server's own answer.
    Answered,
    /// This error; the server never hears of the request.
    Refused(StatusCode),
    /// This answer, a `Status`; the server never hears of the request.
    Said(StatusCode, Bytes),
    /// The server does it, and this error is what the client is told.
    AnswerLost(StatusCode),
}

/// Chooses a request's fate by its method, its path and query, and its number among those that read, or those that write.
type Pattern = dyn Fn(&Method, &Uri, usize) -> Fate + Send + Sync;

type Answer = Response<UnsyncBoxBody<Bytes, Box<dyn Error + Send + Sync>>>;

/// A running proxy; everything through it ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    cut: watch::Sender<bool>,
    task: JoinHandle<()>,
    wire: Arc<Wire>,
}

struct Wire {
    server: Client,
    pattern: Box<Pattern>,
    reads: AtomicUsize,
    writes: AtomicUsize,
    spoiled: AtomicUsize,
    spoils: AtomicBool,
    hang_up: Notify,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("spoiled", &self.spoiled).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Listens on a free loopback port and asks `server` with that client's rights.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(
        server: Client,
        pattern: impl Fn(&Method, &Uri, usize) -> Fate + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (cut, is_cut) = watch::channel(false);
        let count = AtomicUsize::default;
        let (spoils, hang_up) = (AtomicBool::new(false), Notify::new());
        let wire = Arc::new(Wire {
            server,
            pattern: Box::new(pattern),
            reads: count(),
            writes: count(),
            spoiled: count(),
            spoils,
            hang_up,
        });
        let task = tokio::spawn(accept(listener, wire.clone(), is_cut));
        Ok(Self { port, cut, task, wire })
    }

    /// Writes a kubeconfig that leads here; the proxy has the rights, its client needs none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn kubeconfig(&self, dir: &Path) -> Result<PathBuf> {
        let file = dir.join("proxy.kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "proxy", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        });
        std::fs::write(&file, text.to_string())?;
        Ok(file)
    }

    /// Follows the pattern from now on, or no longer; at first everything is answered by the server.
    pub fn spoil(&self, spoil: bool) {
        self.wire.spoils.store(spoil, Ordering::Relaxed);
    }

    /// Cuts every connection and takes no new one, until told otherwise.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    /// Breaks every connection that there is; new ones are taken.
    pub fn hang_up(&self) {
        self.wire.hang_up.notify_waiters();
    }

    /// How many requests were not answered by the server's own answer.
    #[must_use]
    pub fn spoiled(&self) -> usize {
        self.wire.spoiled.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut(true);
    }
}

async fn accept(listener: TcpListener, wire: Arc<Wire>, is_cut: watch::Receiver<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        if !*is_cut.borrow() {
            tokio::spawn(serve(stream, wire.clone(), is_cut.clone()));
        }
    }
}

async fn serve(stream: TcpStream, wire: Arc<Wire>, mut is_cut: watch::Receiver<bool>) {
    let all = wire.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let wire = wire.clone();
        async move { Ok::<_, Infallible>(wire.answer(request).await) }
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Cancel-safe: a connection that is cut is not used again, and what its client makes of that is its own affair.
        ended = connection => drop(ended),
        () = all.hang_up.notified() => {}
        cut = is_cut.wait_for(|cut| *cut) => drop(cut),
    }
}

impl Wire {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (mut parts, body) = request.into_parts();
        let counter = if parts.method == Method::GET { &self.reads } else { &self.writes };
        let fate = if self.spoils.load(Ordering::Relaxed) {
            let number = counter.fetch_add(1, Ordering::Relaxed);
            (self.pattern)(&parts.method, &parts.uri, number)
        } else {
            Fate::Answered
        };
        let instead = match &fate {
            Fate::Refused(code) => Some(failure(*code)),
            Fate::Said(code, text) => Some(said(*code, text.clone())),
            Fate::Answered | Fate::AnswerLost(_) => None,
        };
        if let Some(instead) = instead {
            self.spoiled.fetch_add(1, Ordering::Relaxed);
            return instead;
        }
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        for own in [header::HOST, header::AUTHORIZATION, header::CONNECTION] {
            parts.headers.remove(own);
        }
        let answer = self.server.send(Request::from_parts(parts, Body::from(body.to_vec()))).await;
        match (fate, answer) {
            (Fate::AnswerLost(code), _) => {
                self.spoiled.fetch_add(1, Ordering::Relaxed);
                failure(code)
            }
            (_, Ok(answer)) => answer.map(|body| body.map_err(Into::into).boxed_unsync()),
            (_, Err(error)) => {
                eprintln!("testbed: the proxy got no answer: {error}");
                failure(StatusCode::BAD_GATEWAY)
            }
        }
    }
}

/// As an API server words a failure.
fn failure(code: StatusCode) -> Answer {
    let reason = if code == StatusCode::CONFLICT { "Conflict" } else { "InternalError" };
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": "spoiled by the test's proxy", "code": code.as_u16(),
    });
    said(code, Bytes::from(text.to_string()))
}

fn said(code: StatusCode, text: Bytes) -> Answer {
    let body = Full::new(text).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = code;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}

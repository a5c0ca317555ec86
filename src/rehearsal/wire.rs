//! The agent's way to the API server in memory: every request is an effect of its life, so it can be refused, lost, cut off,
//! or the last thing that the agent does. While the server is away, requests and watches break as they do on a real wire.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::{BoxFuture, select};
use futures::{FutureExt, StreamExt};
use http::{Request, Response, StatusCode};
use kube::client::Body;
use nix::errno::Errno;
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service};

use crate::sim::api::{ApiBody, ApiService, Status};
use crate::sim::machine::life::{Life, Verdict};
use crate::sim::troubles::Troubles;

/// What is wrong with the way to the API server.
#[derive(Debug, Default)]
struct Trouble {
    /// Requests whose answers are lost, by the number of the life's effect.
    lost: BTreeSet<u64>,
    /// Cancelled when connections break; the next ones get a new one.
    connections: CancellationToken,
    requests: u64,
}

/// One life's wire; clones are the same one.
#[derive(Clone)]
pub(super) struct LifeWire {
    server: ApiService,
    life: Life,
    trouble: Arc<Mutex<Trouble>>,
    troubles: Troubles,
}

impl LifeWire {
    pub(super) fn new(server: ApiService, life: Life, lost: BTreeSet<u64>, troubles: Troubles) -> Self {
        Self { server, life, trouble: Arc::new(Mutex::new(Trouble { lost, ..Trouble::default() })), troubles }
    }

    /// The client that production code gets.
    pub(super) fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.trouble().requests
    }

    /// All connections break now.
    pub(super) fn hang_up(&self) {
        let old = std::mem::take(&mut self.trouble().connections);
        old.cancel();
    }

    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(mut self, request: Request<Body>) -> Result<Response<ApiBody>, BoxError> {
        self.trouble().requests += 1;
        let what = format!("{} {}", request.method(), request.uri().path());
        let pass = match self.life.effect("request", &what) {
            Verdict::Dead => return Err(broken("the agent is dead")),
            Verdict::Fail(Errno::ENOSPC) => return Ok(refused()),
            Verdict::Fail(_) => return Err(broken("connection reset by peer")),
            Verdict::Go(pass) => pass,
        };
        let is_lost = {
            let number = self.life.count_so_far();
            self.trouble().lost.remove(&number)
        };
        // Whatever becomes of the request, what was to come after it comes.
        let answer = if !self.life.machine().api_is_up() {
            Err(broken("connection refused"))
        } else if let Some(met) = self.troubles.meets(request.method(), request.uri()) {
            Ok(said(&met))
        } else {
            self.server.call(request).await
        };
        if !pass.spent() {
            return Err(broken("the agent is dead"));
        }
        let answer = answer?;
        if is_lost {
            return Err(broken("connection reset by peer, after the request was sent"));
        }
        let hung_up = self.trouble().connections.clone().cancelled_owned();
        let cut_off = self.life.machine().reach().cancelled_owned();
        Ok(answer.map(|body| breakable(body, select(Box::pin(hung_up), Box::pin(cut_off)))))
    }
}

fn broken(why: &'static str) -> BoxError {
    io::Error::new(io::ErrorKind::ConnectionReset, why).into()
}

/// A refusal on the wire.
fn said(status: &Status) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::from(Bytes::from(status.json().to_string())));
    *response.status_mut() = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// What an overloaded API server says.
fn refused() -> Response<ApiBody> {
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 503,
        "reason": "ServiceUnavailable", "message": "the server is currently unable to handle the request",
    });
    let mut response = Response::new(ApiBody::from(Bytes::from(status.to_string())));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

/// The same answer, which ends early when its connection breaks.
fn breakable<F: Future + Send + Unpin + 'static>(body: ApiBody, mut broke: F) -> ApiBody {
    let (mut pieces, mut is_broken) = (body.into_stream(), false);
    let pieces = futures::stream::poll_fn(move |context| {
        is_broken = is_broken || broke.poll_unpin(context).is_ready();
        if is_broken {
            return Poll::Ready(Some(Err(broken("connection reset by peer"))));
        }
        pieces.poll_next_unpin(context)
    });
    ApiBody::stream(pieces.boxed())
}

impl Service<Request<Body>> for LifeWire {
    type Response = Response<ApiBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.clone().send(request).boxed()
    }
}

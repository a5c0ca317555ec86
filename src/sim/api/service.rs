//! The server as a tower service: HTTP in, HTTP out, no socket.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::client::Body;
use serde_json::Value;
use tower::{BoxError, Service};

use super::read::list_text;
use super::request::Query;
use super::route::{self, Answer};
use super::{ApiBody, ApiServer, PatchKind, Status, wire};

/// Speaks HTTP for an [`ApiServer`].
#[derive(Debug, Clone)]
pub struct ApiService {
    pub(super) server: ApiServer,
}

impl Service<Request<Body>> for ApiService {
    type Response = Response<ApiBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let server = self.server.clone();
        async move {
            server.shared.count_request();
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            if let Some(handler) = server.shared.handler(head.uri.path()) {
                return Ok(handler(Request::from_parts(head, body)).await.map(ApiBody::from));
            }
            Ok(respond(&server, &head, &body)?)
        }
        .boxed()
    }
}

fn respond(server: &ApiServer, head: &http::request::Parts, body: &Bytes) -> http::Result<Response<ApiBody>> {
    let path = head.uri.path();
    if ["/healthz", "/livez", "/readyz"].contains(&path) {
        return Response::builder().status(200).body(Bytes::from_static(b"ok").into());
    }
    match answer(server, head, body) {
        Ok(Answer::Object(code, object)) if wants_metadata(head) => json(code, metadata_text(&object).into()),
        Ok(Answer::Object(code, object)) => json(code, object.text().clone().into()),
        Ok(Answer::List(page, api_version, kind)) => {
            let texts = page.items.iter().map(|(_, object)| &**object.text());
            json(200, list_text((&api_version, &kind), &page, texts).into())
        }
        Ok(Answer::Watch(events, end)) => {
            json(200, ApiBody::stream(wire::lines(events, end, server.shared.downgrade())))
        }
        Err(status) => {
            let code = if status.code == 0 { 500 } else { status.code };
            let mut answer = json(code, Bytes::from(status.json().to_string()).into())?;
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            if seconds > 0 {
                answer.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
            }
            Ok(answer)
        }
    }
}

/// Does the client ask for no more of an object than its metadata?
fn wants_metadata(head: &http::request::Parts) -> bool {
    let accept = head.headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.split(';').any(|part| part.trim() == "as=PartialObjectMetadata"))
}

fn metadata_text(object: &Value) -> Bytes {
    let metadata = object.get("metadata").map_or_else(|| "{}".to_owned(), Value::to_string);
    let head = r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#;
    Bytes::from(format!("{head}{metadata}}}"))
}

fn json(code: u16, body: ApiBody) -> http::Result<Response<ApiBody>> {
    Response::builder().status(code).header(http::header::CONTENT_TYPE, "application/json").body(body)
}

fn answer(server: &ApiServer, head: &http::request::Parts, body: &Bytes) -> Result<Answer, Status> {
    let content = head.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let patch = match content.unwrap_or_default().split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => Some(PatchKind::Merge),
        "application/json-patch+json" => Some(PatchKind::Json),
        "application/strategic-merge-patch+json" => Some(PatchKind::Strategic),
        "application/apply-patch+yaml" => Some(PatchKind::Apply),
        _ => None,
    };
    let value = if body.is_empty() || head.method == http::Method::GET {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|error| {
            Status::bad_request(format!(
                "the object provided is unrecognized (must be of type Object): {error}"
            ))
        })?
    };
    let request = route::Request {
        method: &head.method,
        path: head.uri.path(),
        query: Query::parse(head.uri.query().unwrap_or_default()),
        patch,
        body: &value,
    };
    server.shared.store().answer(&request)
}

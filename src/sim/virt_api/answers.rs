//! The bodies that virt-api answers with: empty acceptances, `Status` refusals, discovery and health.

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::sim::view::Kind;

/// A refusal as the API words it.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
    details: Value,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, details: Value::Null }
    }

    pub(super) fn path(path: &str) -> Self {
        Self::new(404, "NotFound", format!("the server could not find the requested resource: {path}"))
    }

    pub(super) fn method(method: &Method) -> Self {
        Self::new(405, "MethodNotAllowed", format!("{method} is not supported on this resource, use PUT"))
    }

    pub(super) fn bad(message: &str) -> Self {
        Self::new(400, "BadRequest", message.to_owned())
    }

    pub(super) fn internal(message: &str) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self {
            details: json!({"causes": [{"message": message}]}),
            ..Self::new(500, "InternalError", message)
        }
    }

    pub(super) fn not_found(kind: Kind, name: &str) -> Self {
        let singular = kind.names().1.to_lowercase();
        let message = format!("{singular}.kubevirt.io \"{name}\" not found");
        let details = json!({"name": name, "group": "kubevirt.io", "kind": singular});
        Self { details, ..Self::new(404, "NotFound", message) }
    }

    pub(super) fn conflict(name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on virtualmachine.kubevirt.io \"{name}\": {why}");
        let details = json!({"name": name, "group": "kubevirt.io", "kind": "virtualmachine"});
        Self { details, ..Self::new(409, "Conflict", message) }
    }

    /// A read or a create that the API refused.
    pub(super) fn wire(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::internal(&status.message);
        }
        Self::internal(&error.to_string())
    }

    /// A tested patch that was refused. The real virt-api knows a lost race only by a text that API servers no longer
    /// send, so most of them come out as 500.
    pub(super) fn race(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::wire(error);
        };
        match status.code {
            409 => Self::new(409, "Conflict", status.message.clone()),
            404 => Self::new(404, "NotFound", status.message.clone()),
            422 => Self::internal("the server rejected our request due to an error in our request"),
            _ => Self::wire(error),
        }
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code});
        if let Some(fields) = status.as_object_mut().filter(|_| !self.details.is_null()) {
            fields.insert("details".to_owned(), self.details);
        }
        body(StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status)
    }
}

/// The options in a request's body; none at all is fine.
pub(super) fn options(body: &Bytes) -> Result<Map<String, Value>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    let unreadable = |error: &dyn std::fmt::Display| {
        Refusal::bad(&format!("Can not unmarshal Request body to struct, error: {error}"))
    };
    match serde_json::from_slice(body) {
        Ok(Value::Null) => Ok(Map::new()),
        Ok(Value::Object(options)) => Ok(options),
        Ok(_) => Err(unreadable(&"not an object")),
        Err(error) => Err(unreadable(&error)),
    }
}

pub(super) fn empty(code: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = code;
    response
}

pub(super) fn accepted() -> Response<Bytes> {
    empty(StatusCode::ACCEPTED)
}

pub(super) fn plain(code: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = code;
    response
}

fn body(code: StatusCode, value: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(value.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

pub(super) fn health() -> Response<Bytes> {
    body(
        StatusCode::OK,
        &json!({"apiserver": {"connectivity": "ok", "version": {}}, "config-resource-version": "1"}),
    )
}

pub(super) fn discovery(version: &str) -> Response<Bytes> {
    let entries = [
        ("virtualmachines/start", "VirtualMachine"),
        ("virtualmachines/stop", "VirtualMachine"),
        ("virtualmachines/migrate", "VirtualMachine"),
        ("virtualmachines/evacuate/cancel", "VirtualMachine"),
        ("virtualmachineinstances/evacuate/cancel", "VirtualMachineInstance"),
    ];
    let resources: Vec<Value> = entries
        .into_iter()
        .map(|(name, kind)| {
            json!({"name": name, "singularName": "", "namespaced": true, "kind": kind,
            "verbs": ["update"]})
        })
        .collect();
    let group = format!("subresources.kubevirt.io/{version}");
    body(
        StatusCode::OK,
        &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group,
            "resources": resources}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_carry_a_whole_status() {
        let response = Refusal::conflict("a", "VM is not running").into_response();
        assert_eq!(response.status(), 409);
        let status: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(status["reason"], "Conflict");
        assert_eq!(
            status["message"],
            "Operation cannot be fulfilled on virtualmachine.kubevirt.io \"a\": VM is not running"
        );
    }

    #[test]
    fn options_may_be_missing_but_not_broken() {
        assert_eq!(options(&Bytes::new()), Ok(Map::new()));
        assert_eq!(options(&Bytes::from_static(b"{\"gracePeriod\":5}")).unwrap()["gracePeriod"], 5);
        assert_eq!(options(&Bytes::from_static(b"{")).unwrap_err().code, 400);
    }
}

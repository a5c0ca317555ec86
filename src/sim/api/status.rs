//! Refusals in the words of the real API server: code, reason, message and details, since clients act on each of them.

use std::fmt;
use std::ops::Deref;

use kube::core::Status as Wire;
use kube::core::response::{StatusCause, StatusDetails, StatusSummary};

use super::kinds::Kind;

/// Why a request was refused, as the real server would answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Status(Box<Wire>);

impl Deref for Status {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for Status {}

impl From<Status> for kube::Error {
    fn from(status: Status) -> Self {
        Self::Api(status.0)
    }
}

impl Status {
    /// A refusal with this code, reason and message.
    #[must_use]
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Wire {
            status: Some(StatusSummary::Failure),
            code,
            message: message.into(),
            metadata: None,
            reason: reason.to_owned(),
            details: None,
        }))
    }

    /// The answer itself.
    #[must_use]
    pub fn into_inner(self) -> Box<Wire> {
        self.0
    }

    /// The JSON that goes over the wire.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let mut body = serde_json::to_value(&*self.0).unwrap_or_default();
        if let Some(fields) = body.as_object_mut() {
            fields.insert("apiVersion".to_owned(), "v1".into());
            fields.insert("kind".to_owned(), "Status".into());
            fields.entry("metadata").or_insert_with(|| serde_json::json!({}));
        }
        body
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.0.details = Some(details(name, &kind.group, &kind.plural));
        self
    }

    pub(super) fn caused_by(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let details = self.0.details.get_or_insert_with(|| details("", "", ""));
        details.causes.push(StatusCause {
            reason: reason.to_owned(),
            message: message.into(),
            field: field.to_owned(),
        });
        self
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.0.details.get_or_insert_with(|| details("", "", "")).retry_after_seconds = seconds;
        self
    }

    /// With empty details instead of none.
    pub(super) fn without_details(mut self) -> Self {
        self.0.details = Some(details("", "", ""));
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn no_such_path() -> Self {
        let status = Self::new(404, "NotFound", "the server could not find the requested resource");
        Self(Box::new(Wire { details: Some(details("", "", "")), ..*status.0 }))
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {} not found", kind.resource(), quoted(name)))
            .about(kind, name)
    }

    pub(super) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} {} already exists", kind.resource(), quoted(name));
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", kind.resource(), quoted(name));
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// The conflict of a write that was decided on an older version.
    pub(super) fn stale(kind: &Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(super) fn invalid(kind: &Kind, name: &str, cause: &Cause) -> Self {
        let Cause { reason, field, detail } = cause;
        let mut status = Self::new(
            422,
            "Invalid",
            format!("{} {} is invalid: {field}: {detail}", kind.qualified_kind(), quoted(name)),
        );
        status.0.details = Some(details(name, &kind.group, &kind.kind));
        status.caused_by(reason, detail.clone(), field)
    }

    pub(super) fn forbidden(kind: &Kind, name: &str, message: String) -> Self {
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self(Box::new(Wire {
            details: Some(details("", "", "")),
            ..*Self::new(405, "MethodNotAllowed", message).0
        }))
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
}

/// One field's fault in an invalid object.
pub(super) struct Cause {
    pub(super) reason: &'static str,
    pub(super) field: String,
    pub(super) detail: String,
}

fn details(name: &str, group: &str, kind: &str) -> StatusDetails {
    StatusDetails {
        name: name.to_owned(),
        group: group.to_owned(),
        kind: kind.to_owned(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}

/// As Go writes `%q`.
fn quoted(name: &str) -> String {
    format!("{name:?}")
}

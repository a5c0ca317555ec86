//! From a request to the verb that answers it.

use http::Method;
use serde_json::{Value, json};

use super::apply::Apply;
use super::delete::{DeleteOptions, Deleted};
use super::evict::success;
use super::json::{map, meta, metadata, text};
use super::kinds::Kind;
use super::read::Page;
use super::request::{Address, Query};
use super::revise::Part;
use super::status::Status;
use super::store::{Place, Store, key_of};
use super::subscription::Subscription;
use super::update::{By, Update};
use super::watch::WatchEnd;
use super::{Object, PatchKind, discovery, patch};

/// A request without its wire.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) query: Query<'a>,
    /// What a PATCH body is.
    pub(super) patch: Option<PatchKind>,
    pub(super) body: &'a Value,
}

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Answer {
    Object(u16, Object),
    List(Page, String, String),
    Watch(Subscription, WatchEnd),
}

impl Store {
    /// Answers one request, and does what it makes due.
    pub(super) fn answer(&mut self, request: &Request<'_>) -> Result<Answer, Status> {
        let answer = self.dispatch(request);
        self.collect_garbage();
        answer
    }

    fn dispatch(&mut self, request: &Request<'_>) -> Result<Answer, Status> {
        let Some(address) = Address::parse(request.path) else {
            let found = discovery::document(self, request.path);
            return found.map(|document| Answer::Object(200, Object::of(document)));
        };
        if address.plural.starts_with("selfsubject") && address.group == "authorization.k8s.io" {
            return review(request);
        }
        let place = self.place(address.group, address.plural).ok_or_else(Status::no_such_path)?;
        let kind = self.kind(place)?;
        if kind.version != address.version || (!kind.namespaced && !address.namespace.is_empty()) {
            return Err(Status::no_such_path());
        }
        self.ask_webhooks(request.method, &address, request.body)?;
        if address.name.is_empty() {
            return self.dispatch_all(request, &address, place, &kind);
        }
        if kind.namespaced && address.namespace.is_empty() {
            return Err(Status::no_such_path());
        }
        let key = key_of(address.namespace, address.name);
        match (address.subresource, request.method) {
            ("", &Method::GET) if request.query.is_set("watch") => {
                self.watch(request, place, address.namespace, Some(address.name))
            }
            ("", &Method::GET) => self.read(place, &key, &kind, address.name),
            ("status", &Method::GET) if kind.status => self.read(place, &key, &kind, address.name),
            ("", &Method::PUT) => self.replace(request, &address, place, &key, false),
            ("status", &Method::PUT) if kind.status => self.replace(request, &address, place, &key, true),
            ("", &Method::PATCH) => self.patch(request, place, &key, false),
            ("status", &Method::PATCH) if kind.status => self.patch(request, place, &key, true),
            ("", &Method::DELETE) => self.remove_one(request, place, &key, &kind),
            ("eviction", &Method::POST) if kind.is_core("pods") => {
                let done = self.evict(place, &key, request.body, request.query.dry_run()?)?;
                Ok(Answer::Object(201, done))
            }
            ("binding", &Method::POST) if kind.is_core("pods") => {
                let done = self.bind(place, &key, request.body, request.query.dry_run()?)?;
                Ok(Answer::Object(201, done))
            }
            ("finalize", &Method::PUT) if kind.is_core("namespaces") => {
                let finalizers =
                    request.body.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
                let object = self.get(place, &key).cloned();
                let mut value = object.ok_or_else(|| Status::not_found(&kind, address.name))?.into_value();
                map(map(&mut value).entry("spec").or_insert(Value::Null))
                    .insert("finalizers".to_owned(), finalizers);
                Ok(Answer::Object(200, self.settle(place, &key, value)))
            }
            ("", _) => Err(Status::method_not_allowed()),
            ("status", _) if kind.status => Err(Status::method_not_allowed()),
            // The server of custom resources takes an unknown subresource for a missing object.
            _ if kind.custom => Err(Status::not_found(&kind, address.name)),
            _ => Err(Status::no_such_path()),
        }
    }

    fn dispatch_all(
        &mut self,
        request: &Request<'_>,
        address: &Address<'_>,
        place: Place,
        kind: &Kind,
    ) -> Result<Answer, Status> {
        let query = &request.query;
        match *request.method {
            Method::GET if query.is_set("watch") => self.watch(request, place, address.namespace, None),
            Method::GET => {
                let page = self.page(place, address.namespace, query)?;
                Ok(Answer::List(page, kind.api_version().to_owned(), kind.kind.to_string()))
            }
            _ if kind.namespaced && address.namespace.is_empty() => Err(Status::method_not_allowed()),
            Method::POST => {
                check_type(kind, request.body)?;
                let object = self.create(place, address.namespace, request.body.clone(), query.dry_run()?)?;
                Ok(Answer::Object(201, object))
            }
            Method::DELETE => {
                let mut page = self.page(place, address.namespace, query)?;
                let options = delete_options(request)?;
                for (key, object) in &mut page.items {
                    // Somebody it belonged to may have taken it along already.
                    if self.get(place, key).is_some() {
                        *object = match self.delete(place, key, &options)? {
                            Deleted::Gone(object) | Deleted::Pending(object) => object,
                        };
                    }
                }
                Ok(Answer::List(page, kind.api_version().to_owned(), kind.kind.to_string()))
            }
            _ => Err(Status::method_not_allowed()),
        }
    }

    fn read(&mut self, place: Place, key: &str, kind: &Kind, name: &str) -> Result<Answer, Status> {
        let object = self.get(place, key).cloned().ok_or_else(|| Status::not_found(kind, name))?;
        Ok(Answer::Object(200, object))
    }

    fn replace(
        &mut self,
        request: &Request<'_>,
        address: &Address<'_>,
        place: Place,
        key: &str,
        status: bool,
    ) -> Result<Answer, Status> {
        let kind = self.kind(place)?;
        check_type(&kind, request.body)?;
        let said = meta(request.body, "name");
        if said != address.name {
            let message = if said.is_empty() {
                "name must be provided".to_owned()
            } else {
                format!(
                    "the name of the object ({said}) does not match the name on the URL ({})",
                    address.name
                )
            };
            return Err(Status::bad_request(message));
        }
        let namespace = meta(request.body, "namespace");
        if !namespace.is_empty() && namespace != address.namespace {
            let message =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(message));
        }
        let mut new = request.body.clone();
        complete_type(&kind, &mut new);
        let how = Update { status, by: By::Put, dry_run: request.query.dry_run()? };
        Ok(Answer::Object(200, self.update(place, key, new, how)?))
    }

    fn patch(
        &mut self,
        request: &Request<'_>,
        place: Place,
        key: &str,
        status: bool,
    ) -> Result<Answer, Status> {
        let kind = self.kind(place)?;
        let name = super::store::parts(key).1;
        let dry_run = request.query.dry_run()?;
        let patch = request.patch.ok_or_else(patch::unsupported_type)?;
        if patch == PatchKind::Apply {
            let manager = Some(request.query.get("fieldManager")).filter(|manager| !manager.is_empty());
            let how = Apply {
                manager: manager.unwrap_or_default().to_owned(),
                force: request.query.is_set("force"),
                status,
                dry_run,
            };
            check_type(&kind, request.body)?;
            let (object, created) = self.apply(place, key, request.body, &how)?;
            return Ok(Answer::Object(if created { 201 } else { 200 }, object));
        }
        if patch == PatchKind::Merge
            && !dry_run
            && let Some(revised) = self.revise(place, key, &kind, request.body, Part::of(status))
        {
            return Ok(Answer::Object(200, revised?));
        }
        let old = self.get(place, key).ok_or_else(|| Status::not_found(&kind, name))?;
        let mut new = patch::patched(&kind, old, patch, request.body)?;
        // A patch that says nothing of the version is decided on whatever is there.
        let untouched = meta(&new, "resourceVersion") == meta(old, "resourceVersion");
        if untouched {
            metadata(&mut new).remove("resourceVersion");
        }
        patch::check_identity(&kind, old, &new)?;
        let how = Update { status, by: By::Patch, dry_run };
        Ok(Answer::Object(200, self.update(place, key, new, how)?))
    }

    fn remove_one(
        &mut self,
        request: &Request<'_>,
        place: Place,
        key: &str,
        kind: &Kind,
    ) -> Result<Answer, Status> {
        let options = delete_options(request)?;
        let gone = match self.delete(place, key, &options)? {
            Deleted::Pending(object) => return Ok(Answer::Object(200, object)),
            Deleted::Gone(object) => object,
        };
        if kind.returns_deleted() {
            return Ok(Answer::Object(200, gone));
        }
        let mut status = success(200);
        let fields = map(&mut status);
        fields.remove("code");
        let mut details =
            json!({"name": meta(&gone, "name"), "kind": kind.plural, "uid": meta(&gone, "uid")});
        if !kind.group.is_empty() {
            map(&mut details).insert("group".to_owned(), (*kind.group).into());
        }
        fields.insert("details".to_owned(), details);
        Ok(Answer::Object(200, Object::of(status)))
    }
}

/// Options come from the body, or without one from the query.
fn delete_options(request: &Request<'_>) -> Result<DeleteOptions, Status> {
    let mut options = DeleteOptions::read(request.body);
    if request.body.is_null() {
        let query = &request.query;
        options.dry_run = query.dry_run()?;
        let policy = query.get("propagationPolicy");
        options.propagation = Some(policy.to_owned()).filter(|policy| !policy.is_empty());
        options.grace = query.number("gracePeriodSeconds")?.and_then(|seconds| seconds.try_into().ok());
    }
    Ok(options)
}

/// Refuses a body of another kind than the path's.
fn check_type(kind: &Kind, body: &Value) -> Result<(), Status> {
    let (api_version, said) = (text(body, "/apiVersion"), text(body, "/kind"));
    if !body.is_object() {
        return Err(Status::bad_request("the body of the request is not an object"));
    }
    if !api_version.is_empty() && api_version != kind.api_version() {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    if !said.is_empty() && said != kind.kind {
        return Err(Status::bad_request(format!(
            "{said} in version \"{0}\" cannot be handled as a {1}: no kind \"{said}\" is registered for version \"{0}\" in scheme",
            kind.version, kind.kind
        )));
    }
    Ok(())
}

fn complete_type(kind: &Kind, new: &mut Value) {
    map(new).insert("apiVersion".to_owned(), kind.api_version().into());
    map(new).insert("kind".to_owned(), (*kind.kind).into());
}

/// Everybody may do everything here.
fn review(request: &Request<'_>) -> Result<Answer, Status> {
    if *request.method != Method::POST {
        return Err(Status::method_not_allowed());
    }
    let mut answer = request.body.clone();
    map(&mut answer).insert("status".to_owned(), json!({"allowed": true}));
    Ok(Answer::Object(201, Object::of(answer)))
}

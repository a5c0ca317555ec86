//! Answers the subresource API of `KubeVirt` (`subresources.kubevirt.io`): discovery, health, start, stop, migrate and
//! evacuate/cancel, with the codes and texts of the real virt-api. It writes requests into objects and never creates
//! or deletes a VMI; that is `virt_controller`'s part.

mod answers;

use crate::sim::fields::At as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::fields::{self, grace_seconds, is_final, list, phase, run_strategy, text, uid};
use super::object::Object;
use super::view::Kind;
use super::wire::Wire;
use super::{Timing, virt_controller};
use answers::{Refusal, accepted, discovery, health};

/// `KubeVirt`'s API server for subresources.
#[derive(Clone)]
pub struct VirtApi {
    /// Where VMs, VMIs and migrations are read and written.
    pub wire: Wire,
    /// The simulated world's clock and delays.
    pub timing: Timing,
}

/// What the API server answers for virt-api while that is away (`kubevirt.md` §2.3).
#[must_use]
pub fn unreachable() -> Response<Bytes> {
    answers::plain(
        StatusCode::SERVICE_UNAVAILABLE,
        "error trying to reach service: dial tcp: connect: connection refused",
    )
}

/// What a call is about.
struct Call<'a> {
    namespace: &'a str,
    name: &'a str,
    options: Map<String, Value>,
}

impl Call<'_> {
    /// The query that makes a write a rehearsal, where the caller asked for one.
    fn dry_run(&self) -> &'static str {
        if self.options.get("dryRun") == Some(&json!(["All"])) { "?dryRun=All" } else { "" }
    }
}

impl VirtApi {
    /// Answers one request; every failure becomes a `Status` body with its code, so this never fails itself.
    pub async fn respond(&self, request: Request<Bytes>) -> Response<Bytes> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_end_matches('/').to_owned();
        let steps: Vec<&str> = path.split('/').skip(1).collect();
        let answer = match steps.as_slice() {
            ["healthz" | "livez" | "readyz"] => Ok(answers::plain(StatusCode::OK, "ok")),
            ["apis", "subresources.kubevirt.io", version @ ("v1" | "v1alpha3"), rest @ ..] => match rest {
                [] => Ok(discovery(version)),
                ["healthz"] => Ok(health()),
                ["namespaces", namespace, plural, name, action @ ..] if parts.method == Method::PUT => {
                    match answers::options(&body) {
                        Ok(options) => self.act(plural, action, &Call { namespace, name, options }).await,
                        Err(refusal) => Err(refusal),
                    }
                }
                ["namespaces", _, _, _, _, ..] => Err(Refusal::method(&parts.method)),
                _ => Err(Refusal::path(&path)),
            },
            _ => Err(Refusal::path(&path)),
        };
        answer.unwrap_or_else(Refusal::into_response)
    }

    async fn act(&self, plural: &str, action: &[&str], call: &Call<'_>) -> Result<Response<Bytes>, Refusal> {
        match (plural, action) {
            ("virtualmachines", ["start"]) => self.start(call).await,
            ("virtualmachines", ["stop"]) => self.stop(call).await,
            ("virtualmachines", ["migrate"]) => self.migrate(call).await,
            ("virtualmachines" | "virtualmachineinstances", ["evacuate", "cancel"]) => {
                self.cancel(call).await
            }
            _ => Err(Refusal::path(&format!("{plural}/{}/{}", call.name, action.join("/")))),
        }
    }

    async fn get(&self, kind: Kind, call: &Call<'_>) -> Result<Option<Object>, Refusal> {
        match self.wire.send(Method::GET, &kind.path(call.namespace, call.name), &Value::Null).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(Refusal::wire(&error)),
        }
    }

    async fn vm(&self, call: &Call<'_>) -> Result<Object, Refusal> {
        self.get(Kind::Vm, call).await?.ok_or_else(|| Refusal::not_found(Kind::Vm, call.name))
    }

    async fn patch(&self, kind: Kind, call: &Call<'_>, of: &str, patch: &Value) -> Result<(), Refusal> {
        let uri = format!("{}{of}{}", kind.path(call.namespace, call.name), call.dry_run());
        self.wire.send(Method::PATCH, &uri, patch).await.map(drop).map_err(|error| Refusal::race(&error))
    }

    /// Rewrites the run strategy, if it still is what it was when we looked.
    async fn run_as(&self, vm: &Value, call: &Call<'_>, strategy: &str) -> Result<(), Refusal> {
        let (path, old, new) = match vm.at("/spec/running") {
            Some(running) => ("/spec/running", running.clone(), json!(strategy != "Halted")),
            None => ("/spec/runStrategy", json!(run_strategy(vm)), json!(strategy)),
        };
        self.patch(Kind::Vm, call, "", &test_and_replace(path, &old, &new)).await
    }

    async fn request(&self, vm: &Value, call: &Call<'_>, requests: &Value) -> Result<(), Refusal> {
        self.patch(Kind::Vm, call, "/status", &request_patch(vm, requests)).await
    }

    async fn stop(&self, call: &Call<'_>) -> Result<Response<Bytes>, Refusal> {
        let vm = self.vm(call).await?;
        let vmi = self.get(Kind::Vmi, call).await?;
        let asked = call.options.get("gracePeriod").and_then(Value::as_u64);
        if let (Some(vmi), Some(asked)) = (&vmi, asked) {
            // Before any check, as the real one: a call that is refused below has still changed the VMI.
            let field = "/spec/terminationGracePeriodSeconds";
            let patch = match vmi.at(field) {
                Some(old) => test_and_replace(field, old, &json!(asked)),
                None => json!([{"op": "add", "path": field, "value": asked}]),
            };
            self.patch(Kind::Vmi, call, "", &patch).await?;
        }
        let running = vmi.as_ref().filter(|vmi| !is_final(vmi));
        let strategy = run_strategy(&vm);
        match (strategy, running) {
            ("Always" | "Once", _) => self.run_as(&vm, call, "Halted").await?,
            (_, None) => return Err(Refusal::conflict(call.name, "VM is not running")),
            ("Halted", Some(vmi)) if asked.is_none_or(|asked| asked >= grace_seconds(vmi)) => {
                let why = "Halted only supports manual stop requests with a shorter graceperiod";
                return Err(Refusal::conflict(call.name, why));
            }
            ("Halted" | "RerunOnFailure" | "Manual", Some(vmi)) => {
                self.request(&vm, call, &json!([{"action": "Stop", "uid": uid(vmi)}])).await?;
            }
            (_, Some(_)) => {
                return Err(Refusal::conflict(
                    call.name,
                    &format!("{strategy} does not support manual stop requests"),
                ));
            }
        }
        Ok(accepted())
    }

    async fn start(&self, call: &Call<'_>) -> Result<Response<Bytes>, Refusal> {
        let vm = self.vm(call).await?;
        let vmi = self.get(Kind::Vmi, call).await?;
        let at = vmi.as_deref().map(phase).unwrap_or_default();
        if matches!(at, "Pending" | "Scheduling" | "Scheduled" | "Running") {
            return Err(Refusal::conflict(call.name, "VM is already running"));
        }
        if fields::condition_is(&vm, "ManualRecoveryRequired", "True") {
            let why = "VM recovery required: a volume migration failed, please reset the volumes of the VM";
            return Err(Refusal::conflict(call.name, why));
        }
        let mut start = json!({"action": "Start"});
        let paused = call.options.get("paused") == Some(&Value::Bool(true));
        if let Some(fields) = start.as_object_mut().filter(|_| paused) {
            fields.insert("data".to_owned(), json!({"paused": "true"}));
        }
        let strategy = run_strategy(&vm);
        let ended = vmi.as_ref().filter(|vmi| is_final(vmi));
        match strategy {
            "Halted" => {
                if paused {
                    self.request(&vm, call, &json!([start])).await?;
                }
                self.run_as(&vm, call, "Always").await?;
            }
            "RerunOnFailure" if at == "Failed" => {
                let why = "RerunOnFailure does not support starting VM from failed state";
                return Err(Refusal::conflict(call.name, why));
            }
            "RerunOnFailure" | "Manual" => {
                if !list(&vm, "/status/stateChangeRequests").is_empty() {
                    return Err(Refusal::internal("unable to complete request: stop/start already underway"));
                }
                let requests = ended.map_or_else(
                    || json!([start]),
                    |vmi| json!([{"action": "Stop", "uid": uid(vmi)}, start]),
                );
                self.request(&vm, call, &requests).await?;
            }
            other => {
                return Err(Refusal::conflict(
                    call.name,
                    &format!("{other} does not support manual start requests"),
                ));
            }
        }
        Ok(accepted())
    }

    async fn migrate(&self, call: &Call<'_>) -> Result<Response<Bytes>, Refusal> {
        self.vm(call).await?;
        let vmi = self.get(Kind::Vmi, call).await?;
        let vmi = vmi.ok_or_else(|| Refusal::not_found(Kind::Vmi, call.name))?;
        if phase(&vmi) != "Running" {
            return Err(Refusal::conflict(call.name, "VM is not running"));
        }
        let of = format!("?labelSelector=kubevirt.io%2Fvmi-name%3D{}", call.name);
        let path = Kind::Vmim.path(call.namespace, "");
        let others = self.wire.send(Method::GET, &format!("{path}{of}"), &Value::Null).await;
        let others = others.map_err(|error| Refusal::wire(&error))?;
        if let Some(why) = virt_controller::refusal(Some(&vmi), call.name, list(&others, "/items").iter()) {
            let denied = format!(
                "admission webhook \"migration-create-validator.kubevirt.io\" denied the request: {why}"
            );
            return Err(Refusal::internal(&denied));
        }
        let mut spec = json!({"vmiName": call.name});
        if let (Some(fields), Some(added)) = (spec.as_object_mut(), call.options.get("addedNodeSelector")) {
            fields.insert("addedNodeSelector".to_owned(), added.clone());
        }
        let vmim = json!({
            "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstanceMigration",
            "metadata": {"generateName": "kubevirt-migrate-vm-", "namespace": call.namespace,
                         "labels": {"kubevirt.io/vmi-name": call.name}, "finalizers": [fields::VMIM_FINALIZER]},
            "spec": spec,
        });
        let path = format!("{path}{}", call.dry_run());
        self.wire.send(Method::POST, &path, &vmim).await.map_err(|error| Refusal::wire(&error))?;
        Ok(accepted())
    }

    async fn cancel(&self, call: &Call<'_>) -> Result<Response<Bytes>, Refusal> {
        let vmi = self.get(Kind::Vmi, call).await?;
        let vmi = vmi.ok_or_else(|| Refusal::not_found(Kind::Vmi, call.name))?;
        let evacuated = text(&vmi, "/status/evacuationNodeName");
        let asked = call.options.get("evacuationNodeName").and_then(Value::as_str).unwrap_or(evacuated);
        if !evacuated.is_empty() && evacuated == asked {
            let node = self.wire.send(Method::GET, &Kind::Node.path("", evacuated), &Value::Null).await;
            let node = node.map_err(|error| Refusal::wire(&error))?;
            if list(&node, "/spec/taints").iter().any(|taint| text(taint, "/key") == "kubevirt.io/drain") {
                return Err(Refusal::bad(&format!(
                    "node {evacuated} still has the drain taint, remove it first"
                )));
            }
            let field = "/status/evacuationNodeName";
            let patch =
                json!([{"op": "test", "path": field, "value": evacuated}, {"op": "remove", "path": field}]);
            self.patch(Kind::Vmi, call, "", &patch).await?;
        }
        Ok(answers::empty(StatusCode::OK))
    }
}

fn test_and_replace(path: &str, old: &Value, new: &Value) -> Value {
    json!([{"op": "test", "path": path, "value": old}, {"op": "replace", "path": path, "value": new}])
}

/// The patch that queues requests: what was queued before is tested, failed starts are forgotten.
fn request_patch(vm: &Value, requests: &Value) -> Value {
    if vm.at("/status").is_none() {
        return json!([{"op": "add", "path": "/status", "value": {"stateChangeRequests": requests}}]);
    }
    let field = "/status/stateChangeRequests";
    let mut patch = match vm.at(field) {
        Some(queued) => test_and_replace(field, queued, requests),
        None => json!([{"op": "add", "path": field, "value": requests}]),
    };
    if let Some(steps) = patch.as_array_mut().filter(|_| vm.at("/status/startFailure").is_some()) {
        steps.push(json!({"op": "remove", "path": "/status/startFailure"}));
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_queued_only_over_what_was_seen() {
        let requests = json!([{"action": "Start"}]);
        let fresh = request_patch(&json!({}), &requests);
        assert_eq!(fresh[0]["path"], "/status");
        let failed = json!({"status": {"startFailure": {"consecutiveFailCount": 1}}});
        let patch = request_patch(&failed, &requests);
        assert_eq!((&patch[0]["op"], &patch[1]["op"]), (&json!("add"), &json!("remove")));
        let queued = json!({"status": {"stateChangeRequests": [{"action": "Stop"}]}});
        let patch = request_patch(&queued, &requests);
        assert_eq!((&patch[0]["op"], &patch[1]["op"]), (&json!("test"), &json!("replace")));
    }
}

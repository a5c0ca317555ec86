//! `pods/eviction` and `pods/binding`: the two ways to move a pod that are not writes of the pod.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Object;
use super::delete::DeleteOptions;
use super::facts::Facts;
use super::json::{is_deleting, map, meta, metadata, text};
use super::selector::selects;
use super::status::Status;
use super::store::{Key, Place, Store, parts};

const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

impl Store {
    /// Evicts a pod if its budget allows.
    pub(super) fn evict(
        &mut self,
        place: Place,
        key: &str,
        eviction: &Value,
        dry_run: bool,
    ) -> Result<Object, Status> {
        let kind = self.kind(place)?;
        let (namespace, name) = parts(key);
        let said = meta(eviction, "name");
        if !said.is_empty() && said != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = DeleteOptions::read(eviction.get("deleteOptions").unwrap_or(&Value::Null));
        options.dry_run |= dry_run;
        let pod = self.get(place, key).cloned().ok_or_else(|| Status::not_found(&kind, name))?;
        let phase = text(&pod, "/status/phase");
        let beyond_budgets = matches!(phase, "Succeeded" | "Failed" | "Pending") || is_deleting(&pod);
        self.ask_about_eviction(&pod, options.dry_run)?;
        if !beyond_budgets {
            self.ask_budget(namespace, name, &pod, options.dry_run)?;
        }
        if !options.dry_run && !is_deleting(&pod) {
            let mut value = pod.value().clone();
            note_disruption(&mut value, &self.stamp());
            let uid = options.uid.as_deref().is_none_or(|uid| uid == meta(&pod, "uid"));
            if uid && !matches!(phase, "Succeeded" | "Failed") {
                self.put(place, key, value);
            }
            options.resource_version = None;
        }
        self.delete(place, key, &options)?;
        Ok(Object::of(success(201)))
    }

    fn ask_budget(&mut self, namespace: &str, name: &str, pod: &Value, dry_run: bool) -> Result<(), Status> {
        let Some(budgets) = self.place("policy", "poddisruptionbudgets") else {
            return Ok(());
        };
        let matching = self.budgets_of(budgets, namespace, pod);
        let (key, budget) = match matching.as_slice() {
            [] => return Ok(()),
            [(key, budget)] => (key, budget),
            _ => {
                let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "", message));
            }
        };
        let number = |field: &str| budget.pointer(field).and_then(Value::as_i64).unwrap_or(0);
        let (healthy, desired) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
        if !is_ready(pod) {
            let always = text(budget, "/spec/unhealthyPodEvictionPolicy") == "AlwaysAllow";
            if always || (healthy >= desired && desired > 0) {
                return Ok(());
            }
        }
        let budget_name = parts(key).1;
        let refused = Status::new(429, "TooManyRequests", REFUSED);
        if number("/status/observedGeneration") < number("/metadata/generation") {
            let why = format!("The disruption budget {budget_name} is still being processed by the server.");
            return Err(refused.caused_by("DisruptionBudget", why, "").retry_after(10));
        }
        let allowed = number("/status/disruptionsAllowed");
        if allowed <= 0 {
            let why = format!(
                "The disruption budget {budget_name} needs {desired} healthy pods and has {healthy} currently"
            );
            return Err(refused.caused_by("DisruptionBudget", why, ""));
        }
        if !dry_run {
            let now = self.stamp();
            let mut value = budget.value().clone();
            let status = map(map(&mut value).entry("status").or_insert(Value::Null));
            status.insert("disruptionsAllowed".to_owned(), json!(allowed - 1));
            let disrupted = map(status.entry("disruptedPods").or_insert(Value::Null));
            disrupted.insert(name.to_owned(), now.into());
            self.put(budgets, key, value);
        }
        Ok(())
    }

    fn budgets_of(&self, budgets: Place, namespace: &str, pod: &Value) -> Vec<(Key, Object)> {
        let Some(collection) = self.collection(budgets) else {
            return Vec::new();
        };
        let found: BTreeSet<&Key> =
            Facts::asking_for(pod).flat_map(|number| collection.with_fact(number)).collect();
        let here = found.into_iter().filter(|key| parts(key).0 == namespace);
        let objects = here.filter_map(|key| Some((key, collection.objects.get(key)?.object.apart())));
        let matching = objects.filter(|(_, budget)| {
            budget.pointer("/spec/selector").is_some_and(|selector| selects(selector, pod))
        });
        matching.map(|(key, budget)| (key.clone(), budget)).collect()
    }

    /// Puts a pod on a node.
    pub(super) fn bind(
        &mut self,
        place: Place,
        key: &str,
        binding: &Value,
        dry_run: bool,
    ) -> Result<Object, Status> {
        let kind = self.kind(place)?;
        let name = parts(key).1;
        let pod = self.get(place, key).cloned().ok_or_else(|| Status::not_found(&kind, name))?;
        let (uid, node) = (meta(binding, "uid"), text(binding, "/target/name"));
        if !uid.is_empty() && uid != meta(&pod, "uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta(&pod, "uid")
            );
            return Err(Status::conflict(&kind, name, &why));
        }
        let refusal = if is_deleting(&pod) {
            Some(format!("pod {name} is being deleted, cannot be assigned to a host"))
        } else if !text(&pod, "/spec/nodeName").is_empty() {
            Some(format!("pod {name} is already assigned to node \"{}\"", text(&pod, "/spec/nodeName")))
        } else {
            None
        };
        if let Some(why) = refusal {
            let mut about = (*kind).clone();
            about.plural = "pods/binding".into();
            return Err(Status::conflict(&about, name, &why));
        }
        if !dry_run {
            let mut value = pod.value().clone();
            map(map(&mut value).entry("spec").or_insert(Value::Null))
                .insert("nodeName".to_owned(), node.into());
            let generation = pod.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata(&mut value).insert("generation".to_owned(), json!(generation + 1));
            let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
                "lastTransitionTime": self.stamp()});
            set_condition(&mut value, condition);
            self.put(place, key, value);
        }
        Ok(Object::of(success(201)))
    }
}

/// A `Status` that says that it was done.
pub(super) fn success(code: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Success", "code": code})
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| text(condition, "/type") == "Ready" && text(condition, "/status") == "True")
}

fn note_disruption(pod: &mut Value, now: &str) {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now,
    });
    set_condition(pod, condition);
}

fn set_condition(pod: &mut Value, condition: Value) {
    let status = map(map(pod).entry("status").or_insert(Value::Null));
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.retain(|one| one.get("type") != condition.get("type"));
        conditions.push(condition);
    }
}

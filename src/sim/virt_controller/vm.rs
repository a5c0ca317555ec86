//! The VM controller: run strategies, start and stop requests, start failures. It creates and deletes VMIs and owns
//! the status of the VM; what happens inside a VMI is not its business.

use crate::sim::fields::At as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::printable;
use super::vmi::new_vmi;
use crate::sim::fields::{
    self, VM_FINALIZER, did_run, has_finalizer, is_controlled_by, is_deleting, is_final, list, phase,
    run_strategy, text, uid,
};
use crate::sim::script::{self, REFUSED};
use crate::sim::turns::{Decision, Now};
use crate::sim::view::{Entry, Key, Kind, View};
use crate::sim::wire::Write;

const COMPONENT: &str = "virtualmachine-controller";

/// What is to happen to the VMI, and what is left of the requests.
struct Choice {
    vmi: Wanted,
    requests: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    AsIs,
    Created,
    Deleted,
}

pub(super) fn decide(view: &View, key: &Key, now: &Now<'_>) -> Decision {
    let Some(entry) = view.entry(Kind::Vm, key) else {
        return Decision::nothing();
    };
    let vm = &*entry.object;
    let vmi = view.get(Kind::Vmi, key).filter(|vmi| is_controlled_by(vmi, vm));
    if is_deleting(vm) && vmi.is_none() {
        return release(vm);
    }
    if !is_deleting(vm) && !has_finalizer(vm, VM_FINALIZER) {
        let finalizers = fields::finalizers_with(vm, VM_FINALIZER);
        return Decision::write([Write::patch(
            Kind::Vm,
            vm,
            json!({"metadata": {"finalizers": finalizers}}),
        )]);
    }
    let choice = choose(vm, vmi);
    if choice.vmi == Wanted::Created
        && let Some(wait) = back_off_left(vm, now)
    {
        return status_write(vm, vmi, &choice.requests, now).or(|| Decision::at(now.instant + wait));
    }
    if choice.vmi == Wanted::Created && script::start_refused(view, entry) {
        return refuse(view, entry, &choice.requests, now);
    }
    let mut decision = status_write(vm, vmi, &choice.requests, now);
    match (choice.vmi, vmi) {
        (Wanted::Created, _) => {
            // The status waits until the VMI exists: `status.runStrategy` is what says that this start is still due.
            let made = new_vmi(vm, now);
            let message = format!(
                "Started the virtual machine by creating the new virtual machine instance {}",
                key.name()
            );
            let event = now.event(Kind::Vm, vm, false, COMPONENT, ("SuccessfulCreate", &message));
            return Decision::write([Write::Create { kind: Kind::Vmi, object: made }, event]);
        }
        (Wanted::Deleted, Some(vmi)) => {
            let message =
                format!("Stopped the virtual machine by deleting the virtual machine instance {}", uid(vmi));
            decision.writes.push(Write::delete(Kind::Vmi, vmi, None));
            decision.writes.push(now.event(Kind::Vm, vm, false, COMPONENT, ("SuccessfulDelete", &message)));
            return decision;
        }
        (Wanted::AsIs | Wanted::Deleted, _) => {}
    }
    decision.or(|| match vmi {
        Some(vmi) if is_final(vmi) && has_finalizer(vmi, VM_FINALIZER) => {
            let finalizers = fields::finalizers_without(vmi, VM_FINALIZER);
            Decision::write([Write::patch(Kind::Vmi, vmi, json!({"metadata": {"finalizers": finalizers}}))])
        }
        Some(_) | None => Decision::nothing(),
    })
}

/// What becomes of a start whose VMI a webhook does not let in: it is told, stays due, and is tried again after a while.
fn refuse(view: &View, entry: &Entry, requests: &[Value], now: &Now<'_>) -> Decision {
    let vm = &*entry.object;
    let times = view.count(&entry.uid, REFUSED);
    // client-go's default: 5 ms, twice as long each time.
    let pause = Duration::from_millis(5 * 2_u64.pow(times.clamp(1, 18) - 1)).div_f64(now.timing.scale);
    let tried = view.done(&entry.uid, REFUSED).map_or(now.instant, |last| last + pause);
    now.once(tried, || {
        let why = format!("Failure while starting VMI: {}", script::refusal(vm));
        let mut wanted = status_patch(vm, None, requests, now);
        // What is still due must still be seen to be due.
        wanted.remove("runStrategy");
        let mut conditions = conditions(vm, None, &now.stamp());
        let failure =
            fields::conditions_with(vm, "Failure", "True", "FailedCreate", &why, &now.stamp()).pop();
        conditions.extend(failure);
        wanted.insert("conditions".to_owned(), Value::Array(conditions));
        let status = Write::patch_status(Kind::Vm, vm, Value::Object(wanted));
        let event = now.event(Kind::Vm, vm, true, COMPONENT, ("FailedCreate", &why));
        Decision::write([status, event, Write::Done { uid: entry.uid.to_string(), what: REFUSED }])
    })
}

fn release(vm: &Value) -> Decision {
    if !has_finalizer(vm, VM_FINALIZER) {
        return Decision::nothing();
    }
    let finalizers = fields::finalizers_without(vm, VM_FINALIZER);
    Decision::write([Write::patch(Kind::Vm, vm, json!({"metadata": {"finalizers": finalizers}}))])
}

fn choose(vm: &Value, vmi: Option<&Value>) -> Choice {
    let strategy = run_strategy(vm);
    let mut requests = list(vm, "/status/stateChangeRequests").to_vec();
    if is_deleting(vm) {
        let wanted = if vmi.is_some_and(|vmi| !is_deleting(vmi)) { Wanted::Deleted } else { Wanted::AsIs };
        return Choice { vmi: wanted, requests };
    }
    let Some(vmi) = vmi else {
        // A Stop of a VMI that is gone has done its work.
        while requests.first().is_some_and(|first| text(first, "/action") == "Stop") {
            requests.remove(0);
        }
        let asked = requests.first().is_some_and(|first| text(first, "/action") == "Start");
        let create = match strategy {
            "Always" | "Once" => true,
            "RerunOnFailure" => asked || text(vm, "/status/runStrategy") != strategy,
            "Manual" => asked,
            _ => false,
        };
        return Choice { vmi: if create { Wanted::Created } else { Wanted::AsIs }, requests };
    };
    let mut delete = strategy == "Halted";
    if let Some(first) = requests.first() {
        let of = text(first, "/uid");
        match text(first, "/action") {
            "Stop" if of.is_empty() || of == uid(vmi) => delete = true,
            "Start" if is_final(vmi) || is_deleting(vmi) => {}
            _ => {
                requests.remove(0);
            }
        }
    }
    if is_final(vmi) && !is_deleting(vmi) {
        delete |= matches!(strategy, "Always" | "RerunOnFailure");
        if strategy == "RerunOnFailure" && phase(vmi) == "Failed" && requests.is_empty() {
            requests.push(json!({"action": "Start"}));
        }
    }
    let wanted = if delete && !is_deleting(vmi) { Wanted::Deleted } else { Wanted::AsIs };
    Choice { vmi: wanted, requests }
}

fn back_off_left(vm: &Value, now: &Now<'_>) -> Option<Duration> {
    let until: jiff::Timestamp = text(vm, "/status/startFailure/retryAfterTimestamp").parse().ok()?;
    let left = until.duration_since(now.timing.at(now.instant));
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

/// What the note about failed starts is to become; none where it stays.
fn start_failure(vm: &Value, vmi: Option<&Value>, now: &Now<'_>) -> Option<Value> {
    let before = vm.at("/status/startFailure");
    let vmi = vmi?;
    if did_run(vmi) && !is_final(vmi) {
        return before.map(|_| Value::Null);
    }
    let counted = before.is_some_and(|before| text(before, "/lastFailedVMIUID") == uid(vmi));
    if !is_final(vmi) || did_run(vmi) || counted {
        return None;
    }
    let count = before.and_then(|before| before.at("/consecutiveFailCount")?.as_u64()).unwrap_or(0) + 1;
    let delay = now.timing.seconds((10 * count * count).min(300));
    let until = now.timing.at(now.instant + delay).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Some(json!({"consecutiveFailCount": count, "lastFailedVMIUID": uid(vmi), "retryAfterTimestamp": until}))
}

fn status_write(vm: &Value, vmi: Option<&Value>, requests: &[Value], now: &Now<'_>) -> Decision {
    let wanted = status_patch(vm, vmi, requests, now);
    if wanted.is_empty() {
        return Decision::nothing();
    }
    Decision::write([Write::patch_status(Kind::Vm, vm, Value::Object(wanted))])
}

/// What differs from the wanted status, nothing else.
pub(in crate::sim) fn status_patch(
    vm: &Value,
    vmi: Option<&Value>,
    requests: &[Value],
    now: &Now<'_>,
) -> Map<String, Value> {
    let had = vm.at("/status").and_then(Value::as_object);
    let had = |field: &str| had.and_then(|had| had.get(field));
    let mut wanted = Map::new();
    let failure = start_failure(vm, vmi, now);
    let failed =
        failure.as_ref().or(had("startFailure")).and_then(|failure| failure.at("/consecutiveFailCount"));
    let failed_before = failed.and_then(Value::as_u64).unwrap_or(0) > 0;
    wanted.extend(failure.map(|failure| ("startFailure".to_owned(), failure)));
    // The API leaves out what is false or empty only where the writer did; absent and false mean the same to readers.
    let ready = vmi.is_some_and(|vmi| fields::condition_is(vmi, "Ready", "True"));
    for (field, on) in [("created", vmi.is_some()), ("ready", ready)] {
        if had(field).map_or(on, |had| *had != on) {
            wanted.insert(field.to_owned(), json!(on));
        }
    }
    // While a VMI is on its way out a change of strategy must still be seen as a change afterwards.
    let leaving = vmi.is_some_and(is_deleting);
    let acted_on = if leaving { text(vm, "/status/runStrategy") } else { run_strategy(vm) };
    let printed = printable::status(vm, vmi, failed_before);
    for (field, text) in [("runStrategy", acted_on), ("printableStatus", printed)] {
        if had(field).map_or(!text.is_empty(), |had| *had != text) {
            wanted.insert(field.to_owned(), json!(text));
        }
    }
    if had("stateChangeRequests").and_then(Value::as_array).map_or(&[][..], Vec::as_slice) != requests {
        let requests = if requests.is_empty() { Value::Null } else { json!(requests) };
        wanted.insert("stateChangeRequests".to_owned(), requests);
    }
    let generation = vm.at("/metadata/generation");
    for field in ["observedGeneration", "desiredGeneration"] {
        if had(field) != generation {
            wanted.insert(field.to_owned(), generation.cloned().unwrap_or(Value::Null));
        }
    }
    let known = list(vm, "/status/conditions");
    let copied = vmi.filter(|vmi| fields::condition(vmi, "Ready").is_some());
    if copied.is_none_or(|vmi| list(vmi, "/status/conditions") != known) {
        let conditions = conditions(vm, vmi, &now.stamp());
        if conditions != known {
            wanted.insert("conditions".to_owned(), Value::Array(conditions));
        }
    }
    wanted
}

fn conditions(vm: &Value, vmi: Option<&Value>, stamp: &str) -> Vec<Value> {
    match vmi {
        Some(vmi) if fields::condition(vmi, "Ready").is_some() => list(vmi, "/status/conditions").to_vec(),
        Some(vmi) => {
            let ready = fields::conditions_with(
                vm,
                "Ready",
                "False",
                "GuestNotRunning",
                "Guest VM is not reported as running",
                stamp,
            );
            let copied = list(vmi, "/status/conditions").iter().cloned();
            copied.chain(ready.into_iter().filter(|c| text(c, "/type") == "Ready")).collect()
        }
        None => {
            let all =
                fields::conditions_with(vm, "Ready", "False", "VMINotExists", "VMI does not exist", stamp);
            all.into_iter().filter(|c| text(c, "/type") == "Ready").collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(strategy: &str, acted_on: &str, requests: &Value) -> Value {
        json!({"metadata": {"name": "a", "uid": "vm"}, "spec": {"runStrategy": strategy},
               "status": {"runStrategy": acted_on, "stateChangeRequests": requests}})
    }

    #[test]
    fn starts_by_strategy_and_request() {
        let start = json!([{"action": "Start"}]);
        let stop = json!([{"action": "Stop", "uid": "gone"}]);
        for (strategy, acted_on, requests, wanted) in [
            ("Always", "Always", json!([]), Wanted::Created),
            ("Once", "Once", json!([]), Wanted::Created),
            ("RerunOnFailure", "", json!([]), Wanted::Created),
            ("RerunOnFailure", "Halted", json!([]), Wanted::Created),
            ("RerunOnFailure", "RerunOnFailure", json!([]), Wanted::AsIs),
            ("RerunOnFailure", "RerunOnFailure", start.clone(), Wanted::Created),
            ("RerunOnFailure", "RerunOnFailure", stop, Wanted::AsIs),
            ("Manual", "Manual", json!([]), Wanted::AsIs),
            ("Manual", "Manual", start.clone(), Wanted::Created),
            ("Halted", "Always", json!([]), Wanted::AsIs),
        ] {
            let choice = choose(&vm(strategy, acted_on, &requests), None);
            assert_eq!(choice.vmi, wanted, "{strategy} {acted_on} {requests}");
        }
    }

    #[test]
    fn deletes_by_strategy_request_and_end() {
        let stop = json!([{"action": "Stop", "uid": "i"}]);
        for (strategy, requests, phase, wanted) in [
            ("Always", json!([]), "Running", Wanted::AsIs),
            ("Always", json!([]), "Succeeded", Wanted::Deleted),
            ("Halted", json!([]), "Running", Wanted::Deleted),
            ("RerunOnFailure", stop.clone(), "Running", Wanted::Deleted),
            ("RerunOnFailure", json!([{"action": "Stop", "uid": "other"}]), "Running", Wanted::AsIs),
            ("Manual", json!([]), "Succeeded", Wanted::AsIs),
        ] {
            let vmi = json!({"metadata": {"uid": "i"}, "status": {"phase": phase}});
            let choice = choose(&vm(strategy, strategy, &requests), Some(&vmi));
            assert_eq!(choice.vmi, wanted, "{strategy} {requests} {phase}");
        }
    }

    #[test]
    fn a_stop_request_stays_until_the_vmi_is_gone_and_a_forced_stop_is_not_restarted() {
        let stop = json!([{"action": "Stop", "uid": "i"}]);
        let vmi = json!({"metadata": {"uid": "i", "deletionTimestamp": "t"}, "status": {"phase": "Failed"}});
        let choice = choose(&vm("RerunOnFailure", "RerunOnFailure", &stop), Some(&vmi));
        assert_eq!((choice.vmi, json!(choice.requests)), (Wanted::AsIs, stop));
        let crashed = json!({"metadata": {"uid": "i"}, "status": {"phase": "Failed"}});
        let choice = choose(&vm("RerunOnFailure", "RerunOnFailure", &json!([])), Some(&crashed));
        assert_eq!((choice.vmi, json!(choice.requests)), (Wanted::Deleted, json!([{"action": "Start"}])));
    }
}

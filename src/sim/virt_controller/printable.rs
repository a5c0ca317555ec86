//! The one word that people see of a VM: `status.printableStatus`, first match wins, in `KubeVirt`'s order.

use crate::sim::fields::At as _;
use serde_json::Value;

use crate::sim::fields::{condition, condition_is, is_deleting, is_final, phase, run_strategy, text, uid};

/// The printable status of a VM with this VMI, and with failed starts behind it or not.
pub(super) fn status(vm: &Value, vmi: Option<&Value>, failed_before: bool) -> &'static str {
    if is_deleting(vm) {
        return "Terminating";
    }
    let Some(vmi) = vmi.filter(|vmi| !is_final(vmi)) else {
        let restarts = matches!(run_strategy(vm), "Always" | "RerunOnFailure" | "Once");
        return if failed_before && restarts { "CrashLoopBackOff" } else { "Stopped" };
    };
    let first = vm.at("/status/stateChangeRequests/0");
    let asked = first.is_some_and(|r| text(r, "/action") == "Stop" && text(r, "/uid") == uid(vmi));
    if is_deleting(vmi) || asked || run_strategy(vm) == "Halted" {
        return "Stopping";
    }
    let copying = |end: &str| !text(vmi, &format!("/status/migrationState/{end}")).is_empty();
    if copying("startTimestamp") && !copying("endTimestamp") {
        return "Migrating";
    }
    if condition_is(vmi, "Paused", "True") {
        return "Paused";
    }
    if phase(vmi) == "Running" {
        return "Running";
    }
    if condition(vmi, "PodScheduled").is_some_and(|c| text(c, "/reason") == "Unschedulable") {
        return "ErrorUnschedulable";
    }
    if matches!(phase(vmi), "" | "Pending" | "Scheduling" | "Scheduled") { "Starting" } else { "Unknown" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn follows_the_order_of_kubevirt() {
        let vm = json!({"spec": {"runStrategy": "Always"}});
        let running = json!({"status": {"phase": "Running"}});
        let migrating = json!({"status": {"phase": "Running", "migrationState": {"startTimestamp": "t"}}});
        let leaving = json!({"metadata": {"deletionTimestamp": "t"}, "status": {"phase": "Running"}});
        let ended = json!({"metadata": {"deletionTimestamp": "t"}, "status": {"phase": "Failed"}});
        let waiting = json!({"status": {"phase": "Scheduling", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]}});
        for (vmi, failed, word) in [
            (None, false, "Stopped"),
            (None, true, "CrashLoopBackOff"),
            (Some(&running), false, "Running"),
            (Some(&migrating), false, "Migrating"),
            (Some(&leaving), false, "Stopping"),
            (Some(&ended), false, "Stopped"),
            (Some(&waiting), true, "ErrorUnschedulable"),
        ] {
            assert_eq!(status(&vm, vmi, failed), word);
        }
        let deleted = json!({"metadata": {"deletionTimestamp": "t"}, "spec": {"runStrategy": "Always"}});
        assert_eq!(status(&deleted, Some(&running), false), "Terminating");
    }
}

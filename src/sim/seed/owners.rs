//! The owners of exported pods: each puts another pod in the place of one that is evicted, and none of them is exported. All
//! are made up as `ReplicaSet`s, whatever they are; what happens to a pod is the same to a drain.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cluster::volumes::claim_of;
use crate::sim::fields::{condition_is, controller, is_deleting, is_final, list, map, namespace, text};

/// Controllers that a drain passes by, that end with their pods, or that simulators of their own play. Pods own those that
/// attach hotplugged volumes for them.
const OTHERS: [&str; 6] = ["DaemonSet", "Node", "Job", "VirtualMachineInstance", "InstanceManager", "Pod"];

/// The set of each owner that is not there, as large as what it has now.
pub(super) fn of<'a>(pods: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut pods_of: BTreeMap<(&str, &str, &str), Vec<&Value>> = BTreeMap::new();
    for pod in pods.filter(|pod| !is_final(pod) && !is_deleting(pod)) {
        let Some(owner) = controller(pod).filter(|owner| !OTHERS.contains(&text(owner, "/kind"))) else {
            continue;
        };
        let (owner, uid) = (text(owner, "/name"), text(owner, "/uid"));
        // Nobody could tell whose its pods are.
        if !uid.is_empty() {
            pods_of.entry((namespace(pod), owner, uid)).or_default().push(pod);
        }
    }
    pods_of.into_iter().map(|((namespace, name, uid), pods)| set((namespace, name, uid), &pods)).collect()
}

fn set((namespace, name, uid): (&str, &str, &str), pods: &[&Value]) -> Value {
    let none = Value::Null;
    let first = pods.first().copied().unwrap_or(&none);
    let labels = map(first, "/metadata/labels");
    let mut spec: Map<String, Value> = map(first, "/spec");
    spec.remove("nodeName");
    // Each pod of a StatefulSet has claims of its own. What replaces one of them is not told from what replaces another, and
    // uses all of them: none of their volumes counts as detached.
    let volumes = pods.iter().flat_map(|pod| list(pod, "/spec/volumes"));
    let claims: BTreeMap<&str, &Value> =
        volumes.filter_map(|volume| Some((claim_of(volume)?, volume))).collect();
    if claims.len() > 1 {
        spec.insert("volumes".to_owned(), claims.into_values().cloned().collect());
    }
    let ready = pods.iter().filter(|pod| condition_is(pod, "Ready", "True")).count();
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "labels": labels},
        "spec": {"replicas": pods.len(), "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec}},
        "status": {"replicas": pods.len(), "readyReplicas": ready},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::fields::name;

    #[test]
    fn each_owner_that_replaces_its_pods_is_made_up_once() {
        let pod = |of: (&str, &str, &str), phase: &str| {
            let (kind, owner, uid) = of;
            json!({"metadata": {"name": "p", "namespace": "n", "labels": {"app": owner},
                    "ownerReferences": [{"kind": kind, "name": owner, "uid": uid, "controller": true}]},
                "spec": {"nodeName": "node1", "priority": 7},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}]}})
        };
        let web = ("ReplicaSet", "web", "1");
        let pods = [
            pod(web, "Running"),
            pod(web, "Running"),
            pod(web, "Failed"),
            pod(("StatefulSet", "db", "2"), "Running"),
            pod(("DaemonSet", "net", "3"), "Running"),
            pod(("Job", "once", "4"), "Running"),
            pod(("ReplicaSet", "nobody", ""), "Running"),
            json!({"metadata": {"name": "alone", "namespace": "n"}, "status": {"phase": "Running"}}),
        ];
        let sets = of(pods.iter());
        let told: Vec<_> = sets.iter().map(|set| (name(set), set["spec"]["replicas"].as_u64())).collect();
        assert_eq!(told, [("db", Some(1)), ("web", Some(2))]);
        assert_eq!(sets[1]["spec"]["template"]["spec"], json!({"priority": 7}));
        let ordinal = |number: usize| {
            let mut pod = pod(("StatefulSet", "db", "2"), "Running");
            pod["spec"]["volumes"] = json!([{"persistentVolumeClaim": {"claimName": format!("data-db-{number}")}},
                {"emptyDir": {}}]);
            pod
        };
        let volumes = &of([ordinal(0), ordinal(1)].iter())[0]["spec"]["template"]["spec"]["volumes"];
        let claim = |index: usize| &volumes[index]["persistentVolumeClaim"]["claimName"];
        assert_eq!([claim(0), claim(1)], ["data-db-0", "data-db-1"]);
        assert_eq!((text(&sets[1], "/metadata/uid"), &sets[1]["status"]["readyReplicas"]), ("1", &json!(2)));
    }
}

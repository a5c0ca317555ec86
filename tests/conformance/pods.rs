//! Pods and nodes: binding, grace, what is fixed.

use serde_json::{Value, json};

use super::access::Access;

crate::checks![
    a_new_pod_is_pending,
    binding_puts_a_pod_on_a_node,
    a_bound_pod_gets_its_grace,
    an_unbound_pod_goes_at_once,
    pods_are_selected_by_node_and_phase,
    the_spec_of_a_pod_is_fixed,
    status_of_a_pod_is_apart,
    a_new_node_is_tainted,
    events_are_selected_by_what_they_involve,
];

/// Creates a pod.
pub(crate) async fn pod(at: &Access, name: &str, labels: Value, node: Option<&str>) -> Value {
    let mut spec =
        json!({"automountServiceAccountToken": false, "containers": [{"name": "main", "image": "x"}]});
    if let Some(node) = node {
        spec["nodeName"] = json!(node);
    }
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec});
    at.post(&at.core("pods"), &body).await.ok()
}

async fn a_new_pod_is_pending(at: Access) {
    let made = pod(&at, "a", json!({}), None).await;
    assert_eq!((&made["status"]["phase"], &made["metadata"]["generation"]), (&json!("Pending"), &json!(1)));
    assert_eq!(made["status"]["qosClass"], "BestEffort");
    let spec = &made["spec"];
    assert_eq!(
        (&spec["restartPolicy"], &spec["terminationGracePeriodSeconds"]),
        (&json!("Always"), &json!(30))
    );
}

async fn binding_puts_a_pod_on_a_node(at: Access) {
    let made = pod(&at, "a", json!({}), None).await;
    let binding = |uid: &Value| {
        json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a", "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}})
    };
    let path = at.core("pods/a/binding");
    at.post(&path, &binding(&json!("another"))).await.refused(
        409,
        "Conflict",
        "Precondition failed: UID in precondition",
    );
    let done = at.post(&path, &binding(&made["metadata"]["uid"])).await;
    assert_eq!((done.code, &done.body["status"]), (201, &json!("Success")));
    let bound = at.get(&at.core("pods/a")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    at.post(&path, &binding(&made["metadata"]["uid"])).await.refused(
        409,
        "Conflict",
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\"",
    );
}

async fn a_bound_pod_gets_its_grace(at: Access) {
    pod(&at, "a", json!({}), Some("n1")).await;
    let path = at.core("pods/a");
    let marked = at.delete(&path, &json!({"gracePeriodSeconds": 20})).await.ok();
    let meta = &marked["metadata"];
    assert_eq!((&meta["deletionGracePeriodSeconds"], &meta["generation"]), (&json!(20), &json!(2)));
    let longer = at.delete(&path, &json!({"gracePeriodSeconds": 25})).await.ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 20);
    let shorter = at.delete(&path, &json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let gone = at.delete(&path, &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!((gone.code, &gone.body["kind"]), (200, &json!("Pod")));
    assert_eq!(at.get(&path).await.code, 404);
    pod(&at, "b", json!({}), Some("n1")).await;
    let marked = at.delete(&at.core("pods/b"), &json!({})).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
}

async fn an_unbound_pod_goes_at_once(at: Access) {
    pod(&at, "a", json!({}), None).await;
    let gone = at.delete(&at.core("pods/a"), &json!({})).await;
    assert_eq!((gone.code, &gone.body["kind"]), (200, &json!("Pod")));
    assert_eq!(at.get(&at.core("pods/a")).await.code, 404);
    pod(&at, "b", json!({}), Some("n1")).await;
    at.merge(&at.core("pods/b/status"), &json!({"status": {"phase": "Succeeded"}})).await.ok();
    at.delete(&at.core("pods/b"), &json!({})).await.ok();
    assert_eq!(at.get(&at.core("pods/b")).await.code, 404);
}

async fn pods_are_selected_by_node_and_phase(at: Access) {
    pod(&at, "a", json!({}), Some("n1")).await;
    pod(&at, "b", json!({}), Some("n2")).await;
    pod(&at, "c", json!({}), None).await;
    at.merge(&at.core("pods/a/status"), &json!({"status": {"phase": "Running"}})).await.ok();
    for (selector, expected) in [
        ("spec.nodeName=n1", "a"),
        ("spec.nodeName!=n1", "b c"),
        ("spec.nodeName=", "c"),
        ("status.phase=Pending", "b c"),
        ("status.phase!=Pending,spec.nodeName=n1", "a"),
    ] {
        let path = format!("{}?fieldSelector={}", at.core("pods"), selector.replace('=', "%3D"));
        let list = at.get(&path).await.ok();
        let names: Vec<_> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names.join(" "), expected, "{selector}");
    }
}

async fn the_spec_of_a_pod_is_fixed(at: Access) {
    pod(&at, "a", json!({}), None).await;
    let path = at.core("pods/a");
    let refusal = at.merge(&path, &json!({"spec": {"nodeName": "n1"}})).await;
    refusal.refused(
        422,
        "Invalid",
        "Pod \"a\" is invalid: spec: Forbidden: pod updates may not change fields other than",
    );
    let new = at.merge(&path, &json!({"spec": {"activeDeadlineSeconds": 9}})).await.ok();
    assert_eq!(new["metadata"]["generation"], 2);
    at.merge(&path, &json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
}

async fn status_of_a_pod_is_apart(at: Access) {
    pod(&at, "a", json!({}), Some("n1")).await;
    let same = at.merge(&at.core("pods/a"), &json!({"status": {"phase": "Running"}})).await.ok();
    assert_eq!(same["status"]["phase"], "Pending");
    let patch = json!({"status": {"phase": "Running"}, "metadata": {"labels": {"x": "y"}}});
    let new = at.merge(&at.core("pods/a/status"), &patch).await.ok();
    assert_eq!((&new["status"]["phase"], &new["metadata"]["generation"]), (&json!("Running"), &json!(1)));
    assert_eq!(new["metadata"]["labels"]["x"], "y", "labels go through the status of Kubernetes' own kinds");
}

async fn a_new_node_is_tainted(at: Access) {
    let name = format!("{}-node", at.space);
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"nodeInfo": {
        "kubeletVersion": "v1.35.0", "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
        "kubeProxyVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""}}});
    let made = at.post("/api/v1/nodes", &body).await.ok();
    assert_eq!(made["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    assert_eq!(made["status"]["nodeInfo"]["kubeletVersion"], "v1.35.0");
    assert!(made["metadata"].get("generation").is_none());
    let path = format!("/api/v1/nodes/{name}");
    let new = at.merge(&path, &json!({"spec": {"unschedulable": true, "taints": null}})).await.ok();
    assert_eq!((&new["spec"]["unschedulable"], new["spec"].get("taints")), (&json!(true), None));
    let cordoned = "/api/v1/nodes?fieldSelector=spec.unschedulable%3Dtrue";
    assert!(
        at.get(cordoned).await.ok()["items"]
            .as_array()
            .unwrap()
            .iter()
            .any(|node| node["metadata"]["name"] == name)
    );
}

async fn events_are_selected_by_what_they_involve(at: Access) {
    for (name, uid) in [("e1", "u1"), ("e2", "u2")] {
        let body = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Because", "type": "Normal",
            "involvedObject": {"kind": "Pod", "name": "a", "namespace": at.space, "uid": uid}});
        at.post(&at.core("events"), &body).await.ok();
    }
    let selector = "involvedObject.name%3Da,involvedObject.uid%3Du2,reason%3DBecause,type%3DNormal";
    let list = at.get(&format!("{}?fieldSelector={selector}", at.core("events"))).await.ok();
    assert_eq!(
        (list["items"].as_array().unwrap().len(), &list["items"][0]["metadata"]["name"]),
        (1, &json!("e2"))
    );
}

//! A cluster of one node on real parts: the API server refuses to cordon it, as Harvester's webhook does, and a budget lets
//! no pod go.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, reason = "tests")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;

use asserts::{agent, said};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use support::cast::Cast;
use support::{NAMESPACE, Stage, TO};
use upgrade_agent::cluster::brief::BriefNode;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::cluster::nodes;

const REFUSAL: &str = "can't enable maintenance mode or cordon on the last available node";

/// Another pod that nothing keeps, as Harvester's webhook is one.
async fn add_passer_by(stage: &Stage) -> String {
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let pod = json!({
        "metadata": { "name": "passer-by" },
        "spec": {
            "nodeName": stage.node, "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": "passer-by" }],
        },
    });
    let made = pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    made.uid().unwrap()
}

/// What Harvester's webhook says of the only node.
async fn refuse_cordons(stage: &Stage) {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(stage.client.clone());
    let policy = json!({
        "metadata": { "name": "last-node" },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["nodes"],
            }] },
            "validations": [{
                "expression": "!has(object.spec.unschedulable) || !object.spec.unschedulable",
                "message": REFUSAL,
            }],
        },
    });
    policies.create(&PostParams::default(), &serde_json::from_value(policy).unwrap()).await.unwrap();
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(stage.client.clone());
    let binding = json!({
        "metadata": { "name": "last-node" },
        "spec": { "policyName": "last-node", "validationActions": ["Deny"] },
    });
    bindings.create(&PostParams::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    // The API server takes some moments until it enforces a new policy.
    let (all, cordon) =
        (Api::<BriefNode>::all(stage.client.clone()), json!({ "spec": { "unschedulable": true } }));
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    let refused = async || {
        let cordoned = all.patch_metadata(&stage.node, &dry_run, &Patch::Merge(&cordon)).await;
        cordoned.is_err_and(|error| error.to_string().contains(REFUSAL))
    };
    stage.wait("cordons to be refused", refused).await.unwrap();
}

async fn forbid_evictions(stage: &Stage) {
    let label = json!({ "metadata": { "labels": { "app": "bystander" } } });
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
    pods.patch("bystander", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(stage.client.clone(), &stage.namespace);
    let budget = json!({
        "metadata": { "name": "bystander" },
        "spec": { "maxUnavailable": 0, "selector": { "matchLabels": { "app": "bystander" } } },
    });
    budgets.create(&PostParams::default(), &serde_json::from_value(budget).unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_node_is_upgraded_and_its_other_pods_stay() {
    let cast = Cast { spares: Vec::new(), ..Cast::app_and_pci("only") };
    let stage = Stage::alone(cast).await.unwrap();
    refuse_cordons(&stage).await;
    forbid_evictions(&stage).await;
    let passer_by = add_passer_by(&stage).await;
    let before = stage.instances().await.unwrap();
    stage.order(Control::Run).await.unwrap();
    let output = stage.run_agent(agent(), &["node", "--once"]).await.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let after = stage.instances().await.unwrap();
    assert!(before.len() == 2 && after.keys().eq(before.keys()), "both VMs run again: {after:?}");
    for (vm, (uid, node)) in &after {
        let (was, _) = before.get(vm).unwrap();
        assert!(uid != was && *node == stage.node, "{vm} was shut down, and is back");
    }
    let pods: Api<Pod> = Api::namespaced(stage.client.clone(), &stage.namespace);
    assert_eq!(pods.get("passer-by").await.unwrap().uid(), Some(passer_by), "other pods have stayed");
    assert_eq!(stage.audited("create", "/eviction").count(), 0, "nobody was even asked to leave");
    let node: BriefNode = Api::all(stage.client.clone()).get(&stage.node).await.unwrap();
    assert_eq!(nodes::kubelet_version(&node), Some(TO));
    assert!(!nodes::is_closed(&node) && nodes::drain_taint(&node).is_none(), "{:?}", node.spec.taints);
    assert!(!node.annotations().contains_key(nodes::OWNER_ANNOTATION));
    let order = stage.orders().get(&format!("{}-{}", stage.upgrade, stage.node)).await.unwrap();
    assert_eq!(order.status.unwrap().phase, "Succeeded", "in {NAMESPACE}");
}

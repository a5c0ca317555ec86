//! The manifests: they parse as what they claim to be, ask for no right that is not listed here, and only the
//! `DaemonSet` is privileged. The unit is checked for the one mistake that would hurt.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test that reads the manifests it checks"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Made from the types in `src/cluster/crd`, so not written here by hand.
const GENERATED: &str = "crd.yaml";

/// Every right, `group/resource` and its verbs, in the whole cluster.
const CLUSTER_RIGHTS: &[(&str, &str)] = &[
    ("/nodes", "get list patch watch"),
    ("/persistentvolumeclaims", "get"),
    ("/persistentvolumes", "get"),
    ("/pods", "get list watch"),
    ("/pods/eviction", "create"),
    ("devices.harvesterhci.io/pcideviceclaims", "get"),
    ("devices.harvesterhci.io/pcidevices", "list"),
    ("devices.harvesterhci.io/usbdeviceclaims", "get"),
    ("devices.harvesterhci.io/usbdevices", "get"),
    ("devices.harvesterhci.io/vgpudevices", "list"),
    ("kubevirt.io/virtualmachineinstancemigrations", "create delete get list watch"),
    ("kubevirt.io/virtualmachineinstances", "delete get list watch"),
    ("kubevirt.io/virtualmachines", "get list patch watch"),
    ("longhorn.io/volumes", "get"),
    ("subresources.kubevirt.io/healthz", "get list"),
    ("subresources.kubevirt.io/virtualmachineinstances/evacuate", "update"),
    ("subresources.kubevirt.io/virtualmachineinstances/evacuate/cancel", "update"),
    ("subresources.kubevirt.io/virtualmachines/start", "update"),
    ("subresources.kubevirt.io/virtualmachines/stop", "update"),
];
/// The same, in harvester-system only.
const NAMESPACE_RIGHTS: &[(&str, &str)] = &[
    ("/configmaps", "create get list patch"),
    ("/events", "create"),
    ("agent.harvesterhci.io/nodeupgrades", "get list watch"),
    ("agent.harvesterhci.io/nodeupgrades/status", "get patch update"),
    ("coordination.k8s.io/leases", "create delete get update"),
    ("harvesterhci.io/upgrades", "get list patch watch"),
    ("kubevirt.io/kubevirts", "get"),
];

fn root(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(part)
}

fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root("manifests").join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

fn files() -> BTreeSet<String> {
    std::fs::read_dir(root("manifests"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// The one document of `kind` in `file`, as its real type.
fn only<T: DeserializeOwned>(file: &str, kind: &str) -> T {
    let mut found: Vec<Value> =
        documents(file).into_iter().filter(|document| document["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind} in {file}");
    serde_json::from_value(found.remove(0)).unwrap()
}

/// The rules as `group/resource` and sorted verbs, in which form a right that is given twice shows up once.
fn rights(rules: Option<Vec<PolicyRule>>) -> BTreeMap<String, BTreeSet<String>> {
    let mut rights: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for rule in rules.unwrap() {
        assert_eq!(rule.non_resource_urls, None);
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.iter().flatten() {
                rights.entry(format!("{group}/{resource}")).or_default().extend(rule.verbs.iter().cloned());
            }
        }
    }
    rights
}

fn listed(list: &[(&str, &str)]) -> BTreeMap<String, BTreeSet<String>> {
    list.iter().map(|(right, verbs)| ((*right).into(), verbs.split(' ').map(Into::into).collect())).collect()
}

#[test]
fn the_agent_gets_the_listed_rights_and_no_others() {
    assert_eq!(rights(only::<ClusterRole>("rbac.yaml", "ClusterRole").rules), listed(CLUSTER_RIGHTS));
    let role: Role = only("rbac.yaml", "Role");
    assert_eq!(role.metadata.namespace.as_deref(), Some("harvester-system"));
    assert_eq!(rights(role.rules), listed(NAMESPACE_RIGHTS));
    for (right, verbs) in CLUSTER_RIGHTS.iter().chain(NAMESPACE_RIGHTS) {
        assert!(!format!("{right} {verbs}").contains('*'), "{right}: a wildcard is not a list");
        assert!(!right.starts_with("/secrets") && !right.contains("rbac."), "{right}: never needed");
    }
}

#[test]
fn both_roles_are_bound_to_the_one_service_account() {
    let account: ServiceAccount = only("serviceaccount.yaml", "ServiceAccount");
    let account = (account.metadata.name.unwrap(), account.metadata.namespace.unwrap());
    assert_eq!(account, ("upgrade-agent".into(), "harvester-system".into()));
    let bound_right = |reference: RoleRef, kind: &str, subjects: Option<Vec<Subject>>| {
        assert_eq!((reference.kind.as_str(), reference.name.as_str()), (kind, "upgrade-agent-node"));
        let subjects = subjects.unwrap();
        assert_eq!(subjects.len(), 1);
        assert_eq!((subjects[0].kind.as_str(), &subjects[0].name), ("ServiceAccount", &account.0));
        assert_eq!(subjects[0].namespace.as_ref(), Some(&account.1));
    };
    let binding: ClusterRoleBinding = only("rbac.yaml", "ClusterRoleBinding");
    bound_right(binding.role_ref, "ClusterRole", binding.subjects);
    let binding: RoleBinding = only("rbac.yaml", "RoleBinding");
    bound_right(binding.role_ref, "Role", binding.subjects);
}

#[test]
fn the_daemonset_sees_the_machine_and_survives_its_own_drain() {
    let set = only::<DaemonSet>("daemonset.yaml", "DaemonSet").spec.unwrap();
    assert_eq!(set.update_strategy.unwrap().type_.as_deref(), Some("OnDelete"));
    assert_eq!(set.selector.match_labels, set.template.metadata.unwrap().labels);
    let pod = set.template.spec.unwrap();
    assert_eq!((pod.host_pid, pod.host_network, pod.host_ipc), (Some(true), Some(true), None));
    assert_eq!(pod.priority_class_name.as_deref(), Some("system-node-critical"));
    assert_eq!(pod.service_account_name.as_deref(), Some("upgrade-agent"));
    assert!(pod.termination_grace_period_seconds.unwrap() >= 60);
    // No key, no effect: tolerates kubevirt.io/drain, unschedulable and whatever else is on the node.
    let tolerations = pod.tolerations.unwrap();
    assert!(
        tolerations
            .iter()
            .any(|t| t.operator.as_deref() == Some("Exists") && t.key.is_none() && t.effect.is_none())
    );

    let container = &pod.containers[0];
    assert_eq!(pod.containers.len(), 1);
    assert_eq!(container.security_context.as_ref().unwrap().privileged, Some(true));
    assert_eq!(container.args.as_ref().unwrap().join(" "), "node --host-root /host");
    let node_name = container.env.iter().flatten().find(|variable| variable.name == "NODE_NAME").unwrap();
    let field = node_name.value_from.as_ref().unwrap().field_ref.as_ref().unwrap();
    assert_eq!(field.field_path, "spec.nodeName");
    let mount = &container.volume_mounts.as_ref().unwrap()[0];
    assert_eq!((mount.name.as_str(), mount.mount_path.as_str(), mount.read_only), ("host", "/host", None));
    assert_eq!(mount.mount_propagation.as_deref(), Some("HostToContainer"));
    let volume = pod.volumes.unwrap().remove(0);
    assert_eq!((volume.name.as_str(), volume.host_path.unwrap().path.as_str()), ("host", "/"));
    let resources = container.resources.as_ref().unwrap();
    assert!(resources.requests.as_ref().unwrap().contains_key("memory"));
    assert!(resources.limits.as_ref().unwrap().contains_key("memory"));
}

#[test]
fn only_the_daemonset_is_privileged() {
    for file in files().iter().filter(|file| *file != "daemonset.yaml") {
        for document in documents(file) {
            let text = document.to_string();
            for power in ["\"privileged\":true", "\"hostPID\":true", "\"hostNetwork\":true", "\"hostPath\":{"]
            {
                assert!(!text.contains(power), "{file} has {power}");
            }
        }
    }
}

#[test]
fn kustomization_lists_every_file_and_nothing_else() {
    let kustomization = &documents("kustomization.yaml")[0];
    let listed: BTreeSet<String> = serde_json::from_value(kustomization["resources"].clone()).unwrap();
    let mut present = files();
    assert!(present.remove("kustomization.yaml"));
    present.insert(GENERATED.into());
    assert_eq!(listed, present);
    assert_eq!(kustomization["namespace"], "harvester-system");
}

#[test]
fn the_unit_never_waits_for_rke2() {
    let text = std::fs::read_to_string(root("systemd/upgrade-agent.service")).unwrap();
    let settings: Vec<(&str, &str)> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
    assert!(settings.iter().all(|(_, value)| !value.contains("rke2")), "{settings:?}");
    for expected in [
        ("Type", "notify"),
        ("ExecStart", "/opt/upgrade-agent/bin/upgrade-agent node"),
        ("Restart", "on-failure"),
        ("RestartPreventExitStatus", "2 3"),
        ("OOMScoreAdjust", "-900"),
        ("WantedBy", "multi-user.target"),
    ] {
        assert!(settings.contains(&expected), "{expected:?}");
    }
}

/// The file is what the Rust type says; `cargo run -- crd > manifests/crd.yaml` writes it anew.
#[test]
fn the_crd_is_the_one_of_the_type() {
    use kube::CustomResourceExt as _;
    let generated = upgrade_agent::cluster::crd::node_upgrade::NodeUpgrade::crd();
    let generated = serde_saphyr::to_string(&generated).unwrap();
    let file = std::fs::read_to_string(root("manifests/crd.yaml")).unwrap();
    assert_eq!(file.trim_end(), generated.trim_end());
}

//! Labels of nodes that a guest takes along when it is moved, above all the CPU of those that run as their host does.
//! Labels and rule are those of `KubeVirt` 1.8, `watch/migration`.

use serde_json::{Map, Value};

use crate::sim::fields::{map, text};

/// Label of a node: the CPU model that `host-model` means there.
const HOST_MODEL: &str = "host-model-cpu.node.kubevirt.io/";
/// Label of a node: a CPU feature that its `host-model` guests need wherever they go.
const HOST_FEATURE: &str = "host-model-required-features.node.kubevirt.io/";
/// Label of a node: guests of this CPU model may be moved there.
const MODEL: &str = "cpu-model-migration.node.kubevirt.io/";
/// Label of a node: its CPU has this feature.
const FEATURE: &str = "cpu-feature.node.kubevirt.io/";

/// The labels that a node must have for this guest of `host`; none for guests with a CPU model of their own.
fn host_cpu(vmi: &Value, host: &Value) -> Map<String, Value> {
    if text(vmi, "/spec/domain/cpu/model") != "host-model" {
        return Map::new();
    }
    let wanted = map(host, "/metadata/labels").into_iter().filter_map(|(key, value)| {
        let model = key.strip_prefix(HOST_MODEL).map(|model| format!("{MODEL}{model}"));
        let wanted = model.or_else(|| Some(format!("{FEATURE}{}", key.strip_prefix(HOST_FEATURE)?)));
        wanted.map(|wanted| (wanted, value))
    });
    wanted.collect()
}

/// Labels that `KubeVirt` had the node of this launcher have: CPU, Hyper-V, a clock, CPUs of its own. That virt-handler serves the node
/// is asked of every node.
pub(in crate::sim) fn of_launcher(pod: &Value) -> Map<String, Value> {
    let mut labels = map(pod, "/spec/nodeSelector");
    labels.retain(|key, _| {
        let domain = key.split('/').next().unwrap_or_default();
        matches!(key.as_str(), "cpumanager" | "kubernetes.io/arch" | "kubevirt.io/cpumanager")
            || domain.ends_with(".kubevirt.io")
    });
    labels
}

/// Whether a label says something of the CPU that a guest had on its first host.
pub(in crate::sim) fn first_host(label: &str) -> bool {
    [MODEL, FEATURE].iter().any(|prefix| label.starts_with(prefix))
}

/// What the node of a migration's target has to have for a guest that runs in this pod: one that has been moved before keeps
/// the labels of its first host.
pub(super) fn labels_of_target(pod: &Value, vmi: &Value, host: Option<&Value>) -> Map<String, Value> {
    with_host_cpu(of_launcher(pod), vmi, host)
}

/// The labels of a launcher with those of its host's CPU, unless its first host's are among them.
pub(in crate::sim) fn with_host_cpu(
    mut labels: Map<String, Value>,
    vmi: &Value,
    host: Option<&Value>,
) -> Map<String, Value> {
    if let Some(host) = host
        && !labels.keys().any(|label| first_host(label))
    {
        labels.extend(host_cpu(vmi, host));
    }
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_guest_takes_the_cpu_of_its_first_host_along() {
        let guest = |model: &str| json!({"spec": {"domain": {"cpu": {"model": model}}}});
        let host = json!({"metadata": {"labels": {
            "host-model-cpu.node.kubevirt.io/Skylake": "true",
            "host-model-required-features.node.kubevirt.io/vme": "true",
            "cpu-feature.node.kubevirt.io/fpu": "true",
        }}});
        let pod = |selector: Value| json!({"spec": {"nodeSelector": selector}});
        let taken = |pod: &Value, guest: &Value| {
            let taken = labels_of_target(pod, guest, Some(&host));
            taken.into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
        };
        let (first, again) = (
            pod(json!({"zone": "a"})),
            pod(json!({"zone": "a", "cpu-model-migration.node.kubevirt.io/Old": "true"})),
        );
        let of_host = "cpu-feature.node.kubevirt.io/vme cpu-model-migration.node.kubevirt.io/Skylake";
        assert_eq!(taken(&first, &guest("host-model")), of_host);
        assert_eq!(taken(&again, &guest("host-model")), "cpu-model-migration.node.kubevirt.io/Old");
        assert_eq!(taken(&first, &guest("Broadwell")), "");
        assert!(labels_of_target(&first, &guest("host-model"), None).is_empty());
    }
}

//! What a launcher asks of its node, as `KubeVirt` 1.8 reads it off the VMI (`services/template`). Left out is what its own
//! processes take; where an exported pod tells, that counts.

use serde_json::{Map, Value, json};

use crate::sim::fields::{At as _, device_requests, list, memory_mib, quantity, text};

/// CPU models that are no model of their own.
const AS_THE_HOST: [&str; 3] = ["", "host-model", "host-passthrough"];

/// Devices of the node and those of the guest: what is asked for is also the limit.
pub(super) fn devices(vmi: &Value) -> Map<String, Value> {
    let mut devices = Map::new();
    for device in ["kvm", "tun", "vhost-net"] {
        devices.insert(format!("devices.kubevirt.io/{device}"), json!("1"));
    }
    for (device, count) in device_requests(vmi) {
        devices.insert(device, json!(count.to_string()));
    }
    devices
}

/// Memory and CPUs. Where less is asked for than the guest has, as Harvester's overcommit does it, that is what counts.
pub(super) fn room(vmi: &Value) -> Map<String, Value> {
    let mut room = Map::new();
    let of_guest = format!("{}Mi", memory_mib(vmi));
    let pages = text(vmi, "/spec/domain/memory/hugepages/pageSize");
    if pages.is_empty() {
        let asked = text(vmi, "/spec/domain/resources/requests/memory");
        let known = !asked.is_empty() && quantity(asked).is_some();
        room.insert("memory".to_owned(), if known { json!(asked) } else { json!(of_guest) });
    } else {
        room.insert(format!("hugepages-{pages}"), json!(of_guest));
    }
    let asked = text(vmi, "/spec/domain/resources/requests/cpu");
    if vmi.at("/spec/domain/cpu/dedicatedCpuPlacement") == Some(&Value::Bool(true)) {
        let count = |field: &str| {
            vmi.at("/spec/domain/cpu").and_then(|cpu| cpu.get(field)?.as_u64()).unwrap_or(1).max(1)
        };
        let all = ["cores", "sockets", "threads"]
            .map(count)
            .iter()
            .fold(1_u64, |all, one| all.saturating_mul(*one));
        room.insert("cpu".to_owned(), json!(all.to_string()));
    } else if quantity(asked).is_some() {
        room.insert("cpu".to_owned(), json!(asked));
    }
    room
}

/// Labels of a node that has the CPU which the guest names.
pub(in crate::sim) fn named_cpu(vmi: &Value) -> Map<String, Value> {
    let model = text(vmi, "/spec/domain/cpu/model");
    let model = (!AS_THE_HOST.contains(&model)).then(|| format!("cpu-model.node.kubevirt.io/{model}"));
    let features = list(vmi, "/spec/domain/cpu/features").iter();
    let features = features.filter(|feature| matches!(text(feature, "/policy"), "" | "require"));
    let features = features.map(|feature| format!("cpu-feature.node.kubevirt.io/{}", text(feature, "/name")));
    model.into_iter().chain(features).map(|label| (label, json!("true"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_asks_for_what_its_guest_was_given() {
        for (what, domain, expected) in [
            ("a guest", json!({"memory": {"guest": "8Gi"}}), json!({"memory": "8192Mi"})),
            (
                "overcommitted",
                json!({"memory": {"guest": "24476Mi"}, "resources": {"requests": {"memory": "16Gi", "cpu": "250m"}}}),
                json!({"memory": "16Gi", "cpu": "250m"}),
            ),
            (
                "huge pages",
                json!({"memory": {"guest": "4Gi", "hugepages": {"pageSize": "1Gi"}}}),
                json!({"hugepages-1Gi": "4096Mi"}),
            ),
            (
                "CPUs of its own",
                json!({"memory": {"guest": "1Gi"}, "cpu": {"cores": 4, "sockets": 2, "dedicatedCpuPlacement": true}}),
                json!({"memory": "1024Mi", "cpu": "8"}),
            ),
        ] {
            assert_eq!(Value::Object(room(&json!({"spec": {"domain": domain}}))), expected, "{what}");
        }
    }

    #[test]
    fn a_cpu_that_is_named_has_to_be_had() {
        let cpu = |cpu: Value| {
            let labels = named_cpu(&json!({"spec": {"domain": {"cpu": cpu}}}));
            labels.into_iter().map(|(label, _)| label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(cpu(json!({"model": "host-passthrough"})), "");
        assert_eq!(cpu(json!({"model": "Haswell"})), "cpu-model.node.kubevirt.io/Haswell");
        let features = json!([{"name": "vmx"}, {"name": "aes", "policy": "require"}, {"name": "pcid", "policy": "optional"}]);
        let both = "cpu-feature.node.kubevirt.io/aes cpu-feature.node.kubevirt.io/vmx";
        assert_eq!(cpu(json!({"features": features})), both);
    }
}

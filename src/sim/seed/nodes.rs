//! Nodes as a Harvester cluster has them: the first three carry the control plane, those with passthrough VMs have just the
//! devices that these use.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Seeding;
use super::presets::Device;
use crate::sim::fields::{self, SIMULATED};
use crate::sim::kubelet::{node_object, node_status};
use crate::sim::world::{PCI_DEVICE, VGPU};

pub(super) fn node(seeding: &Seeding<'_>, index: usize) -> Value {
    let preset = seeding.preset;
    let name = format!("node{}", index + 1);
    let mut labels = BTreeMap::new();
    if index < 3 {
        for role in ["control-plane", "etcd"] {
            labels.insert(format!("node-role.kubernetes.io/{role}"), "true".to_owned());
        }
    }
    let devices = |kind: Device| {
        let all = preset.vms.saturating_sub(preset.passthrough)..preset.vms;
        all.filter(|vm| preset.node_of(*vm) == index && preset.device_of(*vm) == Some(kind)).count()
    };
    let memory = 1024.max(preset.vms / preset.nodes.max(1) * 24);
    let room = BTreeMap::from([
        (PCI_DEVICE.to_owned(), devices(Device::Pci).to_string()),
        (VGPU.to_owned(), devices(Device::Vgpu).to_string()),
        ("memory".to_owned(), format!("{memory}Gi")),
    ]);
    let now = seeding.timing.start;
    let mut node = node_object(&name, &labels);
    let address = format!("10.{}.{}.{}", index / 62_500, index / 250 % 250, index % 250 + 1);
    let mut status = node_status(&name, &preset.version, &room, now);
    fields::merge(
        &mut status,
        &json!({"addresses": [{"type": "InternalIP", "address": address},
        {"type": "Hostname", "address": name}]}),
    );
    let annotations = json!({SIMULATED: null, "kubevirt.io/heartbeat": seeding.stamp});
    let patch = json!({"metadata": {"annotations": annotations}, "status": status});
    fields::merge(&mut node, &patch);
    node
}

//! A world made of exported objects: what `kubectl get -o json` printed, as it was. Launcher pods that were not exported
//! are made up, and all of Longhorn's instance managers; whatever does not fit together is told in words and never stops the import.

use crate::sim::fields::At as _;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::claims::Claims;
use super::presets::Preset;
use super::{Instances, Seeded, Seeding, instance_managers, owners, place, underway, vms};
use crate::sim::api::ApiServer;
use crate::sim::fields::{
    self, FOREGROUND, VM_FINALIZER, VMIM_FINALIZER, condition_is, device_requests, is_final, merge, name,
    namespace, phase, quantity, text, uid,
};
use crate::sim::kind::Kind;
use crate::sim::longhorn;
use crate::sim::object::Object;
use crate::sim::view::{Key, vmi_of_pod};

/// The only one that the simulated Longhorn knows.
const DRAIN_POLICY: &str = "allow-if-replica-is-stopped";

/// Loads exported objects; lists are taken apart. Returns what is there now, and a line for everything that is odd.
#[must_use]
pub fn adopt(server: &ApiServer, objects: Vec<Value>, now: Timestamp) -> (Seeded, Vec<String>) {
    let preset = Preset::sized(1, 0, 0);
    let seeding = Seeding::new(server, &preset, now);
    let (known, claims, managed) = (BTreeMap::new(), Claims::default(), BTreeSet::new());
    let mut adopting = Adopting { seeding, known, claims, managed, odd: Vec::new() };
    for object in objects {
        adopting.take(object);
    }
    adopting.complete();
    let names = |kind: Kind| adopting.all(kind).keys().cloned().collect::<Vec<Key>>();
    let seeded = Seeded {
        nodes: names(Kind::Node).into_iter().map(|key| key.name().to_owned()).collect(),
        vms: names(Kind::Vm)
            .into_iter()
            .map(|key| (key.namespace().to_owned(), key.name().to_owned()))
            .collect(),
    };
    (seeded, adopting.odd)
}

struct Adopting<'a> {
    seeding: Seeding<'a>,
    known: BTreeMap<Kind, BTreeMap<Key, Object>>,
    claims: Claims,
    /// Nodes of which an instance manager was exported.
    managed: BTreeSet<String>,
    odd: Vec<String>,
}

static NONE: BTreeMap<Key, Object> = BTreeMap::new();

impl Adopting<'_> {
    fn all(&self, kind: Kind) -> &BTreeMap<Key, Object> {
        self.known.get(&kind).unwrap_or(&NONE)
    }

    fn take(&mut self, mut object: Value) {
        if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
            for item in std::mem::take(items) {
                self.take(item);
            }
            return;
        }
        let kind = text(&object, "/kind");
        let what = format!("{kind} {}/{}", namespace(&object), name(&object));
        if kind.is_empty() || name(&object).is_empty() {
            self.odd.push(format!("an object of kind \"{kind}\" has no kind or no name; it is left out"));
            return;
        }
        if kind == "PodDisruptionBudget" && name(&object).starts_with("instance-manager-") {
            // Longhorn's own: the managers that are made up get theirs with them, and nobody would take this one away.
            return;
        }
        if kind == "Setting" && name(&object) == "node-drain-policy" {
            let policy = text(&object, "/value");
            if policy != DRAIN_POLICY {
                self.odd.push(format!(
                    "Longhorn's node-drain-policy is {policy}; budgets go here as with {DRAIN_POLICY}, which Harvester sets"
                ));
            }
        }
        if kind == "Upgrade" {
            self.odd.extend(underway::told(&object));
        }
        let watched = Kind::of(&object);
        // A node may have several, of older images too, with names and pods that only Longhorn can tell apart: each node gets one
        // that the simulated Longhorn knows as its own.
        if watched == Some(Kind::InstanceManager) {
            self.managed.insert(text(&object, "/spec/nodeID").to_owned());
            return;
        }
        if watched == Some(Kind::Pod) && is_left_out(&object) {
            return;
        }
        let key = Key::of(&object);
        if watched.is_some_and(|watched| self.all(watched).contains_key(&key)) {
            self.odd.push(format!("{what} is there twice; the first one counts"));
            return;
        }
        if let Some(metadata) = object.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
        }
        if uid(&object).is_empty() {
            self.odd.push(format!("{what} has no uid; one is made up"));
        }
        match watched {
            Some(Kind::Node) => self.complete_node(&mut object),
            Some(Kind::Vm | Kind::Vmi | Kind::Vmim) => keep_own_finalizers(&mut object),
            Some(Kind::Engine | Kind::Replica)
                if !text(&object, "/status/instanceManagerName").is_empty() =>
            {
                let manager = longhorn::instance_manager_name(text(&object, "/spec/nodeID"));
                merge(&mut object, &json!({"status": {"instanceManagerName": manager}}));
            }
            _ => {}
        }
        self.claims.note(&object);
        match (self.seeding.load(object), watched) {
            (Ok(mut object), Some(watched)) => {
                object.cool();
                self.known.entry(watched).or_default().insert(key, object);
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                let why =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                self.odd.push(format!("{what} cannot be loaded: {why}"));
            }
        }
    }

    fn complete(&mut self) {
        for (key, vmi) in self.all(Kind::Vmi).clone() {
            self.complete_vmi(&key, &vmi);
        }
        for set in owners::of(self.all(Kind::Pod).values().map(|pod| &**pod)) {
            self.take(set);
        }
        self.look_at_devices();
        self.look_at_vms();
        self.complete_storage();
        self.complete_claims();
        if self.all(Kind::Node).is_empty() {
            self.odd.push("there is no Node; export them too".to_owned());
        }
        let down = self.all(Kind::Node).values().filter(|node| !condition_is(node, "Ready", "True"));
        let down: Vec<String> = down.map(|node| format!("Node {} is not ready", name(node))).collect();
        self.odd.extend(down);
    }

    /// A machine has an id and a boot, whether or not somebody cut them out of the export.
    fn complete_node(&mut self, node: &mut Value) {
        let called = name(node).to_owned();
        let made_up = [
            ("machineID", fields::uid_from(&format!("machine {called}")).replace('-', "")),
            ("bootID", fields::uid_from(&format!("boot {called}"))),
        ];
        for (field, value) in made_up {
            if node.at("/status/nodeInfo").is_none_or(|info| text(info, &format!("/{field}")).is_empty()) {
                self.odd.push(format!("Node {called} has no {field}; one is made up"));
                merge(node, &json!({"status": {"nodeInfo": {field: value}}}));
            }
        }
    }

    fn complete_vmi(&mut self, key: &Key, vmi: &Object) {
        let what = format!("VMI {}/{}", key.namespace(), key.name());
        if is_final(vmi) {
            return;
        }
        let node = text(vmi, "/status/nodeName").to_owned();
        if phase(vmi) != "Running" || node.is_empty() {
            self.odd
                .push(format!("{what} is in phase \"{}\" and has no guest that could be kept", phase(vmi)));
            return;
        }
        let Some(home) = self.all(Kind::Node).get(&Key::new("", &node)).cloned() else {
            self.odd.push(format!("{what} runs on node {node}, which was not exported"));
            return;
        };
        let has =
            |pod: &&Object| vmi_of_pod(pod).as_ref() == Some(key) && text(pod, "/spec/nodeName") == node;
        if self.all(Kind::Pod).values().any(|pod| has(&pod)) {
            return;
        }
        let mut pod = vms::running_pod(&self.seeding, vmi, Some(&home), &node);
        let active = vmi.at("/status/activePods").and_then(Value::as_object).into_iter().flatten();
        let told: Vec<&String> = active.filter(|(_, at)| **at == *node).map(|(uid, _)| uid).collect();
        if let [told] = told.as_slice() {
            merge(&mut pod, &json!({"metadata": {"uid": told}}));
            // Its containers' ids follow from the uid.
            let status =
                crate::sim::kubelet::pod_running(Some(&home), &without_status(&pod), &self.seeding.now());
            merge(&mut pod, &json!({"status": status}));
        }
        self.take(pod);
    }

    /// More devices in use than a node offers: somebody's VM would not come back.
    fn look_at_devices(&mut self) {
        let mut used: BTreeMap<(String, String), u64> = BTreeMap::new();
        for vmi in self.all(Kind::Vmi).values().filter(|vmi| !is_final(vmi)) {
            for (device, count) in device_requests(vmi) {
                *used.entry((text(vmi, "/status/nodeName").to_owned(), device)).or_insert(0) += count;
            }
        }
        for ((node, device), count) in used {
            let Some(home) = self.all(Kind::Node).get(&Key::new("", &node)) else { continue };
            let offered = home.at("/status/allocatable").and_then(|all| all.get(&device)?.as_str());
            let offered = offered.and_then(quantity).unwrap_or(0) / 1000;
            if u128::from(count) > offered {
                self.odd.push(format!("node {node} offers {offered} of {device}, and its VMs use {count}"));
            }
        }
    }

    fn look_at_vms(&mut self) {
        let mut odd = Vec::new();
        for (key, vm) in self.all(Kind::Vm) {
            let runs = self.all(Kind::Vmi).contains_key(key);
            if !runs && fields::run_strategy(vm) == "Always" {
                odd.push(format!(
                    "VM {}/{} should run and has no VMI; it will be started",
                    key.namespace(),
                    key.name()
                ));
            }
        }
        self.odd.extend(odd);
    }

    /// Without them nobody would start a VM again that was shut down.
    fn complete_claims(&mut self) {
        let vms = self.all(Kind::Vm).values().map(|vm| &**vm);
        let made_up = self.claims.lacking(vms, !self.all(Kind::Volume).is_empty());
        for object in made_up {
            if let Err(error) = self.seeding.load(object) {
                self.odd.push(format!("a volume cannot be made up: {error}"));
            }
        }
    }

    /// Nodes with replicas or engines need something that these run in.
    fn complete_storage(&mut self) {
        let disks: Vec<Object> =
            [Kind::Engine, Kind::Replica].iter().flat_map(|kind| self.all(*kind).values().cloned()).collect();
        let hosts: BTreeSet<&str> = disks.iter().map(|disk| text(disk, "/spec/nodeID")).collect();
        let is_managed = |node: &&Object| hosts.contains(name(node)) || self.managed.contains(name(node));
        let nodes: Vec<Object> = self.all(Kind::Node).values().filter(is_managed).cloned().collect();
        let lacking = |host: &&&str| !host.is_empty() && !nodes.iter().any(|node| name(node) == **host);
        let lacking = hosts.iter().filter(lacking);
        self.odd
            .extend(lacking.map(|host| format!("volumes have parts on node {host}, which was not exported")));
        let mut instances = Instances::new();
        for disk in &disks {
            place(&mut instances, disk);
        }
        if let Err(error) = instance_managers(&self.seeding, &nodes, instances) {
            self.odd.push(format!("instance managers cannot be made up: {error}"));
        }
        let of = |disk: &Object| text(disk, "/spec/volumeName").to_owned();
        let volumes: BTreeSet<&str> = self.all(Kind::Volume).keys().map(Key::name).collect();
        let lost: BTreeSet<String> =
            disks.iter().map(of).filter(|volume| !volumes.contains(volume.as_str())).collect();
        self.odd.extend(
            lost.into_iter().map(|volume| format!("volume {volume} was not exported, but parts of it were")),
        );
    }
}

/// Pods of instance managers come with these; those that attach hotplugged volumes go with their launcher, and `KubeVirt`
/// makes others for the next one.
fn is_left_out(pod: &Value) -> bool {
    let managed = fields::controller(pod).is_some_and(|owner| text(owner, "/kind") == "InstanceManager");
    managed || fields::label(pod, "kubevirt.io") == Some("hotplug-disk")
}

/// Harvester's controllers put finalizers on VMs and guests (`wrangler.cattle.io/…`) and take them off once these end. None of them is
/// played, so theirs are taken off at once. Before 1.7 `KubeVirt` wrote its own without a domain.
fn keep_own_finalizers(object: &mut Value) {
    let own = fields::list(object, "/metadata/finalizers").iter().filter_map(Value::as_str);
    let own: Vec<&str> = own
        .filter_map(|one| match one {
            "foregroundDeleteVirtualMachine" => Some(FOREGROUND),
            FOREGROUND | VM_FINALIZER | VMIM_FINALIZER => Some(one),
            _ => None,
        })
        .collect();
    let own = json!(own);
    merge(object, &json!({"metadata": {"finalizers": own}}));
}

fn without_status(object: &Value) -> Value {
    let fields: Option<Map<String, Value>> = object.as_object().cloned();
    let mut fields = fields.unwrap_or_default();
    fields.remove("status");
    Value::Object(fields)
}

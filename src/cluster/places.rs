//! Nodes and pods as a placement proof wants them: who offers what, who is there, and what the copy of a launcher pod will
//! ask for. Reads only. Decides nothing.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::cluster::brief::{BriefNode, PlacedContainer, PlacedPod};
use crate::cluster::crd::kubevirt::{LAUNCHER_SELECTOR, VirtualMachineInstance};
use crate::cluster::nodes::{self, is_cordoned, is_ready, is_witness};
use crate::cluster::vms::key_of;
use crate::cluster::{ClusterError, ask, each};
use crate::flow::placement::{
    self, Closed, Expression, Mover, NodeState, Operator, Place, PodTerm, Resident, Resources, Selector,
    Taint, Term, Toleration,
};
use crate::flow::quantity::thousandths;
use crate::flow::vms::VmKey;

/// virt-handler sets it to true when it serves its node, and to false when it goes.
const SCHEDULABLE_LABEL: &str = "kubevirt.io/schedulable";
/// Label of a node: the CPU model that `host-model` means there.
const HOST_MODEL: &str = "host-model-cpu.node.kubevirt.io/";
/// Label of a node: a CPU feature that its `host-model` guests need wherever they go.
const HOST_FEATURE: &str = "host-model-required-features.node.kubevirt.io/";
/// Label of a node: guests of this CPU model may be moved there.
const CPU_MODEL: &str = "cpu-model-migration.node.kubevirt.io/";
/// Label of a node: its CPU has this feature.
const CPU_FEATURE: &str = "cpu-feature.node.kubevirt.io/";
/// Keeps the peak small on clusters of a thousand nodes.
pub(super) const PAGE: u32 = 50;

/// Some of the nodes that may take VMs, without their pods, from where `from` says; and where the next ones begin. Witness
/// nodes never take one; the node `leaving` is closed.
///
/// # Errors
/// [`ClusterError`].
pub async fn page(
    client: &Client,
    leaving: &str,
    from: Option<&str>,
) -> Result<(Vec<Place>, Option<String>), ClusterError> {
    let api: Api<BriefNode> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    params.continue_token = from.map(str::to_owned);
    let page = ask("list nodes", api.list(&params)).await?;
    let places = page.items.iter().filter(|node| !is_witness(node)).map(|node| place(node, leaving));
    Ok((places.collect(), page.metadata.continue_.filter(|token| !token.is_empty())))
}

/// The unfinished pods of one node.
///
/// # Errors
/// [`ClusterError`].
pub async fn pods_on(client: &Client, node: &str) -> Result<Vec<Resident>, ClusterError> {
    let api: Api<PlacedPod> = Api::all(client.clone());
    let params = unfinished_on(node).limit(PAGE * 4);
    let mut pods = Vec::new();
    each(&format!("list the pods of node {node}"), &api, params, |pod| pods.push(resident(pod))).await?;
    Ok(pods)
}

/// These VMs of a node by their running launcher pods, as movers.
///
/// # Errors
/// [`ClusterError`].
pub async fn movers(
    client: &Client,
    node: &str,
    vmis: &[&VirtualMachineInstance],
) -> Result<BTreeMap<VmKey, Mover>, ClusterError> {
    let api: Api<PlacedPod> = Api::all(client.clone());
    let params = unfinished_on(node).labels(LAUNCHER_SELECTOR);
    let pods = ask(format!("list the launcher pods of node {node}"), api.list(&params)).await?;
    // Who runs as its host does can only go where that CPU can be had.
    let host = if vmis.iter().any(|vmi| runs_as_its_host(vmi)) {
        nodes::get(client, node).await?.map(|node| cpu_of_host(node.labels())).unwrap_or_default()
    } else {
        BTreeMap::new()
    };
    let vmis: BTreeMap<VmKey, &VirtualMachineInstance> =
        vmis.iter().map(|vmi| (key_of(*vmi), *vmi)).collect();
    let movers = pods.items.iter().filter_map(|pod| {
        let vm = owner(pod)?;
        let vmi = vmis.get(&vm)?;
        let mut mover = mover(vm.clone(), pod, vmi);
        // One that has been moved before keeps the labels of its first host.
        if runs_as_its_host(vmi) && !mover.node_selector.keys().any(|label| is_of_cpu(label)) {
            mover.node_selector.extend(host.clone());
        }
        Some((vm, mover))
    });
    Ok(movers.collect())
}

/// The pods of a node that still take room there.
fn unfinished_on(node: &str) -> ListParams {
    let fields = format!("spec.nodeName={node},status.phase!=Succeeded,status.phase!=Failed");
    ListParams::default().fields(&fields)
}

fn runs_as_its_host(vmi: &VirtualMachineInstance) -> bool {
    vmi.spec.domain.cpu.model.as_deref() == Some("host-model")
}

fn is_of_cpu(label: &str) -> bool {
    [CPU_MODEL, CPU_FEATURE].iter().any(|prefix| label.starts_with(prefix))
}

/// The labels that a node must have to take a guest whose CPU is this node's: `KubeVirt` writes them into the target's pod
/// when a `host-model` guest is moved for the first time (1.8, `watch/migration`).
fn cpu_of_host(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let wanted = labels.iter().filter(|(_, value)| *value == "true").filter_map(|(label, _)| {
        let model = label.strip_prefix(HOST_MODEL).map(|model| format!("{CPU_MODEL}{model}"));
        model.or_else(|| label.strip_prefix(HOST_FEATURE).map(|feature| format!("{CPU_FEATURE}{feature}")))
    });
    wanted.map(|label| (label, "true".to_owned())).collect()
}

/// The instance that a launcher pod belongs to.
fn owner(pod: &PlacedPod) -> Option<VmKey> {
    let kind = <VirtualMachineInstance as kube::Resource>::kind(&());
    let owner = pod.owner_references().iter().find(|one| one.kind == kind && one.controller == Some(true))?;
    Some(VmKey::new(&pod.namespace().unwrap_or_default(), &owner.name))
}

/// One node, without its pods; none when it is not in the cluster.
///
/// # Errors
/// [`ClusterError`].
pub async fn one(client: &Client, name: &str) -> Result<Option<Place>, ClusterError> {
    Ok(nodes::get(client, name).await?.as_ref().map(|node| place(node, "")))
}

/// The same of a node that a watch shows: open or not, labels, taints and what it offers; without its pods.
#[must_use]
pub fn shown(node: &BriefNode) -> Place {
    place(node, "")
}

fn place(node: &BriefNode, leaving: &str) -> Place {
    let taint = |taint: &core::Taint| Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
        effect: taint.effect.clone(),
    };
    let kept_out = |taint: &&core::Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let state = NodeState {
        ready: is_ready(node),
        cordoned: is_cordoned(node),
        virt_handler: node.labels().get(SCHEDULABLE_LABEL).is_some_and(|value| value == "true"),
        taints: node.spec.taints.iter().filter(kept_out).map(taint).collect(),
    };
    let name = node.name_any();
    Place {
        closed: if name == leaving { Some(Closed::Leaving) } else { placement::closed(&state) },
        labels: node.labels().clone(),
        taints: placement::other_taints(state),
        allocatable: resources(Some(&node.status.allocatable)),
        pods: Vec::new(),
        name,
    }
}

/// A quantity that cannot be read offers nothing.
fn resources(all: Option<&BTreeMap<String, Quantity>>) -> Resources {
    let read = |(name, amount): (&String, &Quantity)| (name.clone(), thousandths(&amount.0).unwrap_or(0));
    all.into_iter().flatten().map(read).collect()
}

fn resident(pod: &PlacedPod) -> Resident {
    let apart = pod.spec.affinity.as_ref().and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let apart = apart.and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref());
    Resident {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        labels: pod.labels().clone(),
        asks: asks(pod),
        apart: apart.into_iter().flatten().map(|term| pod_term(pod, term)).collect(),
    }
}

/// What the scheduler counts: all containers together, or the largest of those that run before them, and the overhead.
fn asks(pod: &PlacedPod) -> Resources {
    let spec = &pod.spec;
    let of = |container: &PlacedContainer| {
        let asked = container.resources.as_ref();
        let mut all = resources(asked.and_then(|asked| asked.limits.as_ref()));
        all.extend(resources(asked.and_then(|asked| asked.requests.as_ref())));
        all
    };
    let mut sum = Resources::new();
    let add = |sum: &mut Resources, more: Resources| {
        for (resource, amount) in more {
            let known = sum.entry(resource).or_insert(0);
            *known = known.saturating_add(amount);
        }
    };
    for container in &spec.containers {
        add(&mut sum, of(container));
    }
    let mut before = Resources::new();
    for container in spec.init_containers.iter().flatten() {
        // A sidecar goes on running beside the others.
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, of(container));
        } else {
            for (resource, amount) in of(container) {
                let known = before.entry(resource).or_insert(0);
                *known = (*known).max(amount);
            }
        }
    }
    for (resource, amount) in before {
        let known = sum.entry(resource).or_insert(0);
        *known = (*known).max(amount);
    }
    add(&mut sum, resources(spec.overhead.as_ref()));
    sum.insert("pods".to_owned(), 1000);
    sum
}

/// `KubeVirt` makes the copy from the instance: labels that the present pod had to find because somebody chose its node
/// (`addedNodeSelector` of the migration that brought it) do not bind the next one.
fn mover(vm: VmKey, pod: &PlacedPod, vmi: &VirtualMachineInstance) -> Mover {
    let spec = &pod.spec;
    let of_kubevirt = |key: &str| {
        let domain = key.split('/').next().unwrap_or_default();
        // For CPUs of its own the label has no domain.
        matches!(key, "kubernetes.io/arch" | "cpumanager")
            || domain == "kubevirt.io"
            || domain.ends_with(".kubevirt.io")
    };
    let mut node_selector = spec.node_selector.clone().unwrap_or_default();
    node_selector.retain(|key, _| of_kubevirt(key) || vmi.spec.node_selector.contains_key(key));
    let affinity = spec.affinity.as_ref();
    let nodes = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
    let nodes = nodes.and_then(|all| all.required_during_scheduling_ignored_during_execution.as_ref());
    let together = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
    let together = together.and_then(|all| all.required_during_scheduling_ignored_during_execution.as_ref());
    Mover {
        vm,
        pod: resident(pod),
        node_selector,
        node_terms: nodes
            .map(|nodes| nodes.node_selector_terms.iter().map(term).collect())
            .unwrap_or_default(),
        tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
        together: together.into_iter().flatten().map(|term| pod_term(pod, term)).collect(),
        preempts: spec.priority.is_some_and(|priority| priority > 0)
            && spec.preemption_policy.as_deref() != Some("Never"),
    }
}

fn toleration(toleration: &core::Toleration) -> Toleration {
    Toleration {
        key: toleration.key.clone().unwrap_or_default(),
        exists: toleration.operator.as_deref() == Some("Exists"),
        value: toleration.value.clone().unwrap_or_default(),
        effect: toleration.effect.clone().unwrap_or_default(),
    }
}

pub(super) fn term(term: &core::NodeSelectorTerm) -> Term {
    let expression =
        |one: &core::NodeSelectorRequirement| expression(&one.key, &one.operator, one.values.as_deref());
    Term {
        labels: term.match_expressions.iter().flatten().map(expression).collect(),
        fields: term.match_fields.iter().flatten().map(expression).collect(),
    }
}

fn pod_term(pod: &PlacedPod, term: &core::PodAffinityTerm) -> PodTerm {
    // Namespaces by selector are not read: the term then counts in every namespace, which is the careful way for "apart".
    let everywhere = term.namespace_selector.is_some();
    let named = term.namespaces.clone().unwrap_or_default();
    let own = || vec![pod.namespace().unwrap_or_default()];
    PodTerm {
        selector: term.label_selector.as_ref().map(selector),
        namespaces: if everywhere {
            Vec::new()
        } else if named.is_empty() {
            own()
        } else {
            named
        },
        topology: term.topology_key.clone(),
    }
}

fn selector(selector: &LabelSelector) -> Selector {
    let equal = selector.match_labels.iter().flatten();
    let equal = equal.map(|(key, value)| expression(key, "In", Some(std::slice::from_ref(value))));
    let more = selector.match_expressions.iter().flatten();
    let more = more.map(|one| expression(&one.key, &one.operator, one.values.as_deref()));
    Selector(equal.chain(more).collect())
}

fn expression(key: &str, operator: &str, values: Option<&[String]>) -> Expression {
    let operator = match operator {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::Gt,
        "Lt" => Operator::Lt,
        _ => Operator::Unknown,
    };
    Expression { key: key.to_owned(), operator, values: values.unwrap_or_default().to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_runs_as_its_host_needs_that_hosts_cpu_elsewhere() {
        let labels = [
            ("host-model-cpu.node.kubevirt.io/SierraForest", "true"),
            ("host-model-required-features.node.kubevirt.io/vme", "true"),
            ("cpu-feature.node.kubevirt.io/fpu", "true"),
            ("cpu-model-migration.node.kubevirt.io/Penryn", "true"),
        ];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        let wanted: Vec<String> = cpu_of_host(&labels).into_keys().collect();
        assert_eq!(
            wanted,
            ["cpu-feature.node.kubevirt.io/vme", "cpu-model-migration.node.kubevirt.io/SierraForest"]
        );
        assert!(wanted.iter().all(|label| is_of_cpu(label)) && !is_of_cpu("kubevirt.io/schedulable"));
    }
}

//! Checks of the node object and the cluster: identity, health, leftovers of earlier maintenance, rights, `KubeVirt`.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::Api;

use crate::agent::checks::{Check, Preflight};
use crate::agent::placement::Surroundings;
use crate::cluster::beside::{self, Beside};
use crate::cluster::brief::BriefNode;
use crate::cluster::crd::upgrade::Upgrade;
use crate::cluster::nodes::{self, OWNER_ANNOTATION};
use crate::cluster::{Cluster, ClusterError, access, ask_opt, vm_facts, vms};
use crate::flow::classify::classify;
use crate::flow::plan::{MigrationFailure, NodePlan, Role};
use crate::flow::skew;
use crate::flow::vms::{Verdict, VmKey};
use crate::flow::way_back::WayBack;
use crate::host::fs::FsError;

/// Marks of Harvester's maintenance mode (reference `harvester-upgrade.md` §6.1).
const MAINTENANCE: [&str; 3] =
    [nodes::MAINTENANCE, "harvesterhci.io/drain-requested", "harvesterhci.io/drain-forced"];

pub(super) async fn check(
    preflight: &mut Preflight,
    cluster: &Cluster,
    plan: &NodePlan,
    machine_id: Result<Option<Vec<u8>>, FsError>,
) {
    preflight.checks.push(rights(cluster).await);
    preflight.checks.push(upgrade(cluster, plan).await);
    match nodes::get(&cluster.client, &plan.node_name).await {
        Err(error) => preflight.checks.push(Check::unknown("node", "node", &error)),
        Ok(None) => preflight.checks.push(Check::fail(
            "node",
            "node",
            format!("the cluster has no node {}", plan.node_name),
            "correct nodeName in the plan; `kubectl get nodes` lists them",
        )),
        Ok(Some(node)) => {
            let version = nodes::kubelet_version(&node).unwrap_or("no version");
            let why = format!("{} is there, kubelet {version}", plan.node_name);
            preflight.checks.push(Check::pass("node", "node", why));
            preflight.checks.push(identity(&node, machine_id));
            preflight.checks.push(ready(&node));
            preflight.checks.push(leftovers(&node, plan));
            preflight.checks.push(drain(cluster, &node).await);
        }
    }
    servers(preflight, cluster, plan).await;
    preflight.checks.push(kubevirt(cluster).await);
    machines(preflight, cluster, plan).await;
}

async fn rights(cluster: &Cluster) -> Check {
    const NAME: &str = "rights";
    match access::missing(&cluster.client, &cluster.namespace).await {
        Ok(missing) if missing.is_empty() => Check::pass(NAME, "cluster", "all that a run needs"),
        Ok(missing) => {
            let names: Vec<String> = missing.iter().map(access::Right::text).collect();
            let why = format!("the API server refuses (403): {}", names.join(", "));
            Check::fail(
                NAME,
                "cluster",
                why,
                "apply manifests/rbac.yaml, or use a kubeconfig that may do this",
            )
        }
        Err(error) => Check::unknown(NAME, "cluster", &error),
    }
}

async fn upgrade(cluster: &Cluster, plan: &NodePlan) -> Check {
    const NAME: &str = "upgrade object";
    let api: Api<Upgrade> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let name = &plan.upgrade_name;
    match ask_opt(format!("read Upgrade {name}"), api.get(name)).await {
        Ok(Some(found)) if found.uid().as_deref() == Some(&plan.upgrade_uid) => {
            Check::pass(NAME, "cluster", format!("{name}, uid {}", plan.upgrade_uid))
        }
        Ok(Some(found)) => Check::fail(
            NAME,
            "cluster",
            format!(
                "Upgrade {name} has uid {}, the plan is for {}",
                found.uid().unwrap_or_default(),
                plan.upgrade_uid
            ),
            "make a new plan for the present Upgrade",
        ),
        Ok(None) => Check::fail(
            NAME,
            "cluster",
            format!("there is no Upgrade {name} in {}", cluster.namespace),
            "create it first, or correct upgradeName in the plan",
        ),
        Err(error) => Check::unknown(NAME, "cluster", &error),
    }
}

/// A plan run on the wrong machine would drain one node and swap the binary of another.
fn identity(node: &BriefNode, machine_id: Result<Option<Vec<u8>>, FsError>) -> Check {
    const NAME: &str = "identity";
    let here = match machine_id {
        Ok(bytes) => String::from_utf8_lossy(&bytes.unwrap_or_default()).trim().to_owned(),
        Err(error) => return Check::unknown(NAME, "machine", &error),
    };
    let reported = node.status.node_info.as_ref().map(|info| info.machine_id.as_str()).unwrap_or_default();
    let name = node.name_any();
    if !here.is_empty() && here == reported {
        Check::pass(NAME, "machine", format!("this machine is {name}"))
    } else {
        let why = format!("this machine's /etc/machine-id is `{here}`, node {name} reports `{reported}`");
        Check::fail(
            NAME,
            "machine",
            why,
            "run it on the machine of that node, or correct nodeName or --host-root",
        )
    }
}

fn ready(node: &BriefNode) -> Check {
    const NAME: &str = "node ready";
    if nodes::is_ready(node) {
        Check::pass(NAME, "node", "Ready")
    } else {
        let fix = "mend the node first; `kubectl describe node` says what is wrong";
        Check::fail(NAME, "node", format!("{} is not Ready", node.name_any()), fix)
    }
}

fn leftovers(node: &BriefNode, plan: &NodePlan) -> Check {
    const NAME: &str = "stale marks";
    let name = node.name_any();
    if let Some(owner) = node.annotations().get(OWNER_ANNOTATION) {
        let (why, first) = if *owner == plan.upgrade_uid {
            // After a lost journal they must not be taken for the operator's.
            let why = format!("{name} carries marks of this very upgrade, from a run whose journal is gone");
            (why, "")
        } else {
            let first = "finish or cancel that upgrade; where it is gone: ";
            (format!("{name} carries marks of upgrade {owner}"), first)
        };
        let fix = format!("{first}{}", nodes::unmark_commands(node));
        return Check::fail(NAME, "node", why, fix);
    }
    let stale: Vec<&str> =
        MAINTENANCE.into_iter().filter(|key| node.annotations().contains_key(*key)).collect();
    if !stale.is_empty() {
        let fix =
            format!("disable maintenance mode of {name}, or remove the annotations if it is a leftover");
        return Check::fail(
            NAME,
            "node",
            format!("{name} is marked for maintenance: {}", stale.join(", ")),
            fix,
        );
    }
    let left: Vec<String> = nodes::upgrade_taints(node)
        .map(|taint| format!("{}={}", taint.key, taint.value.as_deref().unwrap_or_default()))
        .collect();
    if !left.is_empty() {
        let why = format!("{name} is tainted {}", left.join(" "));
        return Check::fail(NAME, "node", why, nodes::unmark_commands(node));
    }
    Check::pass(NAME, "node", "none")
}

/// What becomes of the pods that are no VMs.
async fn drain(cluster: &Cluster, node: &BriefNode) -> Check {
    const NAME: &str = "drain";
    let name = node.name_any();
    match beside::look(&cluster.client, &name).await {
        Ok(beside) => match (beside.objection(&name), beside) {
            (Some((why, fix)), _) => Check::fail(NAME, "cluster", why, fix),
            (None, Beside::Open(other)) => Check::pass(
                NAME,
                "cluster",
                format!("there are nodes that take the other pods, {other} among them"),
            ),
            (None, Beside::InUpgrade { .. } | Beside::Nobody) => {
                let why = "no other node takes pods: a taint closes this one instead of a cordon, and all but its VMs stay";
                Check::pass(NAME, "cluster", why)
            }
        },
        Err(error) => Check::unknown(NAME, "cluster", &error),
    }
}

async fn kubevirt(cluster: &Cluster) -> Check {
    const NAME: &str = "virt-api";
    match vms::healthz(&cluster.client).await {
        Ok(()) => Check::pass(NAME, "cluster", "answers"),
        Err(error) => Check::unknown(NAME, "cluster", &error),
    }
}

/// Whether this version may come to this node, whether etcd can spare its member, and whether there is a way back.
async fn servers(preflight: &mut Preflight, cluster: &Cluster, plan: &NodePlan) {
    const VERSIONS: &str = "version skew";
    let Some(role) = preflight.found.as_ref().map(|found| found.role).or(plan.role) else {
        return;
    };
    let others = match nodes::other_servers(&cluster.client, &plan.node_name).await {
        Ok(others) => others,
        Err(error) => return preflight.checks.push(Check::unknown(VERSIONS, "cluster", &error)),
    };
    // An agent brings no API server.
    let kubelets = match role {
        Role::Server => nodes::other_kubelets(&cluster.client, &plan.node_name).await,
        Role::Agent => Ok(Vec::new()),
    };
    let kubelets = match kubelets {
        Ok(kubelets) => kubelets,
        Err(error) => return preflight.checks.push(Check::unknown(VERSIONS, "cluster", &error)),
    };
    let objection = skew::objection(role, &plan.rke2, &others);
    preflight.checks.push(match objection.or_else(|| skew::left_behind(&plan.rke2.to, &kubelets)) {
        Some(objection) => Check::fail(VERSIONS, "cluster", objection.why, objection.fix),
        None => Check::pass(VERSIONS, "cluster", format!("{} may follow {}", plan.rke2.to, plan.rke2.from)),
    });
    if role == Role::Server {
        let unfit = skew::unfit(&others);
        preflight.checks.push(if !unfit.is_empty() {
            let fix = "mend them first: etcd loses its quorum when this member is away as well";
            Check::fail("etcd quorum", "cluster", unfit.join("; "), fix)
        } else if others.len() < 2 {
            let why = format!("{} servers: the API is away while RKE2 restarts", others.len() + 1);
            Check::pass("etcd quorum", "cluster", why)
        } else {
            let why = format!("{} other servers can spare this one", others.len());
            Check::pass("etcd quorum", "cluster", why)
        });
    }
    let way_back = WayBack::of(role, &plan.rke2).beside(&others).to_string();
    preflight.checks.push(Check::pass("way back", "machine", way_back));
}

/// Whether every VM has a way out, and whether those that are to move fit elsewhere.
async fn machines(preflight: &mut Preflight, cluster: &Cluster, plan: &NodePlan) {
    const WAYS_OUT: &str = "virtual machines";
    const PLACEMENT: &str = "placement";
    let (mut surroundings, verdicts) = match verdicts(cluster, plan).await {
        Ok(read) => read,
        Err(error) => return preflight.checks.push(Check::unknown(WAYS_OUT, "node", &error)),
    };
    let held = verdicts.iter().filter_map(|(vm, verdict)| match verdict {
        Verdict::Hold { why } => Some(format!("{vm}: {why}")),
        Verdict::Migrate | Verdict::ShutDown { .. } | Verdict::Leaving => None,
    });
    let held: Vec<String> = held.collect();
    preflight.checks.push(if held.is_empty() {
        Check::pass(WAYS_OUT, "node", format!("{}, each with a way out", verdicts.len()))
    } else {
        Check::fail(WAYS_OUT, "node", held.join("; "), "deal with each as its reason says")
    });
    let moves = |vm: &VmKey| verdicts.get(vm) == Some(&Verdict::Migrate);
    preflight.checks.push(match surroundings.prove(moves).await {
        Err(error) => Check::unknown(PLACEMENT, "cluster", &error),
        Ok(proof) if proof.unplaced.is_empty() => {
            let why =
                format!("{} to live-migrate, room elsewhere for all of them at once", proof.placed.len());
            Check::pass(PLACEMENT, "cluster", why)
        }
        Ok(proof) if plan.evacuation.on_migration_failure == MigrationFailure::ShutdownAndRestore => {
            let names: Vec<String> = proof.unplaced.iter().map(|one| one.vm.to_string()).collect();
            let why = format!("no room elsewhere for {}, which the plan then shuts down", names.join(", "));
            Check::pass(PLACEMENT, "cluster", why)
        }
        Ok(proof) => {
            let why = proof.unplaced.iter().map(|one| format!("{} fits nowhere: {}", one.vm, one.reasons()));
            let fix = proof.unplaced.iter().map(|one| match one.smallest_change() {
                Some(change) => format!("for {}: {change}", one.vm),
                None => format!("for {}: change what it asks for, or stop it by hand", one.vm),
            });
            let together = |all: Vec<String>| all.join("; ");
            Check::fail(PLACEMENT, "cluster", together(why.collect()), together(fix.collect()))
        }
    });
}

async fn verdicts(
    cluster: &Cluster,
    plan: &NodePlan,
) -> Result<(Surroundings, BTreeMap<VmKey, Verdict>), ClusterError> {
    let instances = vms::instances_on(&cluster.client, &plan.node_name).await?;
    let all: Vec<_> = instances.iter().collect();
    let mut surroundings = Surroundings::of(&cluster.client, &plan.node_name, &all).await?;
    let mut verdicts = BTreeMap::new();
    for vmi in &instances {
        let facts = vm_facts::facts(&cluster.client, vmi).await?;
        let elsewhere = surroundings.elsewhere(&facts.vm).await?;
        let verdict = classify(&facts, &plan.evacuation, &elsewhere);
        verdicts.insert(facts.vm, verdict);
    }
    Ok((surroundings, verdicts))
}

//! Where VMs can go, for those that are about to be moved: one look for all of them. A look that fails keeps nobody from being
//! tried: only what is certain does.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::placement::Surroundings;
use crate::agent::run::Run;
use crate::agent::step_error::chain;
use crate::agent::steps::pre_drain_world::World;
use crate::cluster::ClusterError;
use crate::flow::evacuate::Target;
use crate::flow::vms::VmKey;

/// Looks where these can go and what each may not be sent to again, and puts the answer into the world.
pub(super) async fn look(run: &Run, world: &mut World, movers: &BTreeMap<VmKey, BTreeSet<String>>) {
    let instances: Vec<_> = movers.keys().filter_map(|vm| world.instances.get(vm)).collect();
    let found = async {
        let mut around = Surroundings::of(&run.cluster.client, &run.plan.node_name, &instances).await?;
        Ok::<_, ClusterError>((around.targets(movers).await?, around.nodes_read()))
    };
    let (mut targets, nodes_read) = found.await.unwrap_or_else(|error| {
        let error = chain(&error);
        tracing::info!(error, "it is not known which node has room; KubeVirt decides");
        (BTreeMap::new(), 0)
    });
    for vm in movers.keys() {
        targets.entry(vm.clone()).or_insert(Target::Unknown);
    }
    world.seen.looked = Some(run.now());
    world.seen.nodes_read = nodes_read;
    if world.seen.targets != targets {
        world.seen.targets = targets;
        world.changes += 1;
    }
}

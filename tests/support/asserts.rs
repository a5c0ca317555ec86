//! What has to be true after an upgrade, whoever ran it.

#![expect(unreachable_pub, reason = "one module for several programs")]

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject};
use upgrade_agent::cluster::brief::BriefNode;
use upgrade_agent::cluster::nodes;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::sim::{Timing, world};

use crate::support::{NAMESPACE, NODE, Stage, TO, UPGRADE};

/// The VMs that cannot move.
pub const PASSTHROUGH: [&str; 3] = ["pci-1", "pci-2", "vgpu-1"];

/// The agent's own binary; `UPGRADE_AGENT_BIN` names another build of it, for measuring.
pub fn agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    let built = || env!("CARGO_BIN_EXE_upgrade-agent").into();
    AGENT.get_or_init(|| std::env::var_os("UPGRADE_AGENT_BIN").map_or_else(built, PathBuf::from))
}

/// Guests take seconds, not fractions, so that a kill lands in the middle.
pub fn unhurried(start: Timestamp) -> Timing {
    Timing { scale: 4.0, ..Timing::fast(start) }
}

/// The stage, set in silence.
pub async fn stage(timing: fn(Timestamp) -> Timing) -> Stage {
    Stage::set(timing, |_| {}).await.unwrap()
}

/// All that a command printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// uid and node of each running VM.
pub type Instances = std::collections::BTreeMap<VmKey, (String, String)>;

/// Five moved without a stop, three stopped by their guests and running again, and every mark is gone.
pub async fn assert_upgraded(stage: &Stage, before: &Instances) {
    let after = stage.instances().await.unwrap();
    assert_eq!(after.len(), 8, "all eight VMs run: {after:?}");
    for (vm, (uid, node)) in &after {
        let (uid_before, _) = &before[vm];
        if PASSTHROUGH.contains(&vm.name.as_str()) {
            assert_ne!(uid, uid_before, "{vm} was shut down and started again");
            assert_eq!(node, NODE, "{vm} runs where its device is");
        } else {
            assert_eq!(uid, uid_before, "{vm} never stopped");
            assert_ne!(node, NODE, "{vm} moved");
        }
    }
    let node: BriefNode = Api::all(stage.client.clone()).get(NODE).await.unwrap();
    assert_eq!(nodes::kubelet_version(&node), Some(TO));
    assert!(!nodes::is_closed(&node) && nodes::drain_taint(&node).is_none(), "cordon and taint are gone");
    assert!(!node.annotations().contains_key(nodes::OWNER_ANNOTATION));
    assert_eq!(stage.live_sha256().await.unwrap(), stage.new_sha256);
    let drop_ins =
        stage.machine.must_run(&["systemctl", "show", "-P", "DropInPaths", "rke2-server"]).await.unwrap();
    assert!(!drop_ins.contains("upgrade-agent"), "the fence is gone: {drop_ins}");
    assert_eq!(stage.records("swapped"), 1, "one swap");
    for vm in PASSTHROUGH {
        assert_eq!(stage.accepted("update", &format!("/{vm}/stop")), 1, "{vm} was stopped once");
    }
    assert_eq!(stage.accepted("update", "/stop"), PASSTHROUGH.len(), "nobody else was stopped");
}

/// The cluster's objects say so too.
pub async fn assert_reported(stage: &Stage) {
    let order = stage.orders().get(&format!("{UPGRADE}-{NODE}")).await.unwrap();
    let status = order.status.expect("the NodeUpgrade has a status");
    assert_eq!(status.phase, "Succeeded");
    assert_eq!((status.vms.total, status.vms.migrated, status.vms.shut_down), (8, 5, 3));
    assert_eq!((status.vms.restored, status.vms.owed, status.vms.left_on_node), (3, 0, 0));
    let upgrades: Api<DynamicObject> =
        Api::namespaced_with(stage.client.clone(), NAMESPACE, &world::upgrade_resource());
    let upgrade = upgrades.get(UPGRADE).await.unwrap();
    assert_eq!(upgrade.data["status"]["nodeStatuses"][NODE]["state"], "Succeeded");
    assert_eq!(upgrade.data["status"]["nodeStatuses"][NODE]["message"], "");
}

//! The table of shapes, in three parts. What `KubeVirt` itself takes for movable is one shape here, be it without an eviction
//! strategy, with a node selector that others meet, container disks, a CD-ROM, a persistent TPM or virtiofs.

mod left_alone;
mod movable;
mod stuck;

use crate::flow::classify::{Elsewhere, Guest, LiveMigratable, VmFacts};
use crate::flow::vms::VmKey;

/// A plain VM: its disks can be shared, and another node is open.
pub(super) fn facts() -> VmFacts {
    VmFacts {
        vm: VmKey::new("default", "db"),
        vm_uid: Some("u".into()),
        vmi_uid: "i".into(),
        run_strategy: Some("Always".into()),
        guest: Guest::Running,
        live_migratable: LiveMigratable::Yes,
        devices: vec![],
        hugepages: None,
        dedicated_cpus: false,
        device_claims: vec![],
        grace_seconds: Some(120),
        moved_by_others: false,
        moving_volumes: false,
        stop_refused: None,
        serves_upgrade: false,
        guest_cluster: None,
        shutdown_order: 0,
    }
}

/// A shape.
pub(super) struct Shape {
    pub(super) what: &'static str,
    /// How it differs from a plain VM.
    pub(super) differs: fn(&mut VmFacts, &mut Elsewhere),
    /// How the verdict and its reason begin.
    pub(super) verdict: &'static str,
    /// What evacuation does first: migrates, stops, waits or holds.
    pub(super) action: &'static str,
    /// What its start waits for; `-` where none is owed.
    pub(super) needs: &'static str,
}

const fn shape(
    what: &'static str,
    differs: fn(&mut VmFacts, &mut Elsewhere),
    verdict: &'static str,
    action: &'static str,
    needs: &'static str,
) -> Shape {
    Shape { what, differs, verdict, action, needs }
}

/// What every start waits for.
const PLAIN: &str = "node, kvm, volumes";

fn cannot(reason: &str) -> LiveMigratable {
    LiveMigratable::No { reason: format!("it cannot live-migrate: {reason}") }
}

fn holds(vm: &mut VmFacts, devices: &[&str]) {
    vm.devices = devices.iter().map(|&device| device.to_owned()).collect();
    vm.live_migratable = cannot("HostDeviceNotLiveMigratable");
}

fn nowhere_else() -> Elsewhere {
    Elsewhere::Never { why: "node2 has no label gpu=yes".into() }
}

fn closed() -> Elsewhere {
    Elsewhere::Closed { why: "node2 is cordoned".into() }
}

/// All of it.
pub(super) fn all() -> impl Iterator<Item = &'static Shape> {
    movable::MOVABLE.iter().chain(&stuck::STUCK).chain(&left_alone::LEFT_ALONE)
}

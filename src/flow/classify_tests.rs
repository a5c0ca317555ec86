//! Shapes of VMs, each with its verdict.

use super::*;

fn facts() -> VmFacts {
    VmFacts {
        vm: VmKey::new("default", "db"),
        vm_uid: Some("u".into()),
        vmi_uid: "i".into(),
        run_strategy: Some("Always".into()),
        guest: Guest::Running,
        live_migratable: LiveMigratable::Yes,
        devices: vec![],
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

fn said(facts: &VmFacts, policy: &Evacuation, elsewhere: &Elsewhere) -> String {
    match classify(facts, policy, elsewhere) {
        Verdict::Migrate => "migrate".to_owned(),
        Verdict::Leaving => "leaving".to_owned(),
        Verdict::ShutDown { why } => format!("shut down: {why}"),
        Verdict::Hold { why } => format!("hold: {why}"),
    }
}

/// A shape: what it is, how it differs from a plain VM, and what is to happen to it where another node is open.
type Shape = (&'static str, fn(&mut VmFacts), &'static str);

fn no(reason: &str) -> LiveMigratable {
    LiveMigratable::No { reason: format!("it cannot live-migrate: {reason}") }
}

const SHAPES: [Shape; 36] = [
    ("plain", |_| {}, "migrate"),
    ("PCI device", |vm| vm.devices = vec!["intel.com/X550".into()], "shut down: it holds intel.com/X550"),
    ("vGPU", |vm| vm.devices = vec!["nvidia.com/A16-4Q".into()], "shut down: it holds nvidia.com/A16-4Q"),
    (
        "USB stick",
        |vm| vm.devices = vec!["kubevirt.io/node1-0951-1666-001002".into()],
        "shut down: it holds kubevirt.io/",
    ),
    (
        "SR-IOV function",
        |vm| vm.devices = vec!["intel.com/XL710_VF".into()],
        "shut down: it holds intel.com/XL710_VF",
    ),
    ("two devices", |vm| vm.devices = vec!["a/b".into(), "c/d".into()], "shut down: it holds a/b, c/d"),
    (
        "device that KubeVirt calls migratable",
        |vm| vm.devices = vec!["a/b".into()],
        "shut down: it holds a/b",
    ),
    (
        "device from a claim",
        |vm| vm.device_claims = vec!["gpu".into()],
        "hold: its device comes from resource claim gpu",
    ),
    (
        "host device, by the condition alone",
        |vm| vm.live_migratable = no("HostDeviceNotLiveMigratable"),
        "shut down: it cannot live-migrate: HostDevice",
    ),
    (
        "local disk",
        |vm| vm.live_migratable = no("DisksNotLiveMigratable"),
        "shut down: it cannot live-migrate: DisksNot",
    ),
    (
        "bridge on the pod network",
        |vm| vm.live_migratable = no("InterfaceNotLiveMigratable"),
        "shut down: it cannot live-migrate: Interface",
    ),
    (
        "host model unknown",
        |vm| vm.live_migratable = no("CPUModeLiveMigratable"),
        "shut down: it cannot live-migrate: CPUMode",
    ),
    ("SEV", |vm| vm.live_migratable = no("SEVNotLiveMigratable"), "shut down: it cannot live-migrate: SEV"),
    ("TDX", |vm| vm.live_migratable = no("TDXNotLiveMigratable"), "shut down: it cannot live-migrate: TDX"),
    (
        "secure execution",
        |vm| vm.live_migratable = no("SecureExecutionNotLiveMigratable"),
        "shut down: it cannot live-migrate: Secure",
    ),
    (
        "SCSI reservation",
        |vm| vm.live_migratable = no("PersistentReservationNotLiveMigratable"),
        "shut down: it cannot live-migrate: Persistent",
    ),
    (
        "TSC frequency",
        |vm| vm.live_migratable = no("NoTSCFrequencyNotLiveMigratable"),
        "shut down: it cannot live-migrate: NoTSC",
    ),
    (
        "HyperV passthrough",
        |vm| vm.live_migratable = no("HypervPassthroughNotLiveMigratable"),
        "shut down: it cannot live-migrate: Hyperv",
    ),
    (
        "hotplugged disk",
        |vm| vm.live_migratable = no("HotplugNotLiveMigratable"),
        "shut down: it cannot live-migrate: Hotplug",
    ),
    (
        "virtiofs",
        |vm| vm.live_migratable = no("VirtIOFSNotLiveMigratable"),
        "shut down: it cannot live-migrate: VirtIOFS",
    ),
    (
        "synchronized across clusters",
        |vm| vm.live_migratable = no("DecentralizedNotLiveMigratable"),
        "shut down: it cannot live-migrate: Decent",
    ),
    (
        "a reason of a later version",
        |vm| vm.live_migratable = no("SomethingNew"),
        "shut down: it cannot live-migrate: SomethingNew",
    ),
    ("no condition", |vm| vm.live_migratable = LiveMigratable::NotSaid, "hold: KubeVirt does not say"),
    (
        "paused by its user",
        |vm| vm.guest = Guest::Paused,
        "hold: its guest is paused and would lose its state",
    ),
    (
        "paused, with a device",
        |vm| {
            vm.guest = Guest::Paused;
            vm.devices = vec!["a/b".into()];
        },
        "hold: its guest is paused",
    ),
    (
        "paused by failed storage",
        |vm| vm.guest = Guest::StorageFailed,
        "hold: its guest is paused because its storage failed",
    ),
    (
        "scheduling",
        |vm| vm.guest = Guest::Starting { phase: "Scheduling".into() },
        "hold: it is only just starting (Scheduling)",
    ),
    (
        "a phase of a later version",
        |vm| vm.guest = Guest::Unknown { phase: "Frozen".into() },
        "hold: its phase is `Frozen`",
    ),
    ("terminating", |vm| vm.guest = Guest::Deleting, "leaving"),
    ("ended, its object still there", |vm| vm.guest = Guest::Ended, "leaving"),
    ("instance without a VM", |vm| vm.vm_uid = None, "hold: it is an instance without a VirtualMachine"),
    ("moved by another controller", |vm| vm.moved_by_others = true, "hold: its evictionStrategy is External"),
    ("disks being moved", |vm| vm.moving_volumes = true, "hold: its disks are being moved"),
    ("migratable, snapshot under way", |vm| vm.stop_refused = Some("its snapshot".into()), "migrate"),
    (
        "device, snapshot under way",
        |vm| {
            vm.devices = vec!["a/b".into()];
            vm.stop_refused = Some("its snapshot s".into());
        },
        "hold: it holds a/b, and cannot be stopped now: its snapshot s",
    ),
    (
        "node of a guest cluster, local disk",
        |vm| {
            vm.guest_cluster = Some("prod".into());
            vm.live_migratable = no("Disks");
        },
        "shut down: it cannot live-migrate: Disks; it is a node of guest cluster prod",
    ),
];

#[test]
fn shapes_and_their_verdicts() {
    for (what, differs, expected) in SHAPES {
        let mut facts = facts();
        differs(&mut facts);
        let said = said(&facts, &Evacuation::default(), &Elsewhere::Open);
        assert!(said.starts_with(expected), "{what}: {said}");
    }
}

#[test]
fn nobody_is_shut_down_where_the_plan_says_hold() {
    let policy = Evacuation { non_migratable: NonMigratable::Hold, ..Evacuation::default() };
    for (what, differs, expected) in SHAPES {
        let mut facts = facts();
        differs(&mut facts);
        for elsewhere in [Elsewhere::Open, Elsewhere::Alone, Elsewhere::Never { why: "x".into() }] {
            let said = said(&facts, &policy, &elsewhere);
            assert!(!said.starts_with("shut down"), "{what}: {said}");
            assert_eq!(said == "leaving", expected == "leaving", "{what}: {said}");
        }
    }
}

#[test]
fn whom_the_plan_excludes_is_never_touched() {
    let policy = Evacuation { exclude: [VmKey::new("default", "db")].into(), ..Evacuation::default() };
    for (what, differs, expected) in SHAPES {
        let mut facts = facts();
        differs(&mut facts);
        let said = said(&facts, &policy, &Elsewhere::Open);
        let wanted = if expected == "leaving" { "leaving" } else { "hold: the plan excludes" };
        assert!(said.starts_with(wanted), "{what}: {said}");
    }
}

#[test]
fn what_the_other_nodes_are_decides_for_those_that_can_move() {
    let closed = Elsewhere::Closed { why: "node2 is cordoned".into() };
    let never = Elsewhere::Never { why: "node2 has no label gpu=yes".into() };
    for (elsewhere, expected) in [
        (Elsewhere::Open, "migrate"),
        (closed, "hold: it can live-migrate, but no node that could take it is open now (node2 is cordoned)"),
        (never, "shut down: no other node can take it (node2 has no label gpu=yes)"),
        (Elsewhere::Alone, "shut down: there is no other node"),
    ] {
        let said = said(&facts(), &Evacuation::default(), &elsewhere);
        assert!(said.starts_with(expected), "{said}");
    }
}

#[test]
fn the_server_of_an_upgrades_images_is_not_started_again() {
    let mut serves = facts();
    serves.serves_upgrade = true;
    let entry = enter(&serves, &Evacuation::default(), &Elsewhere::Alone);
    assert!(entry.left_off && matches!(entry.verdict, Verdict::ShutDown { .. }));
    assert!(!enter(&facts(), &Evacuation::default(), &Elsewhere::Alone).left_off);
}

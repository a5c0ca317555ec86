//! Those that hold a device, or of which `KubeVirt` says that they cannot move.

use super::{PLAIN, Shape, cannot, closed, holds, shape};
use crate::flow::classify::{Elsewhere, LiveMigratable};

pub(super) const STUCK: [Shape; 30] = [
    // Those that hold a device.
    shape(
        "PCI device",
        |vm, _| holds(vm, &["intel.com/X550"]),
        "shut down: it holds intel.com/X550",
        "stops",
        "node, kvm, 1 intel.com/X550, intel.com/X550 permitted, volumes",
    ),
    shape(
        "vGPU",
        |vm, _| holds(vm, &["nvidia.com/A16-4Q"]),
        "shut down: it holds nvidia.com/A16-4Q",
        "stops",
        "node, kvm, 1 nvidia.com/A16-4Q, nvidia.com/A16-4Q permitted, volumes",
    ),
    shape(
        "USB stick",
        |vm, _| holds(vm, &["kubevirt.io/node1-0951-1666-001002"]),
        "shut down: it holds kubevirt.io/",
        "stops",
        "node, kvm, 1 kubevirt.io/node1-0951-1666-001002, kubevirt.io/node1-0951-1666-001002 permitted, volumes",
    ),
    shape(
        "SR-IOV function",
        |vm, _| holds(vm, &["intel.com/XL710_VF"]),
        "shut down: it holds intel.com/XL710_VF",
        "stops",
        "node, kvm, 1 intel.com/XL710_VF, intel.com/XL710_VF permitted, volumes",
    ),
    shape(
        "two of a kind and another",
        |vm, _| holds(vm, &["a/b", "c/d", "a/b"]),
        "shut down: it holds a/b, c/d, a/b",
        "stops",
        "node, kvm, 2 a/b, 1 c/d, a/b permitted, c/d permitted, volumes",
    ),
    shape(
        "device that KubeVirt calls migratable",
        |vm, _| vm.devices = vec!["a/b".into()],
        "shut down: it holds a/b",
        "stops",
        "node, kvm, 1 a/b, a/b permitted, volumes",
    ),
    shape(
        "device, huge pages and CPUs of its own",
        |vm, _| {
            holds(vm, &["a/b"]);
            (vm.hugepages, vm.dedicated_cpus) = (Some("1Gi".into()), true);
        },
        "shut down: it holds a/b",
        "stops",
        "node, kvm, 1 a/b, hugepages-1Gi, cpumanager, a/b permitted, volumes",
    ),
    shape(
        "device, runs once",
        |vm, _| {
            holds(vm, &["a/b"]);
            vm.run_strategy = Some("Once".into());
        },
        "shut down: it holds a/b",
        "stops",
        "node, kvm, 1 a/b, a/b permitted, volumes",
    ),
    shape(
        "device, started by hand",
        |vm, _| {
            holds(vm, &["a/b"]);
            vm.run_strategy = Some("Manual".into());
        },
        "shut down: it holds a/b",
        "stops",
        "node, kvm, 1 a/b, a/b permitted, volumes",
    ),
    shape(
        "device, and no other node",
        |vm, elsewhere| {
            holds(vm, &["a/b"]);
            *elsewhere = Elsewhere::Alone;
        },
        "shut down: it holds a/b",
        "stops",
        "node, kvm, 1 a/b, a/b permitted, volumes",
    ),
    shape(
        "device from a resource claim",
        |vm, _| vm.device_claims = vec!["gpu".into()],
        "hold: its device comes from resource claim gpu",
        "holds",
        "-",
    ),
    shape(
        "device, snapshot under way",
        |vm, _| {
            holds(vm, &["a/b"]);
            vm.stop_refused = Some("its snapshot s".into());
        },
        "hold: it holds a/b, and cannot be stopped now: its snapshot s",
        "holds",
        "-",
    ),
    // Those of which KubeVirt says that they cannot move.
    shape(
        "host device, by the condition alone",
        |vm, _| vm.live_migratable = cannot("HostDeviceNotLiveMigratable"),
        "shut down: it cannot live-migrate: HostDevice",
        "stops",
        PLAIN,
    ),
    shape(
        "local disk, or one of LVM",
        |vm, _| vm.live_migratable = cannot("DisksNotLiveMigratable"),
        "shut down: it cannot live-migrate: DisksNot",
        "stops",
        PLAIN,
    ),
    shape(
        "disk file of the node",
        |vm, _| {
            vm.live_migratable = cannot("DisksNotLiveMigratable cannot migrate VMI with non-shared HostDisk");
        },
        "shut down: it cannot live-migrate: DisksNotLiveMigratable cannot migrate VMI with non-shared HostDisk",
        "stops",
        PLAIN,
    ),
    shape(
        "bridge on the pod network",
        |vm, _| vm.live_migratable = cannot("InterfaceNotLiveMigratable"),
        "shut down: it cannot live-migrate: Interface",
        "stops",
        PLAIN,
    ),
    shape(
        "host model unknown",
        |vm, _| vm.live_migratable = cannot("CPUModeLiveMigratable"),
        "shut down: it cannot live-migrate: CPUMode",
        "stops",
        PLAIN,
    ),
    shape(
        "SEV",
        |vm, _| vm.live_migratable = cannot("SEVNotLiveMigratable"),
        "shut down: it cannot live-migrate: SEV",
        "stops",
        PLAIN,
    ),
    shape(
        "TDX",
        |vm, _| vm.live_migratable = cannot("TDXNotLiveMigratable"),
        "shut down: it cannot live-migrate: TDX",
        "stops",
        PLAIN,
    ),
    shape(
        "secure execution",
        |vm, _| vm.live_migratable = cannot("SecureExecutionNotLiveMigratable"),
        "shut down: it cannot live-migrate: Secure",
        "stops",
        PLAIN,
    ),
    shape(
        "SCSI reservation",
        |vm, _| vm.live_migratable = cannot("PersistentReservationNotLiveMigratable"),
        "shut down: it cannot live-migrate: Persistent",
        "stops",
        PLAIN,
    ),
    shape(
        "TSC frequency",
        |vm, _| vm.live_migratable = cannot("NoTSCFrequencyNotLiveMigratable"),
        "shut down: it cannot live-migrate: NoTSC",
        "stops",
        PLAIN,
    ),
    shape(
        "HyperV passthrough",
        |vm, _| vm.live_migratable = cannot("HypervPassthroughNotLiveMigratable"),
        "shut down: it cannot live-migrate: Hyperv",
        "stops",
        PLAIN,
    ),
    shape(
        "hotplugged disk that cannot be shared",
        |vm, _| vm.live_migratable = cannot("HotplugNotLiveMigratable"),
        "shut down: it cannot live-migrate: Hotplug",
        "stops",
        PLAIN,
    ),
    shape(
        "virtiofs of an old KubeVirt",
        |vm, _| vm.live_migratable = cannot("VirtIOFSNotLiveMigratable"),
        "shut down: it cannot live-migrate: VirtIOFS",
        "stops",
        PLAIN,
    ),
    shape(
        "synchronized across clusters",
        |vm, _| vm.live_migratable = cannot("DecentralizedNotLiveMigratable"),
        "shut down: it cannot live-migrate: Decent",
        "stops",
        PLAIN,
    ),
    shape(
        "a reason of a later version",
        |vm, _| vm.live_migratable = cannot("SomethingNew"),
        "shut down: it cannot live-migrate: SomethingNew",
        "stops",
        PLAIN,
    ),
    shape(
        "local disk, while every other node is closed",
        |vm, elsewhere| {
            vm.live_migratable = cannot("Disks");
            *elsewhere = closed();
        },
        "shut down: it cannot live-migrate: Disks",
        "stops",
        PLAIN,
    ),
    shape(
        "node of a guest cluster, local disk",
        |vm, _| {
            vm.guest_cluster = Some("prod".into());
            vm.live_migratable = cannot("Disks");
        },
        "shut down: it cannot live-migrate: Disks; it is a node of guest cluster prod",
        "stops",
        PLAIN,
    ),
    shape(
        "no condition",
        |vm, _| vm.live_migratable = LiveMigratable::NotSaid,
        "hold: KubeVirt does not say",
        "holds",
        "-",
    ),
];

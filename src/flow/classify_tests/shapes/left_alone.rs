//! Those that nobody touches, and those that go by somebody else's order.

use super::{Shape, holds, shape};
use crate::flow::classify::Guest;

pub(super) const LEFT_ALONE: [Shape; 16] = [
    // Those that nobody touches.
    shape(
        "moved by another controller",
        |vm, _| vm.moved_by_others = true,
        "hold: its evictionStrategy is Ext",
        "holds",
        "-",
    ),
    shape(
        "disks being moved",
        |vm, _| vm.moving_volumes = true,
        "hold: its disks are being moved",
        "holds",
        "-",
    ),
    shape(
        "paused by its user",
        |vm, _| vm.guest = Guest::Paused,
        "hold: its guest is paused and would lose its state",
        "holds",
        "-",
    ),
    shape(
        "paused, with a device",
        |vm, _| {
            vm.guest = Guest::Paused;
            holds(vm, &["a/b"]);
        },
        "hold: its guest is paused",
        "holds",
        "-",
    ),
    shape(
        "paused by failed storage",
        |vm, _| vm.guest = Guest::StorageFailed,
        "hold: its guest is paused because its storage failed",
        "holds",
        "-",
    ),
    shape(
        "scheduling",
        |vm, _| vm.guest = Guest::Starting { phase: "Scheduling".into() },
        "hold: it is only just starting (Scheduling)",
        "holds",
        "-",
    ),
    shape(
        "waits for another cluster",
        |vm, _| vm.guest = Guest::Starting { phase: "WaitingForSync".into() },
        "hold: it is only just starting (WaitingForSync)",
        "holds",
        "-",
    ),
    shape(
        "a phase of a later version",
        |vm, _| vm.guest = Guest::Unknown { phase: "Frozen".into() },
        "hold: its phase is `Frozen`",
        "holds",
        "-",
    ),
    shape(
        "instance without a VM",
        |vm, _| vm.vm_uid = None,
        "hold: it is an instance without a",
        "holds",
        "-",
    ),
    shape(
        "instance without a VM, with a device",
        |vm, _| {
            vm.vm_uid = None;
            holds(vm, &["a/b"]);
        },
        "hold: it is an instance without a VirtualMachine and would be lost",
        "holds",
        "-",
    ),
    // Those that go by somebody else's order.
    shape("terminating", |vm, _| vm.guest = Guest::Deleting, "leaving", "waits", "-"),
    shape("ended, its object still there", |vm, _| vm.guest = Guest::Ended, "leaving", "waits", "-"),
    shape(
        "halted, and not gone yet",
        |vm, _| vm.run_strategy = Some("Halted".into()),
        "leaving",
        "waits",
        "-",
    ),
    shape(
        "halted, with a device",
        |vm, _| {
            vm.run_strategy = Some("Halted".into());
            holds(vm, &["a/b"]);
        },
        "leaving",
        "waits",
        "-",
    ),
    shape(
        "terminating, with a device",
        |vm, _| {
            vm.guest = Guest::Deleting;
            holds(vm, &["a/b"]);
        },
        "leaving",
        "waits",
        "-",
    ),
    shape(
        "terminating, without a VM",
        |vm, _| (vm.guest, vm.vm_uid) = (Guest::Deleting, None),
        "leaving",
        "waits",
        "-",
    ),
];

//! Those of which `KubeVirt` says that they can move: the other nodes decide.

use super::{PLAIN, Shape, closed, nowhere_else, shape};
use crate::flow::classify::Elsewhere;

pub(super) const MOVABLE: [Shape; 13] = [
    // Those that move.
    shape("plain", |_, _| {}, "migrate", "migrates", "-"),
    shape(
        "RerunOnFailure",
        |vm, _| vm.run_strategy = Some("RerunOnFailure".into()),
        "migrate",
        "migrates",
        "-",
    ),
    shape("dedicated CPUs, room elsewhere", |vm, _| vm.dedicated_cpus = true, "migrate", "migrates", "-"),
    shape(
        "huge pages, room elsewhere",
        |vm, _| vm.hugepages = Some("2Mi".into()),
        "migrate",
        "migrates",
        "-",
    ),
    shape(
        "migratable, snapshot under way",
        |vm, _| vm.stop_refused = Some("its snapshot".into()),
        "migrate",
        "migrates",
        "-",
    ),
    shape(
        "node of a guest cluster",
        |vm, _| vm.guest_cluster = Some("prod".into()),
        "migrate",
        "migrates",
        "-",
    ),
    // Those that could move, by what the other nodes are.
    shape(
        "bound to its node by a label",
        |_, elsewhere| *elsewhere = nowhere_else(),
        "shut down: no other node can take it (node2 has no label gpu=yes)",
        "stops",
        PLAIN,
    ),
    shape(
        "dedicated CPUs, which no other node gives away",
        |vm, elsewhere| {
            vm.dedicated_cpus = true;
            *elsewhere = nowhere_else();
        },
        "shut down: no other node can take it",
        "stops",
        "node, kvm, cpumanager, volumes",
    ),
    shape(
        "huge pages, on a single node",
        |vm, elsewhere| {
            vm.hugepages = Some("2Mi".into());
            *elsewhere = Elsewhere::Alone;
        },
        "shut down: there is no other node",
        "stops",
        "node, kvm, hugepages-2Mi, volumes",
    ),
    shape(
        "single node",
        |_, elsewhere| *elsewhere = Elsewhere::Alone,
        "shut down: there is no other node",
        "stops",
        PLAIN,
    ),
    shape(
        "single node, snapshot under way",
        |vm, elsewhere| {
            vm.stop_refused = Some("its snapshot s".into());
            *elsewhere = Elsewhere::Alone;
        },
        "hold: there is no other node, and cannot be stopped now: its snapshot s",
        "holds",
        "-",
    ),
    shape(
        "host-model CPU, whose nodes are cordoned",
        |_, elsewhere| *elsewhere = closed(),
        "migrate",
        "waits for a target",
        "-",
    ),
    shape(
        "serves the images of an upgrade, single node",
        |vm, elsewhere| {
            vm.serves_upgrade = true;
            *elsewhere = Elsewhere::Alone;
        },
        "shut down: there is no other node",
        "stops",
        "-",
    ),
];

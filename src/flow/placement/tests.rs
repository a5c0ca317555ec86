//! Tables: one VM on one node, many VMs together, and what is said when they do not fit.

use super::words::amount;
use super::*;

const GIB: u128 = 1000 << 30;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn room(gib: u128) -> Resources {
    let named = |name: &str, amount| (name.to_owned(), amount);
    [named("memory", gib * GIB), named("cpu", 1000 * 1000), named("pods", 110 * 1000)].into()
}

fn place(name: &str, gib: u128) -> Place {
    let labels =
        labels(&[("kubernetes.io/hostname", name), ("zone", if name < "node3" { "a" } else { "b" })]);
    Place { name: name.to_owned(), labels, allocatable: room(gib), ..Place::default() }
}

fn asks(gib: u128) -> Resources {
    [("memory".to_owned(), gib * GIB), ("pods".to_owned(), 1000)].into()
}

fn pod(name: &str, gib: u128) -> Resident {
    Resident {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        labels: labels(&[("app", name)]),
        asks: asks(gib),
        apart: Vec::new(),
    }
}

fn mover(name: &str, gib: u128) -> Mover {
    Mover {
        vm: VmKey::new("default", name),
        pod: pod(name, gib),
        node_selector: BTreeMap::new(),
        node_terms: Vec::new(),
        tolerations: Vec::new(),
        together: Vec::new(),
        preempts: false,
    }
}

fn expression(key: &str, operator: Operator, values: &[&str]) -> Expression {
    Expression {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|&value| value.to_owned()).collect(),
    }
}

fn near(app: &str, topology: &str) -> PodTerm {
    PodTerm {
        selector: Some(Selector(vec![expression("app", Operator::In, &[app])])),
        namespaces: vec!["default".to_owned()],
        topology: topology.to_owned(),
    }
}

fn said(proof: &Proof) -> String {
    let placed = proof.placed.iter().map(|(vm, node)| format!("{} on {node}", vm.name));
    let unplaced = proof.unplaced.iter().map(|one| {
        let change = one.smallest_change().unwrap_or_else(|| "nothing".to_owned());
        format!("{} nowhere: {}; {change}", one.vm.name, one.reasons())
    });
    placed.chain(unplaced).collect::<Vec<_>>().join("; ")
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn one_vm_and_what_keeps_it_away() {
    let taint = || Taint { key: "gpu".into(), value: "only".into(), effect: "NoSchedule".into() };
    let not_ready = Taint { effect: "NoExecute".into(), ..taint() };
    let tolerates = |key: &str, value: &str, effect: &str| Toleration {
        key: key.into(),
        exists: value.is_empty(),
        value: value.into(),
        effect: effect.into(),
    };
    let tainted = |taint| Place { taints: vec![taint], ..place("node2", 8) };
    let closed = |why| Place { closed: Some(why), ..place("node2", 8) };
    let with = |apart: Vec<PodTerm>, app: &str| Place {
        pods: vec![Resident { apart, ..pod(app, 1) }],
        ..place("node2", 8)
    };
    let selects = |key: &str, value: &str| Mover { node_selector: labels(&[(key, value)]), ..mover("db", 2) };
    let term = |one: Expression| Term { labels: vec![one], fields: Vec::new() };
    let wants = |terms: Vec<Term>| Mover { node_terms: terms, ..mover("db", 2) };
    let tolerant = |one| Mover { tolerations: vec![one], ..mover("db", 2) };
    let apart = |terms| {
        let mut mover = mover("db", 2);
        mover.pod.apart = terms;
        mover
    };
    let together = |terms| Mover { together: terms, ..mover("db", 2) };
    let by_name = |name: &str| Term {
        labels: Vec::new(),
        fields: vec![expression("metadata.name", Operator::In, &[name])],
    };
    let table = [
        ("room", mover("db", 8), place("node2", 8), "db on node2"),
        (
            "no room",
            mover("db", 9),
            place("node2", 8),
            "node2 lacks 1 GiB of memory; free 1 GiB of memory on node2",
        ),
        ("cordoned", mover("db", 2), closed(Closed::Cordoned), "node2 is cordoned; uncordon node2"),
        ("not ready", mover("db", 2), closed(Closed::NotReady), "node2 is not Ready; make node2 Ready"),
        (
            "taint",
            mover("db", 2),
            tainted(taint()),
            "has the taint gpu=only; take the taint gpu=only off node2",
        ),
        ("tolerated", tolerant(tolerates("gpu", "only", "")), tainted(taint()), "db on node2"),
        ("tolerates all", tolerant(tolerates("", "", "")), tainted(taint()), "db on node2"),
        ("other value", tolerant(tolerates("gpu", "some", "")), tainted(taint()), "has the taint"),
        (
            "other effect",
            tolerant(tolerates("gpu", "only", "NoSchedule")),
            tainted(not_ready),
            "has the taint",
        ),
        ("label", selects("zone", "a"), place("node2", 8), "db on node2"),
        (
            "no label",
            selects("cpu-feature", "avx"),
            place("node2", 8),
            "has no label cpu-feature=avx; nothing",
        ),
        ("no label, cordoned", selects("x", "y"), closed(Closed::Cordoned), "is cordoned"),
        ("In", wants(vec![term(expression("zone", Operator::In, &["a", "b"]))]), place("node2", 8), "db on"),
        (
            "NotIn",
            wants(vec![term(expression("zone", Operator::NotIn, &["a"]))]),
            place("node2", 8),
            "affinity (zone)",
        ),
        (
            "NotIn, absent",
            wants(vec![term(expression("x", Operator::NotIn, &["a"]))]),
            place("node2", 8),
            "db on",
        ),
        (
            "Exists",
            wants(vec![term(expression("x", Operator::Exists, &[]))]),
            place("node2", 8),
            "affinity (x)",
        ),
        (
            "DoesNotExist",
            wants(vec![term(expression("x", Operator::DoesNotExist, &[]))]),
            place("node2", 8),
            "db on",
        ),
        (
            "Gt, no number",
            wants(vec![term(expression("zone", Operator::Gt, &["1"]))]),
            place("node2", 8),
            "affinity",
        ),
        (
            "unknown word",
            wants(vec![term(expression("zone", Operator::Unknown, &["a"]))]),
            place("node2", 8),
            "affinity",
        ),
        (
            "empty term",
            wants(vec![Term::default()]),
            place("node2", 8),
            "node2 does not meet its node affinity",
        ),
        ("other name", wants(vec![by_name("node1")]), place("node2", 8), "affinity (metadata.name)"),
        (
            "one of two terms",
            wants(vec![by_name("node1"), by_name("node2")]),
            place("node2", 8),
            "db on node2",
        ),
        (
            "apart",
            apart(vec![near("web", "kubernetes.io/hostname")]),
            with(vec![], "web"),
            "must be apart from; move",
        ),
        (
            "apart, other",
            apart(vec![near("web", "kubernetes.io/hostname")]),
            with(vec![], "mail"),
            "db on node2",
        ),
        ("the other minds", mover("db", 2), with(vec![near("db", "zone")], "web"), "must be apart from"),
        ("together", together(vec![near("web", "zone")]), with(vec![], "web"), "db on node2"),
        (
            "alone",
            together(vec![near("web", "zone")]),
            place("node2", 8),
            "no VM or pod that it has to be with",
        ),
        ("first of its kind", together(vec![near("db", "zone")]), place("node2", 8), "db on node2"),
        ("no such topology", together(vec![near("db", "rack")]), place("node2", 8), "has to be with"),
        (
            "full of pods",
            mover("db", 2),
            Place { allocatable: [("memory".into(), 8 * GIB)].into(), ..place("node2", 8) },
            "lacks room for a pod",
        ),
    ];
    for (what, mover, place, expected) in table {
        let said = said(&prove(&[mover], &[place]));
        assert!(said.contains(expected), "{what}: {said}");
    }
}

#[test]
fn they_have_to_fit_together() {
    let pinned = |name: &str, gib, node: &str| Mover {
        node_selector: labels(&[("kubernetes.io/hostname", node)]),
        ..mover(name, gib)
    };
    let foes = |name: &str, of: &str| {
        let mut mover = mover(name, 1);
        mover.pod.apart = vec![near(of, "kubernetes.io/hostname")];
        mover
    };
    let table = [
        ("each alone, not both", vec![mover("a", 5), mover("b", 5)], vec![place("node2", 8)], 1),
        ("one each", vec![mover("a", 5), mover("b", 5)], vec![place("node2", 8), place("node3", 8)], 2),
        (
            "the pinned one first",
            vec![mover("a", 8), pinned("b", 5, "node2")],
            vec![place("node2", 8), place("node3", 8)],
            2,
        ),
        (
            "the big one needs what is whole",
            vec![mover("a", 3), mover("b", 3), mover("c", 8)],
            vec![place("node2", 8), place("node3", 8)],
            3,
        ),
        (
            "somebody has to make way",
            vec![mover("a", 5), mover("b", 5), mover("c", 3), mover("d", 3)],
            vec![place("node2", 8), place("node3", 8)],
            4,
        ),
        (
            "thirds",
            vec![mover("a", 4), mover("b", 4), mover("c", 2), mover("d", 6)],
            vec![place("node2", 8), place("node3", 8)],
            4,
        ),
        ("apart from each other", vec![foes("a", "b"), mover("b", 1)], vec![place("node2", 8)], 1),
        (
            "apart on two nodes",
            vec![foes("a", "b"), mover("b", 1)],
            vec![place("node2", 8), place("node3", 8)],
            2,
        ),
    ];
    for (what, movers, places, expected) in table {
        let proof = prove(&movers, &places);
        assert_eq!(proof.placed.len(), expected, "{what}: {}", said(&proof));
        assert_eq!(proof.unplaced.len(), movers.len() - expected, "{what}");
        for place in &places {
            let here = movers.iter().filter(|mover| proof.placed.get(&mover.vm) == Some(&place.name));
            let memory: u128 = here.map(|mover| mover.pod.asks["memory"]).sum();
            assert!(memory <= place.allocatable["memory"], "{what}: {} is overfull", place.name);
        }
    }
}

#[test]
fn what_would_help_most_cheaply_is_named_first() {
    let leaving = Place { closed: Some(Closed::Leaving), ..place("node1", 64) };
    let cordoned = Place { closed: Some(Closed::Cordoned), ..place("node3", 64) };
    let places = [leaving.clone(), place("node2", 4), cordoned, place("node4", 5), place("node5", 1)];
    let proof = prove(&[mover("db", 6)], &places);
    let expected = "db nowhere: node3 is cordoned, node4 lacks 1 GiB of memory, node2 lacks 2 GiB of memory, \
                    and 1 more do not take it either; uncordon node3";
    assert_eq!(said(&proof), expected);
    assert_eq!(said(&prove(&[mover("db", 1)], &[leaving])), "db nowhere: there is no other node; nothing");
}

#[test]
fn a_vm_that_only_its_own_node_takes_is_told_from_one_that_waits() {
    let mut pinned = mover("db", 1);
    pinned.node_selector = labels(&[("kubernetes.io/hostname", "node1")]);
    let leaving = Place { closed: Some(Closed::Leaving), ..place("node1", 64) };
    let cordoned = Place { closed: Some(Closed::Cordoned), ..place("node3", 64) };
    let table = [
        ("too small is for patience", mover("db", 9), vec![leaving.clone(), place("node2", 8)], "Open"),
        (
            "cordoned",
            mover("db", 1),
            vec![leaving.clone(), cordoned.clone()],
            "Closed { why: \"node3 is cordoned\" }",
        ),
        ("one of two open", mover("db", 1), vec![cordoned.clone(), place("node2", 8)], "Open"),
        (
            "pinned",
            pinned.clone(),
            vec![leaving.clone(), cordoned, place("node2", 8)],
            "Never { why: \"node2 has no label",
        ),
        ("alone", pinned, vec![leaving], "Alone"),
    ];
    for (what, mover, places, expected) in table {
        let said = format!("{:?}", elsewhere(&mover, places.iter()));
        assert!(said.starts_with(expected), "{what}: {said}");
    }
}

#[test]
fn a_hundred_vms_and_a_thousand_nodes_are_no_matter() {
    let places: Vec<Place> = (2..1002).map(|number| place(&format!("node{number}"), 8)).collect();
    let movers: Vec<Mover> = (0..100).map(|number| mover(&format!("vm-{number}"), 5)).collect();
    assert_eq!(prove(&movers, &places).placed.len(), 100);
    let full = prove(&movers, &places[..50]);
    assert_eq!((full.placed.len(), full.unplaced.len()), (50, 50));
}

#[test]
fn amounts_are_for_people_and_never_too_small() {
    for (resource, thousandths, expected) in [
        ("memory", 3 * GIB + GIB / 5, "3.2 GiB of memory"),
        ("memory", 3 * GIB + 1, "3.1 GiB of memory"),
        ("memory", 1000, "1 MiB of memory"),
        ("cpu", 1500, "1.5 CPUs"),
        ("cpu", 1, "0.1 CPUs"),
        ("nvidia.com/A16", 2000, "2 nvidia.com/A16"),
        ("hugepages-1Gi", GIB, "1 GiB of hugepages-1Gi"),
    ] {
        assert_eq!(amount(resource, thousandths), expected);
    }
}

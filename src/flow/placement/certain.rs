//! How sure a no of the proof is. It decides whether a migration is not even tried, so what the scheduler might see
//! otherwise is no certainty: other pods' rules read with less than all their context, and room that it could make.

use super::rules::Operator;
use super::{Closed, Misfit, Mover, Taint, Unplaced};

/// Whether kube-scheduler and `KubeVirt` are sure to find no place for it, as everything is now.
#[must_use]
pub fn is_certain(mover: &Mover, unplaced: &Unplaced) -> bool {
    unplaced.why.values().all(|misfit| match misfit {
        Misfit::Closed(closed) => is_shut(mover, *closed),
        Misfit::Tainted(_) => true,
        Misfit::Unlike(_) => is_understood(mover),
        Misfit::Company(_) => false,
        Misfit::Lacks(_) => !mover.preempts,
    })
}

/// What closes a node to most may be tolerated by some. No virt-handler is a label that every launcher asks for.
fn is_shut(mover: &Mover, closed: Closed) -> bool {
    let key = match closed {
        Closed::Leaving | Closed::NoVirtHandler => return true,
        Closed::Draining => "kubevirt.io/drain",
        Closed::Cordoned => "node.kubernetes.io/unschedulable",
        Closed::NotReady => "node.kubernetes.io/not-ready",
        Closed::OutOfService => "node.kubernetes.io/out-of-service",
    };
    let taint = Taint { key: key.to_owned(), value: String::new(), effect: "NoSchedule".to_owned() };
    !mover.tolerations.iter().any(|one| one.covers(&taint))
}

/// An operator that this version does not know meets nothing, which may be wrong.
fn is_understood(mover: &Mover) -> bool {
    let mut all = mover.node_terms.iter().flat_map(|term| term.labels.iter().chain(&term.fields));
    all.all(|one| one.operator != Operator::Unknown)
}

#[cfg(test)]
mod tests {
    use super::super::{Expression, Resident, Resources, Term, Toleration};
    use super::*;
    use crate::flow::vms::VmKey;

    #[test]
    fn only_what_nobody_else_could_see_otherwise_is_certain() {
        let mover = || Mover {
            vm: VmKey::new("default", "db"),
            pod: Resident::default(),
            node_selector: [].into(),
            node_terms: vec![],
            tolerations: vec![],
            together: vec![],
            preempts: false,
        };
        let tolerant = |key: &str| Mover {
            tolerations: vec![Toleration { key: key.into(), exists: true, ..Toleration::default() }],
            ..mover()
        };
        let odd = || {
            let one = Expression { key: "a".into(), operator: Operator::Unknown, values: vec![] };
            Mover { node_terms: vec![Term { labels: vec![one], fields: vec![] }], ..mover() }
        };
        let lacks = || Misfit::Lacks(Resources::from([("memory".to_owned(), 1)]));
        for (what, mover, why, expected) in [
            ("there is no other node", mover(), vec![], true),
            ("full", mover(), vec![lacks()], true),
            ("full, but others would have to go", Mover { preempts: true, ..mover() }, vec![lacks()], false),
            ("cordoned", mover(), vec![Misfit::Closed(Closed::Cordoned)], true),
            (
                "cordoned and tolerated",
                tolerant("node.kubernetes.io/unschedulable"),
                vec![Misfit::Closed(Closed::Cordoned)],
                false,
            ),
            (
                "drained and tolerated",
                tolerant("kubevirt.io/drain"),
                vec![Misfit::Closed(Closed::Draining)],
                false,
            ),
            ("tolerates all", tolerant(""), vec![Misfit::Closed(Closed::NotReady)], false),
            ("no virt-handler", tolerant(""), vec![Misfit::Closed(Closed::NoVirtHandler)], true),
            ("tainted", mover(), vec![Misfit::Tainted("x".into())], true),
            ("unlike", mover(), vec![Misfit::Unlike("x".into())], true),
            ("unlike by words unknown", odd(), vec![Misfit::Unlike("x".into())], false),
            ("company", mover(), vec![Misfit::Company("x".into())], false),
            ("one of them is not sure", mover(), vec![lacks(), Misfit::Company("x".into())], false),
        ] {
            let names = (1..).map(|number| format!("node{number}"));
            let unplaced = Unplaced { vm: mover.vm.clone(), why: names.zip(why).collect() };
            assert_eq!(is_certain(&mover, &unplaced), expected, "{what}");
        }
    }
}

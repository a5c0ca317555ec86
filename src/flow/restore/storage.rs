//! Whether a VM's volume can be attached on its node (reference `kubevirt.md` §6.3, item 8). Pure.

use super::Missing;
use crate::flow::placement::{Place, Term};

/// What was read about one claim of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// `namespace/name`.
    pub name: String,
    /// What was found; none when there is no such claim.
    pub found: Option<Found>,
}

/// A claim that is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Its phase: `Pending`, `Bound`, `Lost`.
    pub phase: String,
    /// It is being deleted.
    pub deleting: bool,
    /// Its volume.
    pub volume: String,
    /// The state of Longhorn's volume; none for other storage.
    pub longhorn: Option<Longhorn>,
    /// Nodes that can reach the volume: one of these terms; any node when empty.
    pub reached_by: Vec<Term>,
}

/// What Longhorn says of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Longhorn {
    /// There is no such volume.
    Absent,
    /// Its robustness: `healthy`, `degraded`, `faulted`, and `unknown` whenever it is detached.
    Is(String),
}

/// What keeps this volume from being attached on the node; none when nothing does.
#[must_use]
pub fn detached(claim: &Claim, place: &Place) -> Option<Missing> {
    let name = &claim.name;
    let Some(found) = &claim.found else {
        let what = format!("its PersistentVolumeClaim {name} is not there");
        return Some(Missing::new(what, "restore the volume from its backup, or take it out of the VM"));
    };
    if found.deleting {
        let what = format!("its PersistentVolumeClaim {name} is being deleted");
        return Some(Missing::new(what, "save its data, or take it out of the VM"));
    }
    if found.phase != "Bound" {
        let what = format!("its PersistentVolumeClaim {name} is {}, not Bound", found.phase);
        return Some(Missing::new(what, "look at the claim's events"));
    }
    let volume = &found.volume;
    match &found.longhorn {
        Some(Longhorn::Absent) => {
            let what = format!("Longhorn has no volume {volume} (claim {name})");
            return Some(Missing::new(what, "restore the volume from its backup"));
        }
        Some(Longhorn::Is(robustness)) if robustness == "faulted" => {
            let what =
                format!("Longhorn volume {volume} (claim {name}) is faulted: no replica of it can be used");
            return Some(Missing::new(what, "bring back the nodes and disks of its replicas, or salvage it"));
        }
        Some(Longhorn::Is(_)) | None => {}
    }
    let reached = found.reached_by.is_empty() || found.reached_by.iter().any(|term| term.holds(place));
    (!reached).then(|| {
        let what = format!("volume {volume} (claim {name}) cannot be reached from node {}", place.name);
        Missing::new(what, "start the VM by hand where its volume is")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::placement::{Expression, Operator};

    #[test]
    fn each_way_in_which_a_volume_is_missing_is_named() {
        let on = |node: &str| Term {
            labels: vec![Expression {
                key: "kubernetes.io/hostname".into(),
                operator: Operator::In,
                values: vec![node.into()],
            }],
            fields: Vec::new(),
        };
        let bound = || Found { phase: "Bound".into(), volume: "pvc-1".into(), ..Found::default() };
        let longhorn = |state: &str| Some(Longhorn::Is(state.into()));
        let table = [
            ("bound", Some(bound()), ""),
            ("none", None, "its PersistentVolumeClaim default/disk is not there; restore the volume"),
            ("going", Some(Found { deleting: true, ..bound() }), "is being deleted; save its data"),
            ("pending", Some(Found { phase: "Pending".into(), ..bound() }), "is Pending, not Bound; look at"),
            ("lost", Some(Found { phase: "Lost".into(), ..bound() }), "is Lost, not Bound"),
            ("healthy", Some(Found { longhorn: longhorn("healthy"), ..bound() }), ""),
            ("degraded", Some(Found { longhorn: longhorn("degraded"), ..bound() }), ""),
            ("detached", Some(Found { longhorn: longhorn("unknown"), ..bound() }), ""),
            (
                "faulted",
                Some(Found { longhorn: longhorn("faulted"), ..bound() }),
                "Longhorn volume pvc-1 (claim default/disk) is faulted",
            ),
            (
                "lost to Longhorn",
                Some(Found { longhorn: Some(Longhorn::Absent), ..bound() }),
                "Longhorn has no volume pvc-1",
            ),
            ("local, here", Some(Found { reached_by: vec![on("node1")], ..bound() }), ""),
            ("one of two", Some(Found { reached_by: vec![on("node2"), on("node1")], ..bound() }), ""),
            (
                "local, elsewhere",
                Some(Found { reached_by: vec![on("node2")], ..bound() }),
                "volume pvc-1 (claim default/disk) cannot be reached from node node1; start",
            ),
        ];
        let labels = [("kubernetes.io/hostname".to_owned(), "node1".to_owned())].into();
        let place = Place { name: "node1".into(), labels, ..Place::default() };
        for (what, found, expected) in table {
            let said = detached(&Claim { name: "default/disk".into(), found }, &place);
            let said = said.map(|missing| missing.to_string()).unwrap_or_default();
            assert_eq!(said.is_empty(), expected.is_empty(), "{what}: {said}");
            assert!(said.contains(expected), "{what}: {said}");
        }
    }
}

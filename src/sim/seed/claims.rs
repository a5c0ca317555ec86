//! What the disks of exported VMs need and the export does not hold: claims, the volumes they are bound to, Longhorn's word on
//! those. What was not exported is taken to be there, healthy, and reached from every node; what was exported stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cluster::volumes::{claim_of, is_longhorns};
use crate::sim::fields::{annotation, list, name, namespace, text};
use crate::sim::longhorn;

/// The volume that an exported claim is bound to.
#[derive(Debug)]
struct Bound {
    volume: String,
    is_longhorns: bool,
}

/// The claims of an export, by namespace and name; with what those that are bound are bound to.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<(String, String), Option<Bound>>);

impl Claims {
    /// Takes note of an exported object, if it is a claim.
    pub(super) fn note(&mut self, object: &Value) {
        if text(object, "/kind") != "PersistentVolumeClaim" {
            return;
        }
        let volume = text(object, "/spec/volumeName").to_owned();
        let is_bound = text(object, "/status/phase") == "Bound" && !volume.is_empty();
        let bound = is_bound.then(|| {
            let is_longhorns = is_longhorns(|key| annotation(object, key));
            Bound { volume, is_longhorns }
        });
        self.0.insert((namespace(object).to_owned(), name(object).to_owned()), bound);
    }

    /// What these VMs need besides: with no volume of Longhorn's in the export, those of its claims as well.
    pub(super) fn lacking<'a>(&self, vms: impl Iterator<Item = &'a Value>, has_longhorn: bool) -> Vec<Value> {
        let wanted: BTreeSet<(String, String)> = vms
            .flat_map(|vm| {
                let disks = list(vm, "/spec/template/spec/volumes").iter();
                disks.filter_map(claim_of).map(|claim| (namespace(vm).to_owned(), claim.to_owned()))
            })
            .collect();
        let mut lacking = Vec::new();
        for (namespace, claim) in wanted.iter().filter(|claim| !self.0.contains_key(*claim)) {
            let volume = format!("made-up-{namespace}-{claim}");
            lacking.push(shared(&volume));
            lacking.push(json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": claim, "namespace": namespace},
                "spec": {"accessModes": ["ReadWriteMany"], "volumeName": volume},
                "status": {"phase": "Bound", "accessModes": ["ReadWriteMany"]},
            }));
        }
        let bound = self
            .0
            .iter()
            .filter(|(claim, _)| wanted.contains(*claim))
            .filter_map(|(_, bound)| bound.as_ref());
        // Two VMs may share a disk, and no two claims share a volume.
        lacking.extend(bound.filter_map(|bound| match (bound.is_longhorns, has_longhorn) {
            (true, true) => None,
            (true, false) => Some(longhorn::told_of(&bound.volume)),
            // Nobody exports PersistentVolumes.
            (false, _) => Some(shared(&bound.volume)),
        }));
        lacking
    }
}

/// A volume that every node reaches.
fn shared(volume: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
        "spec": {"accessModes": ["ReadWriteMany"]}, "status": {"phase": "Bound"}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, phase: &str, provisioner: Option<&str>) -> Value {
        let annotations = provisioner.map(|by| json!({"volume.kubernetes.io/storage-provisioner": by}));
        json!({"kind": "PersistentVolumeClaim", "metadata": {"namespace": "a", "name": name, "annotations": annotations},
            "spec": {"volumeName": format!("pv-{name}")}, "status": {"phase": phase}})
    }

    /// Kinds and names of what is made up for a VM with these disks.
    fn made_up(exported: &[Value], disks: &Value, has_longhorn: bool) -> Vec<String> {
        let mut claims = Claims::default();
        for one in exported {
            claims.note(one);
        }
        let vm = json!({"kind": "VirtualMachine", "metadata": {"namespace": "a", "name": "db"},
            "spec": {"template": {"spec": {"volumes": disks}}}});
        let made = claims.lacking([&vm].into_iter(), has_longhorn);
        made.iter().map(|one| format!("{} {}", text(one, "/kind"), name(one))).collect()
    }

    #[test]
    fn only_what_was_not_exported_is_made_up() {
        let disk = json!([{"persistentVolumeClaim": {"claimName": "root"}}]);
        let longhorns = claim("root", "Bound", Some("driver.longhorn.io"));
        let none: [&str; 0] = [];
        assert_eq!(
            made_up(&[], &disk, true),
            ["PersistentVolume made-up-a-root", "PersistentVolumeClaim root"]
        );
        assert_eq!(made_up(std::slice::from_ref(&longhorns), &disk, true), none, "Longhorn has the word");
        assert_eq!(made_up(&[longhorns], &disk, false), ["Volume pv-root"]);
        assert_eq!(
            made_up(&[claim("root", "Bound", Some("nfs.csi.k8s.io"))], &disk, true),
            ["PersistentVolume pv-root"]
        );
        assert_eq!(made_up(&[claim("root", "Bound", None)], &disk, false), ["PersistentVolume pv-root"]);
        assert_eq!(made_up(&[claim("root", "Lost", None)], &disk, false), none, "it stays lost");
        assert_eq!(made_up(&[claim("other", "Bound", None)], &json!([{"cloudInitNoCloud": {}}]), true), none);
    }

    #[test]
    fn each_way_of_naming_a_claim_is_known() {
        let disks = json!([{"dataVolume": {"name": "data"}},
            {"ephemeral": {"persistentVolumeClaim": {"claimName": "image"}}}]);
        let made = made_up(&[], &disks, true);
        assert!(made.contains(&"PersistentVolumeClaim data".to_owned()), "{made:?}");
        assert!(made.contains(&"PersistentVolumeClaim image".to_owned()), "{made:?}");
    }
}

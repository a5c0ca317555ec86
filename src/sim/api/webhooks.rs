//! What admission webhooks say to writes, where a world has them. `KubeVirt`'s: refusals of migrations, the answers to
//! evictions of launcher pods, and the failure of all of them while virt-api is away (`kubevirt.md` §1.5, §4.2, §2.3).
//! Harvester's: nobody closes the last available node.

use http::Method;
use serde_json::{Value, json};

use super::json::{is_deleting, map, meta, text};
use super::request::Address;
use super::status::Status;
use super::store::{Place, Store, key_of};
use crate::cluster::nodes::MAINTENANCE;
use crate::sim::fields;
use crate::sim::virt_controller;

/// Whether webhooks are asked, and whether anybody answers them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Webhooks {
    /// There is no `KubeVirt`: nobody is asked.
    #[default]
    None,
    /// virt-api answers.
    Up,
    /// virt-api is away, and its webhooks fail what they are to be asked about.
    Down,
}

impl Store {
    /// Refuses a write of an object of `KubeVirt`'s that its webhooks refuse, before anything is done about it.
    pub(super) fn ask_webhooks(
        &mut self,
        method: &Method,
        address: &Address<'_>,
        body: &Value,
    ) -> Result<(), Status> {
        let writes = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        if self.webhooks == Webhooks::None || !writes || address.group != "kubevirt.io" {
            return Ok(());
        }
        if !address.subresource.is_empty() {
            return Ok(());
        }
        if self.webhooks == Webhooks::Down {
            return Err(unanswered(match address.plural {
                "virtualmachines" => "virtualmachine-validator.kubevirt.io",
                "virtualmachineinstances" if *method == Method::POST => {
                    "virtualmachineinstances-create-validator.kubevirt.io"
                }
                "virtualmachineinstances" => "virtualmachineinstances-update-validator.kubevirt.io",
                "virtualmachineinstancemigrations" if *method == Method::POST => {
                    "migration-create-validator.kubevirt.io"
                }
                "virtualmachineinstancemigrations" => "migration-update-validator.kubevirt.io",
                _ => return Ok(()),
            }));
        }
        if *method == Method::POST && address.plural == "virtualmachineinstancemigrations" {
            return self.ask_about_migration(address.namespace, body);
        }
        Ok(())
    }

    fn ask_about_migration(&mut self, namespace: &str, migration: &Value) -> Result<(), Status> {
        let vmi_name = text(migration, "/spec/vmiName");
        let vmis = self.place("kubevirt.io", "virtualmachineinstances");
        let vmi = vmis.and_then(|place| self.get(place, &key_of(namespace, vmi_name)).cloned());
        let labels = format!("kubevirt.io/vmi-name={vmi_name}");
        let others = self.list("kubevirt.io", "virtualmachineinstancemigrations", namespace, &labels);
        let others = others.iter().map(|other| &**other).filter(|other| !is_deleting(other));
        match virt_controller::refusal(vmi.as_deref(), vmi_name, others) {
            Some(why) => Err(denied(400, "migration-create-validator.kubevirt.io", &why)),
            None => Ok(()),
        }
    }

    /// Answers the eviction of a launcher pod of a guest that has to be moved first, and marks its VMI; `Ok` lets others
    /// decide.
    pub(super) fn ask_about_eviction(&mut self, pod: &Value, dry_run: bool) -> Result<(), Status> {
        let kind = fields::label(pod, "kubevirt.io").unwrap_or_default();
        if self.webhooks == Webhooks::None || !matches!(kind, "virt-launcher" | "hotplug-disk") {
            return Ok(());
        }
        if self.webhooks == Webhooks::Down {
            return Err(unanswered(EVICTION));
        }
        if fields::is_final(pod) {
            return Ok(());
        }
        let refused = |why: String| Err(denied(429, EVICTION, &why));
        if kind == "hotplug-disk" {
            return refused("cannot evict hotplug pod associated with running VMI".to_owned());
        }
        let owner = fields::controller(pod).map(|owner| text(owner, "/name")).unwrap_or_default();
        let key = key_of(meta(pod, "namespace"), owner);
        let Some(place) = self.place("kubevirt.io", "virtualmachineinstances") else { return Ok(()) };
        let Some(vmi) = self.get(place, &key).cloned().filter(|vmi| !fields::is_final(vmi)) else {
            return Ok(());
        };
        let (node, named) = (text(&vmi, "/status/nodeName"), format!("\"{key}\""));
        let migratable = fields::condition_is(&vmi, "LiveMigratable", "True");
        match text(&vmi, "/spec/evictionStrategy") {
            "LiveMigrate" if !migratable => return refused(format!("VMI {key} is not live-migratable")),
            "External" | "LiveMigrate" => {}
            "LiveMigrateIfPossible" if migratable => {}
            _ => return Ok(()),
        }
        if text(pod, "/spec/nodeName") != node {
            return refused("Eviction request for target Pod".to_owned());
        }
        if !text(&vmi, "/status/evacuationNodeName").is_empty() {
            return refused(format!("Evacuation in progress: Eviction triggered evacuation of VMI {named}"));
        }
        if !dry_run {
            let mut marked: Value = (*vmi).clone();
            let node = node.to_owned();
            map(map(&mut marked).entry("status").or_insert_with(|| json!({})))
                .insert("evacuationNodeName".to_owned(), node.into());
            self.put(place, &key, marked);
        }
        refused(format!("Eviction triggered evacuation of VMI {named}"))
    }

    /// Refuses what Harvester's webhook refuses of nodes: cordon and maintenance of the last one that is available (Harvester
    /// 1.0 to 1.9, `pkg/webhook/resources/node/validator.go`).
    pub(super) fn ask_about_node(&self, place: Place, old: &Value, new: &Value) -> Result<(), Status> {
        let is_open = |node: &Value| {
            node.pointer("/spec/unschedulable") != Some(&Value::Bool(true))
                && fields::annotation(node, MAINTENANCE).is_none()
        };
        if self.webhooks == Webhooks::None || !is_open(old) || is_open(new) {
            return Ok(());
        }
        let name = meta(old, "name");
        let nodes = self.collection(place).into_iter().flat_map(|nodes| nodes.objects.values());
        let mut others = nodes.map(|kept| kept.object.value());
        if others.any(|other| meta(other, "name") != name && is_open(other)) {
            return Ok(());
        }
        Err(denied(
            400,
            "validator.harvesterhci.io",
            "can't enable maintenance mode or cordon on the last available node",
        ))
    }

    /// Where a VMI's webhooks fill in what its VM left open: `None` is the cluster's default.
    pub(super) fn fill_in(&self, place: Place, new: &mut Value) {
        let is_vmi = self.collection(place).is_some_and(|found| {
            found.kind.group == "kubevirt.io" && found.kind.plural == "virtualmachineinstances"
        });
        if self.webhooks == Webhooks::Up && is_vmi {
            let spec = map(map(new).entry("spec").or_insert_with(|| json!({})));
            spec.entry("evictionStrategy").or_insert_with(|| json!("None"));
        }
    }
}

const EVICTION: &str = "virt-launcher-eviction-interceptor.kubevirt.io";

fn denied(code: u16, webhook: &str, why: &str) -> Status {
    Status::new(code, "", format!("admission webhook \"{webhook}\" denied the request: {why}"))
}

fn unanswered(webhook: &str) -> Status {
    let why = format!(
        "failed calling webhook \"{webhook}\": failed to call webhook: Post \
         \"https://virt-api.harvester-system.svc:443/\": dial tcp: connect: connection refused"
    );
    Status::new(500, "InternalError", format!("Internal error occurred: {why}")).caused_by("", why, "")
}

#[cfg(test)]
mod tests;

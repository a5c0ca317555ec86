//! Host devices on Harvester: what `KubeVirt` permits, and why a node does not offer one (reference `kubevirt.md` §6). The
//! objects of the add-on explain, and prove nothing: they say "enabled" before the device's plugin is back.

use std::collections::BTreeSet;

use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::cluster::{Cluster, ClusterError, ask, ask_opt};
use crate::flow::restore::Permitted;

/// `KubeVirt`'s own object in Harvester's namespace.
const KUBEVIRT: &str = "kubevirt";
/// Beginning of the resource names of USB devices; the rest is the `USBDevice`.
const USB: &str = "kubevirt.io/";

/// What `KubeVirt` lets guests have. One request.
///
/// # Errors
/// [`ClusterError`] for what passes; what does not is an answer of its own.
pub async fn permitted(cluster: &Cluster) -> Result<Permitted, ClusterError> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kubevirt.io", "v1", "KubeVirt"));
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &kind);
    match ask_opt(format!("read KubeVirt {}/{KUBEVIRT}", cluster.namespace), api.get(KUBEVIRT)).await {
        Ok(Some(found)) => Ok(of(&found.data)),
        Ok(None) => {
            Ok(Permitted::Unknown { why: format!("there is no KubeVirt {}/{KUBEVIRT}", cluster.namespace) })
        }
        Err(error) if error.is_passing() => Err(error),
        Err(error) => Ok(Permitted::Unknown { why: error.to_string() }),
    }
}

fn of(kubevirt: &Value) -> Permitted {
    let Some(permitted) = kubevirt.pointer("/spec/configuration/permittedHostDevices") else {
        return Permitted::Unlisted;
    };
    let lists = ["pciHostDevices", "mediatedDevices", "usb"];
    let all = lists.iter().filter_map(|list| permitted.get(list)?.as_array()).flatten();
    let names = all.filter_map(|device| device.get("resourceName")?.as_str());
    Permitted::Listed(names.map(str::to_owned).collect::<BTreeSet<String>>())
}

/// Why a node does not offer a device, as far as Harvester's add-on knows; none when it does not. Up to three requests; a
/// failed one explains nothing.
pub async fn explain(client: &Client, node: &str, resource: &str) -> Option<String> {
    let told = match resource.strip_prefix(USB) {
        Some(name) => usb(client, name).await,
        None => pci_or_vgpu(client, node, resource).await,
    };
    told.unwrap_or_else(|error| {
        tracing::debug!(resource, %error, "nobody explains why the device is away");
        None
    })
}

async fn usb(client: &Client, name: &str) -> Result<Option<String>, ClusterError> {
    let Some(device) = get(client, "USBDevice", name).await? else { return Ok(None) };
    let claimed = get(client, "USBDeviceClaim", name).await?.is_some();
    Ok(usb_story(name, &device.data, claimed))
}

fn usb_story(name: &str, device: &Value, claimed: bool) -> Option<String> {
    if text(device, "/status/status") == "orphaned" {
        return Some(format!(
            "USBDevice {name} is orphaned: it was plugged out, or counts under another number since; \
             plug it back, or take it out of the VM and put in the new one"
        ));
    }
    (!claimed).then(|| format!("USBDevice {name} has no USBDeviceClaim: enable its passthrough"))
}

async fn pci_or_vgpu(client: &Client, node: &str, resource: &str) -> Result<Option<String>, ClusterError> {
    let all = list(client, "PCIDevice", &format!("nodename={node}")).await?;
    for device in all.iter().filter(|device| text(&device.data, "/status/resourceName") == resource) {
        let name = device.name_any();
        let claim = get(client, "PCIDeviceClaim", &name).await?;
        if let Some(story) = pci_story(&name, &device.data, claim.as_ref().map(|claim| &claim.data)) {
            return Ok(Some(story));
        }
    }
    let vgpus = list(client, "VGPUDevice", "").await?;
    let here = vgpus.iter().filter(|device| text(&device.data, "/spec/nodeName") == node);
    Ok(here.into_iter().find_map(|device| vgpu_story(&device.name_any(), &device.data, resource)))
}

fn pci_story(name: &str, device: &Value, claim: Option<&Value>) -> Option<String> {
    let Some(claim) = claim else {
        return Some(format!("PCIDevice {name} has no PCIDeviceClaim: enable its passthrough"));
    };
    if claim.pointer("/status/passthroughEnabled") != Some(&Value::Bool(true)) {
        return Some(format!("PCIDeviceClaim {name} is not enabled (yet): look at pcidevices-controller"));
    }
    let driver = text(device, "/status/kernelDriverInUse");
    (driver != "vfio-pci").then(|| {
        let driver = if driver.is_empty() { "no driver" } else { driver };
        format!(
            "PCIDevice {name} is bound to {driver} and not to vfio-pci (yet): look at pcidevices-controller"
        )
    })
}

fn vgpu_story(name: &str, device: &Value, resource: &str) -> Option<String> {
    let kind = text(device, "/spec/vGPUTypeName");
    let is_it = resource.rsplit('/').next().is_some_and(|of| of == kind.replace(' ', "_"));
    let ready = text(device, "/status/vGPUStatus") == "vGPUConfigured";
    (is_it && !ready).then(|| {
        format!(
            "VGPUDevice {name} ({kind}) is not configured (yet): look at nvidia-driver-daemonset and its GPU"
        )
    })
}

fn api(client: &Client, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("devices.harvesterhci.io", "v1beta1", kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk(&kind))
}

async fn get(client: &Client, kind: &str, name: &str) -> Result<Option<DynamicObject>, ClusterError> {
    ask_opt(format!("read {kind} {name}"), api(client, kind).get(name)).await
}

async fn list(client: &Client, kind: &str, labels: &str) -> Result<Vec<DynamicObject>, ClusterError> {
    let params = ListParams::default().labels(labels);
    match ask(format!("list {kind}s"), api(client, kind).list(&params)).await {
        Ok(all) => Ok(all.items),
        // The add-on is not there.
        Err(ClusterError::Gone { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_kubevirt_permits_is_read_from_all_three_lists() {
        let listed = of(&json!({ "spec": { "configuration": { "permittedHostDevices": {
            "pciHostDevices": [{ "resourceName": "a/b", "externalResourceProvider": true }],
            "mediatedDevices": [{ "resourceName": "c/d" }], "usb": [{ "resourceName": "kubevirt.io/e" }] } } } }));
        let names = ["a/b", "c/d", "kubevirt.io/e"].map(str::to_owned);
        assert_eq!(listed, Permitted::Listed(names.into()));
        assert_eq!(of(&json!({ "spec": { "configuration": {} } })), Permitted::Unlisted);
        let emptied = json!({ "spec": { "configuration": { "permittedHostDevices": {} } } });
        assert_eq!(of(&emptied), Permitted::Listed(BTreeSet::new()));
    }

    #[test]
    fn harvesters_own_objects_say_why_a_device_is_away() {
        let pci = |driver: &str| json!({ "status": { "kernelDriverInUse": driver } });
        let claim = |enabled: bool| json!({ "status": { "passthroughEnabled": enabled } });
        let table = [
            ("no claim", pci_story("p", &pci("nvidia"), None), "has no PCIDeviceClaim"),
            ("disabled", pci_story("p", &pci("nvidia"), Some(&claim(false))), "is not enabled (yet)"),
            (
                "boot's driver",
                pci_story("p", &pci("nvidia"), Some(&claim(true))),
                "bound to nvidia and not to vfio-pci",
            ),
            ("no driver", pci_story("p", &pci(""), Some(&claim(true))), "bound to no driver"),
            ("ready", pci_story("p", &pci("vfio-pci"), Some(&claim(true))), ""),
            (
                "orphan",
                usb_story("u", &json!({ "status": { "status": "orphaned" } }), true),
                "USBDevice u is orphaned",
            ),
            ("unclaimed", usb_story("u", &json!({}), false), "has no USBDeviceClaim"),
            ("claimed", usb_story("u", &json!({}), true), ""),
            (
                "vGPU",
                vgpu_story(
                    "v",
                    &json!({ "spec": { "vGPUTypeName": "NVIDIA A16-4Q" } }),
                    "nvidia.com/NVIDIA_A16-4Q",
                ),
                "VGPUDevice v (NVIDIA A16-4Q) is not configured",
            ),
            (
                "vGPU there",
                vgpu_story(
                    "v",
                    &json!({ "spec": { "vGPUTypeName": "NVIDIA A16-4Q" }, "status": { "vGPUStatus": "vGPUConfigured" } }),
                    "nvidia.com/NVIDIA_A16-4Q",
                ),
                "",
            ),
            (
                "another vGPU",
                vgpu_story(
                    "v",
                    &json!({ "spec": { "vGPUTypeName": "NVIDIA A16-2Q" } }),
                    "nvidia.com/NVIDIA_A16-4Q",
                ),
                "",
            ),
        ];
        for (what, story, expected) in table {
            let story = story.unwrap_or_default();
            assert_eq!(story.is_empty(), expected.is_empty(), "{what}: {story}");
            assert!(story.contains(expected), "{what}: {story}");
        }
    }
}

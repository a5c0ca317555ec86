//! The Node and its lease, as a kubelet keeps them. Writes those two objects and no other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::{Role, Settings};

/// Shorter than a client's default: an API server that is away shall be asked again soon.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps one Node and its lease up to date.
pub(crate) struct Reporter {
    role: Role,
    settings: Settings,
    kubelet_version: String,
    client: Option<Client>,
}

impl Reporter {
    pub(crate) fn new(role: Role, settings: Settings, kubelet_version: String) -> Self {
        Self { role, settings, kubelet_version, client: None }
    }

    /// Makes the Node, or finds it, and reports for the first time.
    pub(crate) async fn register(&mut self) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        let metadata = json!({"labels": self.labels(), "annotations": self.settings.annotations});
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata.clone()});
        if let Some(metadata) = node.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            metadata.insert("name".to_owned(), json!(self.settings.node_name));
        }
        let created = nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await;
        match created {
            Ok(_) => {}
            // A kubelet that comes back leaves what others have written on its Node meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let labels = json!({"metadata": {"labels": self.kubelet_labels()}});
                nodes.patch(&self.settings.node_name, &PatchParams::default(), &Patch::Merge(labels)).await?;
            }
            Err(error) => return Err(error).context("cannot make the node"),
        }
        self.report(true).await?;
        self.say_role(&nodes).await
    }

    /// RKE2's own controllers say so once the kubelet has registered and reported: no server is ever seen without a version.
    async fn say_role(&self, nodes: &Api<Node>) -> Result<()> {
        if self.role == Role::Agent {
            return Ok(());
        }
        let role = json!({"metadata": {"labels": {
            "node-role.kubernetes.io/control-plane": "true", "node-role.kubernetes.io/etcd": "true",
        }}});
        nodes
            .patch(&self.settings.node_name, &PatchParams::default(), &Patch::Merge(role))
            .await
            .context("cannot label the node")?;
        Ok(())
    }

    /// Reports that the Node is ready, and renews the lease.
    pub(crate) async fn beat(&mut self) -> Result<()> {
        self.report(false).await
    }

    async fn report(&mut self, first: bool) -> Result<()> {
        let client = self.client().await?;
        let nodes: Api<Node> = Api::all(client.clone());
        let name = &self.settings.node_name;
        // Strategic, so that the conditions of others stay.
        let status = Patch::Strategic(json!({"status": self.status(first)?}));
        nodes.patch_status(name, &PatchParams::default(), &status).await.context("cannot report the node")?;

        let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
        let now = jiff::Timestamp::now();
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
        });
        let owner = PatchParams::apply("rke2-stand-in").force();
        leases.patch(name, &owner, &Patch::Apply(lease)).await.context("cannot renew the node's lease")?;
        Ok(())
    }

    /// Built at need: the kubeconfig may be written later than rke2 is started.
    async fn client(&mut self) -> Result<Client> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let kubeconfig = Kubeconfig::read_from(Path::new(&self.settings.kubeconfig))?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.connect_timeout = Some(PATIENCE);
        config.read_timeout = Some(PATIENCE);
        let client = Client::try_from(config)?;
        self.client = Some(client.clone());
        Ok(client)
    }

    /// The labels that a kubelet sets again at each start.
    fn kubelet_labels(&self) -> BTreeMap<String, String> {
        let name = self.settings.node_name.as_str();
        let labels = [
            ("kubernetes.io/hostname", name),
            ("kubernetes.io/arch", "amd64"),
            ("kubernetes.io/os", "linux"),
        ];
        labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    /// With the labels that Harvester and `KubeVirt` set on a node that joins.
    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.kubelet_labels();
        let mut add = |key: &str| labels.insert(key.to_owned(), "true".to_owned());
        add("harvesterhci.io/managed");
        add("kubevirt.io/schedulable");
        labels.extend(self.settings.labels.clone());
        labels
    }

    fn status(&self, first: bool) -> Result<Value> {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let mut ready = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "kubelet is posting ready status", "lastHeartbeatTime": now,
        });
        if first && let Some(ready) = ready.as_object_mut() {
            ready.insert("lastTransitionTime".to_owned(), json!(now));
        }
        let mut resources = BTreeMap::from([
            ("cpu".to_owned(), self.settings.cpu.clone()),
            ("memory".to_owned(), self.settings.memory.clone()),
            ("pods".to_owned(), "200".to_owned()),
            ("devices.kubevirt.io/kvm".to_owned(), "110".to_owned()),
        ]);
        resources.extend(self.settings.extra_allocatable.clone());
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
        let machine_id = read("/etc/machine-id")?.trim().to_owned();
        Ok(json!({
            "conditions": [ready],
            "capacity": resources, "allocatable": resources,
            "addresses": [
                {"type": "InternalIP", "address": self.settings.bind},
                {"type": "Hostname", "address": self.settings.node_name},
            ],
            "nodeInfo": {
                "machineID": machine_id, "systemUUID": machine_id,
                "bootID": read("/proc/sys/kernel/random/boot_id")?.trim(),
                "kernelVersion": read("/proc/sys/kernel/osrelease")?.trim(),
                "osImage": "Harvester test bed", "operatingSystem": "linux", "architecture": "amd64",
                "containerRuntimeVersion": "containerd://2.1.5-k3s1",
                "kubeletVersion": self.kubelet_version, "kubeProxyVersion": "",
            },
        }))
    }
}

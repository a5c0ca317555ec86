//! A node of a cluster in memory, with `KubeVirt` simulated and a run that has come as far as its evacuation.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use upgrade_agent::agent::run::{Published, Publisher, Run};
use upgrade_agent::agent::steps::vm_actions;
use upgrade_agent::cluster::vms::instances_on;
use upgrade_agent::cluster::{Cluster, vm_facts};
use upgrade_agent::flow::classify::{Elsewhere, enter};
use upgrade_agent::flow::evacuate::VmAction;
use upgrade_agent::flow::plan::{NodePlan, Role};
use upgrade_agent::flow::record::Record;
use upgrade_agent::flow::vms::{LedgerLine, Verdict, VmEntry, VmKey};
use upgrade_agent::host::Host;
use upgrade_agent::host::clock::Clock;
use upgrade_agent::host::fs::Fs;
use upgrade_agent::host::root::HostRoot;
use upgrade_agent::host::systemd::{BusAddress, Systemd};
use upgrade_agent::journal::Journal;
use upgrade_agent::sim::Timing;
use upgrade_agent::sim::api::ApiServer;
use upgrade_agent::sim::machine::SimMachine;
use upgrade_agent::sim::machine::image::{Layout, MachineImage, MachineSpec, PROGRAM, STATE_DIR};
use upgrade_agent::sim::machine::life::LifePlan;
use upgrade_agent::sim::seed::{Preset, seed};
use upgrade_agent::sim::virt_api::VirtApi;

pub(crate) const UPGRADE: &str = "hvst-upgrade-abcde";
pub(crate) const UPGRADE_UID: &str = "0f8f2b0e-0000-4000-8000-000000000001";

pub(crate) struct NodeInMemory {
    pub(crate) server: ApiServer,
    pub(crate) run: Run,
    pub(crate) machine: SimMachine,
    pub(crate) ears: Published,
    stop: CancellationToken,
}

impl Drop for NodeInMemory {
    fn drop(&mut self) {
        self.stop.cancel();
        self.server.disaggregate();
    }
}

fn plan() -> NodePlan {
    serde_json::from_value(json!({
        "upgradeName": UPGRADE, "upgradeUID": UPGRADE_UID, "nodeName": "node1",
        "rke2": { "from": "v1.34.2+rke2r1", "to": "v1.35.6+rke2r1" },
        "artifacts": { "source": "file:///var/lib/rancher/release", "sha256": "a".repeat(64) },
    }))
    .unwrap()
}

impl NodeInMemory {
    pub(crate) async fn new(preset: &Preset) -> Self {
        let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        let clock = Clock::from(start, Instant::now());
        let server = ApiServer::new(clock, 1);
        seed(&server, preset, start).unwrap();
        // Without it the list that it owns would be swept away.
        let upgrade = json!({"apiVersion": "harvesterhci.io/v1beta1", "kind": "Upgrade",
            "metadata": {"name": UPGRADE, "namespace": "harvester-system", "uid": UPGRADE_UID}, "spec": {}});
        server.load(upgrade).unwrap();
        let (timing, stop) = (Timing::virtual_time(start), CancellationToken::new());
        let api = VirtApi { wire: server.clone().into(), timing: timing.clone() };
        let handler = move |request| {
            let api = api.clone();
            Box::pin(async move { api.respond(request).await }) as _
        };
        server.aggregate("/apis/subresources.kubevirt.io", Arc::new(handler));
        tokio::spawn(upgrade_agent::sim::run(server.clone(), timing, stop.clone()));
        let spec = MachineSpec { layout: Layout::Harvester, ..MachineSpec::default() };
        let machine = SimMachine::start(&MachineImage::new(spec).unwrap());
        let life = machine.life(LifePlan::quiet());
        let systemd = Systemd::connect(&BusAddress::Given(life.bus().await.unwrap())).await.unwrap();
        let root = HostRoot::on(Fs::new(life.effects()), PathBuf::from("/"));
        let state_dir = PathBuf::from(STATE_DIR);
        root.fs().create_dir_sync(&state_dir).unwrap();
        let mut journal = Journal::open(root.fs(), &state_dir, &plan(), "boot-1", clock).unwrap();
        let text = |text: &str| text.to_owned();
        let live_sha256 = root.fs().sha256_file(Path::new("/opt/rke2/bin/rke2")).unwrap();
        for record in [
            Record::Preflighted {
                role: Role::Server,
                unit: text("rke2-server.service"),
                live: text("/opt/rke2/bin/rke2"),
                live_sha256,
            },
            Record::Staged { binary: text("/opt/rke2/.stage/bin/rke2"), sha256: text("new") },
            Record::FenceIntent { units: vec![text("rke2-server.service")] },
            Record::Fenced,
            Record::CordonIntent { was_cordoned: false, was_tainted: false },
            Record::Cordoned,
        ] {
            journal.append(record).unwrap();
        }
        let (publisher, ears) = Publisher::new();
        let run = Run {
            host: Host { root, systemd },
            cluster: Cluster { client: server.client(), namespace: "harvester-system".to_owned() },
            plan: plan(),
            journal,
            program: PROGRAM.into(),
            soak: Duration::from_secs(5),
            seen_live: None,
            guard_is_own: false,
            local_address: [127, 0, 0, 1].into(),
            shutdown: CancellationToken::new(),
            publisher,
        };
        Self { server, run, machine, ears, stop }
    }

    fn call(&self, method: &Method, path: &str, body: &Value) {
        self.server.call(method, path, body).unwrap();
    }

    fn path(vm: &VmKey) -> String {
        format!("/apis/kubevirt.io/v1/namespaces/{}/virtualmachines/{}", vm.namespace, vm.name)
    }

    pub(crate) fn vm(&self, vm: &VmKey) -> Value {
        let found = self.server.get_object("kubevirt.io", "virtualmachines", &vm.namespace, &vm.name);
        (*found.unwrap()).clone()
    }

    fn instance(&self, vm: &VmKey) -> Option<Value> {
        let group = "kubevirt.io";
        let found = self.server.get_object(group, "virtualmachineinstances", &vm.namespace, &vm.name);
        found.map(|found| (*found).clone())
    }

    pub(crate) fn runs(&self, vm: &VmKey) -> bool {
        self.instance(vm).is_some_and(|vmi| vmi["status"]["phase"] == "Running")
    }

    pub(crate) fn line(&self, vm: &VmKey) -> LedgerLine {
        self.run.journal.progress().ledger().line(vm).unwrap().clone()
    }

    pub(crate) fn patch_vm(&self, vm: &VmKey, patch: &Value) {
        self.call(&Method::PATCH, &Self::path(vm), patch);
    }

    pub(crate) fn set_strategy(&self, vm: &VmKey, strategy: &str) {
        self.patch_vm(vm, &json!({"spec": {"runStrategy": strategy}}));
    }

    pub(crate) fn annotate(&self, vm: &VmKey, mark: Option<&str>) {
        let mark = json!({"metadata": {"annotations": {"agent.harvesterhci.io/stopped-for": mark}}});
        self.patch_vm(vm, &mark);
    }

    pub(crate) fn delete_vm(&self, vm: &VmKey) {
        self.call(&Method::DELETE, &Self::path(vm), &Value::Null);
    }

    /// Time for the simulators to do all that is to be done.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_mins(5)).await;
    }

    fn devices_of(&self, vm: &VmKey) -> Vec<String> {
        let vm = self.vm(vm);
        let devices = &vm["spec"]["template"]["spec"]["domain"]["devices"];
        let all = ["hostDevices", "gpus"].iter().filter_map(|list| devices[list].as_array()).flatten();
        all.map(|device| device["deviceName"].as_str().unwrap().to_owned()).collect()
    }

    /// VMs of the node that hold a device.
    pub(crate) fn with_devices(&self) -> Vec<VmKey> {
        let all = self.server.list_objects("kubevirt.io", "virtualmachines", "", "");
        let text =
            |vm: &Value, pointer: &str| vm.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let keys =
            all.iter().map(|vm| VmKey::new(&text(vm, "/metadata/namespace"), &text(vm, "/metadata/name")));
        keys.filter(|vm| !self.devices_of(vm).is_empty()).collect()
    }

    /// One whose device no other of these has.
    pub(crate) fn one_of_its_kind(&self, vms: &[VmKey]) -> VmKey {
        let has = |vm: &VmKey, other: &VmKey| self.devices_of(vm) == self.devices_of(other);
        vms.iter().find(|vm| vms.iter().filter(|other| has(vm, other)).count() == 1).unwrap().clone()
    }

    pub(crate) fn set_strategy_of_those_with_devices(&self, strategy: &str) {
        for vm in self.with_devices() {
            self.patch_vm(&vm, &json!({"spec": {"runStrategy": strategy}}));
        }
    }

    /// Everybody on the node into the ledger, changed a little.
    pub(crate) async fn enter(&mut self, change: impl Fn(&mut VmEntry)) {
        let client = self.server.client();
        let mut entries = Vec::new();
        for vmi in instances_on(&client, "node1").await.unwrap() {
            let facts = vm_facts::facts(&client, &vmi).await.unwrap();
            let mut entry = enter(&facts, &self.run.plan.evacuation, &Elsewhere::Open);
            change(&mut entry);
            entries.push(entry);
        }
        self.run.record(Record::LedgerWritten { vms: entries }).unwrap();
    }

    /// The agent shuts those down that hold a device.
    pub(crate) async fn stop_those_with_devices(&mut self) -> Vec<VmKey> {
        self.stop(|_| {}).await
    }

    /// It shuts everybody down.
    pub(crate) async fn stop_all(&mut self) -> Vec<VmKey> {
        self.stop(|entry| entry.verdict = Verdict::ShutDown { why: "the test wants it".into() }).await
    }

    /// The same, and somebody does something to the second of them while its guest is going down.
    pub(crate) async fn stop_those_with_devices_while(&mut self, did: impl Fn(&Self, &VmKey)) -> Vec<VmKey> {
        self.enter(|_| {}).await;
        let vms = self.with_devices();
        for vm in &vms {
            vm_actions::perform(&mut self.run, VmAction::Stop { vm: vm.clone() }, None).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(self.runs(&vms[1]), "its guest is still going down");
        did(self, &vms[1]);
        self.settle().await;
        for vm in &vms {
            let gone = VmAction::RecordGone { vm: vm.clone() };
            vm_actions::perform(&mut self.run, gone, Some(true)).await.unwrap();
        }
        vms
    }

    async fn stop(&mut self, change: impl Fn(&mut VmEntry)) -> Vec<VmKey> {
        self.enter(change).await;
        let lines = self.run.journal.progress().ledger().lines();
        let off = lines.filter(|line| matches!(line.entry.verdict, Verdict::ShutDown { .. }));
        let vms: Vec<VmKey> = off.map(|line| line.entry.vm.clone()).collect();
        for vm in &vms {
            vm_actions::perform(&mut self.run, VmAction::Stop { vm: vm.clone() }, None).await.unwrap();
        }
        self.settle().await;
        for vm in &vms {
            assert!(self.instance(vm).is_none(), "{vm} is not off");
            let gone = VmAction::RecordGone { vm: vm.clone() };
            vm_actions::perform(&mut self.run, gone, Some(true)).await.unwrap();
        }
        vms
    }

    /// Somebody else stops a VM, through virt-api.
    pub(crate) async fn stop_by_somebody_else(&self, vm: &VmKey) {
        upgrade_agent::cluster::vms::stop(&self.server.client(), vm, None).await.unwrap();
        self.settle().await;
        assert!(self.instance(vm).is_none());
    }

    /// Harvester's helper writes its list.
    pub(crate) fn write_list(&self, data: &Value) {
        let name = format!("{UPGRADE}-restore-vm");
        let path = "/api/v1/namespaces/harvester-system/configmaps";
        if self.server.get_object("", "configmaps", "harvester-system", &name).is_some() {
            self.call(&Method::PATCH, &format!("{path}/{name}"), &json!({ "data": data }));
        } else {
            let made =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
            self.call(&Method::POST, path, &made);
        }
    }

    fn withdraw(&self, device: &str) {
        let gone = json!({"status": {"allocatable": { device: null }, "capacity": { device: null }}});
        self.call(&Method::PATCH, "/api/v1/nodes/node1/status", &gone);
    }

    pub(crate) fn lose_device_of(&self, vm: &VmKey) {
        self.withdraw(&self.devices_of(vm)[0]);
    }

    /// Its device goes, and Harvester's add-on knows why.
    pub(crate) fn disable_passthrough_of(&self, vm: &VmKey) {
        let device = &self.devices_of(vm)[0];
        self.withdraw(device);
        let known = json!({"apiVersion": "devices.harvesterhci.io/v1beta1", "kind": "PCIDevice",
            "metadata": {"name": "node1-000001", "labels": {"nodename": "node1"}},
            "status": {"resourceName": device, "kernelDriverInUse": "nvidia"}});
        self.server.load(known).unwrap();
    }

    pub(crate) fn permit_all_but_those_of(&self, vm: &VmKey) {
        let theirs = self.devices_of(vm);
        let all = self.with_devices().iter().flat_map(|vm| self.devices_of(vm)).collect::<Vec<_>>();
        let listed: Vec<Value> = all
            .iter()
            .filter(|device| !theirs.contains(device))
            .map(|device| json!({"resourceName": device, "externalResourceProvider": true}))
            .collect();
        let kubevirt = json!({"apiVersion": "kubevirt.io/v1", "kind": "KubeVirt",
            "metadata": {"name": "kubevirt", "namespace": "harvester-system"},
            "spec": {"configuration": {"permittedHostDevices": {"pciHostDevices": listed}}}});
        self.server.load(kubevirt).unwrap();
    }

    pub(crate) fn fault_volume_of(&self, vm: &VmKey) {
        let claims = self.server.list_objects("", "persistentvolumeclaims", &vm.namespace, "");
        let own = |claim: &Value| claim["metadata"]["name"] == json!(format!("{}-disk-0", vm.name));
        let claim = claims.iter().find(|claim| own(claim)).unwrap();
        let volume = claim["spec"]["volumeName"].as_str().unwrap();
        let path = format!("/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumes/{volume}");
        let faulted = json!({"status": {"robustness": "faulted"}});
        let both =
            ["", "/status"].map(|of| self.server.call(&Method::PATCH, &format!("{path}{of}"), &faulted));
        assert!(both.iter().any(Result::is_ok), "{both:?}");
    }
}

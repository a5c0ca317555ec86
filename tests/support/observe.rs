//! What a test sees of a run: its journal, its machine, its VMs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use tokio::time::Instant;
use upgrade_agent::flow::vms::VmKey;
use upgrade_agent::sim::world;

use super::{LIVE, Stage};

impl Stage {
    /// The journal as it is on disk; empty before it is there.
    pub fn journal(&self) -> String {
        std::fs::read_to_string(self.journal_path()).unwrap_or_default()
    }

    /// Where it lies, as seen from here.
    pub fn journal_path(&self) -> PathBuf {
        let path = format!("var/lib/rancher/upgrade-agent/{}/journal.jsonl", self.upgrade_uid);
        self.machine.root().join(path)
    }

    /// How many lines of the journal are this record.
    pub fn records(&self, record: &str) -> usize {
        records_in(&self.journal(), record)
    }

    /// pid of the running RKE2 as systemd on the machine sees it.
    pub async fn rke2_pid(&self) -> Result<String> {
        let pid = self.machine.must_run(&["systemctl", "show", "-P", "MainPID", &self.unit()]).await?;
        let pid = pid.trim().to_owned();
        ensure!(pid != "0", "{} does not run", self.unit());
        Ok(pid)
    }

    /// sha256 of what RKE2 runs now, wherever that lies.
    pub async fn running_sha256(&self) -> Result<String> {
        let pid = self.rke2_pid().await?;
        let text = self.machine.must_run(&["sha256sum", &format!("/proc/{pid}/exe")]).await?;
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// sha256 of the live binary.
    pub async fn live_sha256(&self) -> Result<String> {
        let text = self.machine.must_run(&["sha256sum", LIVE]).await?;
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// uid and node of every running instance, by name.
    pub async fn instances(&self) -> Result<BTreeMap<VmKey, (String, String)>> {
        let api = self.all(&world::vmi_resource());
        let list = api.list(&ListParams::default()).await?;
        Ok(list
            .iter()
            .filter(|vmi| vmi.namespace().as_ref() == Some(&self.namespace))
            .filter(|vmi| vmi.data["status"]["phase"] == "Running")
            .map(|vmi| {
                let key = VmKey::new(&vmi.namespace().unwrap_or_default(), &vmi.name_any());
                let node = vmi.data["status"]["nodeName"].as_str().unwrap_or_default().to_owned();
                (key, (vmi.uid().unwrap_or_default(), node))
            })
            .collect())
    }

    /// An API over all namespaces.
    pub fn all(&self, resource: &ApiResource) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), resource)
    }

    /// Waits until `ready` says so: minutes if need be, for a busy machine is no failure of the agent's.
    pub async fn wait(&self, what: &str, ready: impl AsyncFnMut() -> bool) -> Result<()> {
        self.wait_within(what, Duration::from_mins(15), ready).await
    }

    /// The same, for what may well not come.
    pub async fn wait_within(
        &self,
        what: &str,
        patience: Duration,
        mut ready: impl AsyncFnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !ready().await {
            if Instant::now() > deadline {
                bail!("waited {patience:?} in vain for {what}; journal:\n{}", self.journal());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// How many lines of a journal are this record.
pub fn records_in(journal: &str, record: &str) -> usize {
    journal.matches(&format!("\"record\":\"{record}\"")).count()
}

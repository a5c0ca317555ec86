//! `NodePlan`: the order sheet of one node upgrade. Immutable; the journal is opened with its digest.
//!
//! The custom resource's spec, a YAML file and the command line all become this one type.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::flow::artifacts::Artifacts;
use crate::flow::plan_error::PlanError;
use crate::flow::version::Rke2Version;
use crate::flow::vms::VmKey;

/// What one node is to go through (design §4.1 without `control`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePlan {
    /// Name of the `Upgrade` this belongs to.
    pub upgrade_name: String,
    /// Its uid: every record, fence and mark of this run carries it.
    #[serde(rename = "upgradeUID")]
    pub upgrade_uid: String,
    /// The node to upgrade.
    pub node_name: String,
    /// Found out on the machine when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Versions before and after.
    pub rke2: VersionChange,
    /// Where the new binary comes from.
    pub artifacts: Artifacts,
    /// Who puts the binary in place.
    #[serde(default)]
    pub swap: SwapMode,
    /// What happens to virtual machines.
    #[serde(default)]
    pub evacuation: Evacuation,
    /// Sets the immutable flag on the live binary while the fence stands: installers that unpack over it fail then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub immutable_binary: bool,
    /// Operating system part, after `RKE2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<OsPart>,
}

/// Which `RKE2` service the node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// `rke2-server`: control plane, etcd, or both.
    Server,
    /// `rke2-agent`: workloads only.
    Agent,
}

impl Role {
    /// The systemd unit of this role.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Server => "rke2-server.service",
            Self::Agent => "rke2-agent.service",
        }
    }
}

/// Versions before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionChange {
    /// The version that must be running now.
    #[schemars(with = "String", regex(pattern = r"^v[0-9]+\.[0-9]+\.[0-9]+(-rc[0-9]+)?\+rke2r[0-9]+$"))]
    pub from: Rke2Version,
    /// The version to run afterwards.
    #[schemars(with = "String", regex(pattern = r"^v[0-9]+\.[0-9]+\.[0-9]+(-rc[0-9]+)?\+rke2r[0-9]+$"))]
    pub to: Rke2Version,
}

/// Who puts the binary in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SwapMode {
    /// This agent.
    #[default]
    Direct,
    /// Rancher's system-agent.
    Rancher,
}

/// What may be done to virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Evacuation {
    /// For VMs that cannot live-migrate.
    pub non_migratable: NonMigratable,
    /// For VMs whose migration keeps failing.
    pub on_migration_failure: MigrationFailure,
    /// For guests that do not shut down in time.
    pub on_shutdown_timeout: ShutdownTimeout,
    /// Seconds a guest has to shut down; the VM's own termination grace period wins when longer.
    #[schemars(range(min = 1, max = 86400))]
    pub guest_shutdown_seconds: u32,
    /// Seconds one VM may take to live-migrate, all attempts together.
    #[schemars(range(min = 1, max = 86400))]
    pub migration_seconds: u32,
    /// VMs, as `namespace/name`, never to be touched: the node holds instead.
    pub exclude: BTreeSet<VmKey>,
}

impl Default for Evacuation {
    fn default() -> Self {
        Self {
            non_migratable: NonMigratable::default(),
            on_migration_failure: MigrationFailure::default(),
            on_shutdown_timeout: ShutdownTimeout::default(),
            guest_shutdown_seconds: 300,
            migration_seconds: 1800,
            exclude: BTreeSet::new(),
        }
    }
}

impl Evacuation {
    /// How long a guest may take to shut down: the VM's own grace period when that is longer.
    #[must_use]
    pub fn guest_shutdown(&self, own_grace_seconds: Option<u32>) -> Duration {
        Duration::from_secs(u64::from(self.guest_shutdown_seconds.max(own_grace_seconds.unwrap_or(0))))
    }

    /// How long one VM may take to live-migrate, all attempts together.
    #[must_use]
    pub fn migration(&self) -> Duration {
        Duration::from_secs(u64::from(self.migration_seconds))
    }
}

/// Policy for VMs that cannot live-migrate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum NonMigratable {
    /// Shut the guest down, start it again afterwards.
    #[default]
    ShutdownAndRestore,
    /// Wait for an operator.
    Hold,
}

/// Policy for VMs whose migration keeps failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum MigrationFailure {
    /// Wait for an operator.
    #[default]
    Hold,
    /// Shut the guest down, start it again afterwards.
    ShutdownAndRestore,
}

/// Policy for guests that do not shut down in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum ShutdownTimeout {
    /// Wait for an operator.
    #[default]
    Hold,
    /// Cut the guest's power; recorded as forced.
    ForceOff,
}

/// Operating system part of the upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OsPart {
    /// Absolute program and its arguments.
    pub hook: Vec<String>,
    /// Reboot afterwards.
    pub reboot: bool,
}

impl VersionChange {
    /// Does it leave a minor out, or change the major?
    #[must_use]
    pub fn skips_minor(&self) -> bool {
        self.to.minor() != self.from.minor() && self.to.minor() != self.from.next_minor().minor()
    }
}

impl NodePlan {
    /// Checks everything that can be known from the plan alone.
    ///
    /// # Errors
    /// [`PlanError`], the first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        let texts = [
            ("upgradeName", &self.upgrade_name),
            ("upgradeUID", &self.upgrade_uid),
            ("nodeName", &self.node_name),
        ];
        for (field, text) in texts {
            if text.trim().is_empty() {
                return Err(PlanError::Empty { field });
            }
        }
        // The uid becomes a folder name under the state directory.
        if !self.upgrade_uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(PlanError::BadUid(self.upgrade_uid.clone()));
        }
        let VersionChange { from, to } = self.rke2.clone();
        if to <= from {
            return Err(PlanError::NotNewer { from, to });
        }
        if self.rke2.skips_minor() {
            return Err(PlanError::SkipsMinor { from, to });
        }
        self.artifacts.check()?;
        let times = [
            ("guestShutdownSeconds", self.evacuation.guest_shutdown_seconds),
            ("migrationSeconds", self.evacuation.migration_seconds),
        ];
        for (field, seconds) in times {
            if !(1..=86400).contains(&seconds) {
                return Err(PlanError::BadSeconds { field, seconds });
            }
        }
        match self.swap {
            SwapMode::Direct => {}
            SwapMode::Rancher => return Err(PlanError::Unsupported("swap: Rancher")),
        }
        if self.os.is_some() {
            return Err(PlanError::Unsupported("os"));
        }
        Ok(())
    }
}

impl fmt::Display for NodePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {} ({})", self.node_name, self.rke2.from, self.rke2.to, self.upgrade_name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn plan() -> NodePlan {
        NodePlan {
            upgrade_name: "hvst-upgrade-abcde".into(),
            upgrade_uid: "6f1c9a3e-0001".into(),
            node_name: "node1".into(),
            role: None,
            rke2: VersionChange {
                from: "v1.34.2+rke2r1".parse().unwrap(),
                to: "v1.35.6+rke2r1".parse().unwrap(),
            },
            artifacts: Artifacts {
                source: "file:///var/lib/rancher/release".into(),
                sha256: "a".repeat(64),
                sums: None,
                images: Vec::new(),
            },
            swap: SwapMode::Direct,
            evacuation: Evacuation::default(),
            immutable_binary: false,
            os: None,
        }
    }

    #[test]
    fn a_sound_plan_passes() {
        assert_eq!(plan().check(), Ok(()));
    }

    #[test]
    fn a_wrong_plan_names_its_field() {
        type Break = fn(&mut NodePlan);
        let table: [(Break, &str); 11] = [
            (|p| p.evacuation.migration_seconds = 0, "1 to 86400"),
            (|p| p.upgrade_name = " ".into(), "`upgradeName` is empty"),
            (|p| p.upgrade_uid = "../../etc".into(), "copy metadata.uid"),
            (|p| p.node_name = String::new(), "`nodeName` is empty"),
            (|p| p.rke2.to = p.rke2.from.clone(), "not newer"),
            (|p| p.rke2.to = "v1.33.9+rke2r1".parse().unwrap(), "not newer"),
            (|p| p.rke2.to = "v1.36.0+rke2r1".parse().unwrap(), "skips a Kubernetes minor"),
            (|p| p.artifacts.sha256 = "abc".into(), "sha256sum"),
            (|p| p.artifacts.source = "ftp://mirror/rke2".into(), "artifacts.source"),
            (|p| p.swap = SwapMode::Rancher, "swap: Rancher"),
            (|p| p.os = Some(OsPart { hook: vec![], reboot: true }), "`os`"),
        ];
        for (spoil, expected) in table {
            let mut plan = plan();
            spoil(&mut plan);
            let error = plan.check().unwrap_err().to_string();
            assert!(error.contains(expected), "{error} should say {expected}");
        }
    }

    #[test]
    fn a_longer_own_grace_period_wins() {
        let policy = Evacuation::default();
        assert_eq!(policy.guest_shutdown(None), Duration::from_mins(5));
        assert_eq!(policy.guest_shutdown(Some(120)), Duration::from_mins(5));
        assert_eq!(policy.guest_shutdown(Some(900)), Duration::from_mins(15));
    }
}

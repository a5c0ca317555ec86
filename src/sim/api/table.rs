//! The kinds that are served from the start, as Kubernetes 1.35 and the products on a Harvester node define them.

use std::borrow::Cow;

use super::kinds::{Generation, Kind};

/// A kind in one line: plural, kind, and what differs from a namespaced kind that has a status subresource.
type Row = (&'static str, &'static str, &'static [Trait]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trait {
    /// Cluster-scoped.
    Cluster,
    /// Without a status subresource.
    Whole,
    /// Without `metadata.generation`.
    Ungenerated,
    /// Selectable by this field.
    By(&'static str),
}

use Trait::{By, Cluster, Ungenerated, Whole};

const CORE: &[Row] = &[
    ("configmaps", "ConfigMap", &[Whole, Ungenerated]),
    (
        "events",
        "Event",
        &[
            Whole,
            Ungenerated,
            By("involvedObject.kind"),
            By("involvedObject.namespace"),
            By("involvedObject.name"),
            By("involvedObject.uid"),
            By("involvedObject.apiVersion"),
            By("involvedObject.resourceVersion"),
            By("involvedObject.fieldPath"),
            By("reason"),
            By("reportingComponent"),
            By("source"),
            By("type"),
        ],
    ),
    ("namespaces", "Namespace", &[Cluster, Ungenerated, By("status.phase")]),
    ("nodes", "Node", &[Cluster, Ungenerated, By("spec.unschedulable")]),
    ("persistentvolumeclaims", "PersistentVolumeClaim", &[Ungenerated]),
    ("persistentvolumes", "PersistentVolume", &[Cluster, Ungenerated]),
    (
        "pods",
        "Pod",
        &[
            By("spec.nodeName"),
            By("spec.restartPolicy"),
            By("spec.schedulerName"),
            By("spec.serviceAccountName"),
            By("spec.hostNetwork"),
            By("status.phase"),
            By("status.podIP"),
            By("status.nominatedNodeName"),
        ],
    ),
    ("secrets", "Secret", &[Whole, Ungenerated, By("type")]),
    ("serviceaccounts", "ServiceAccount", &[Whole, Ungenerated]),
    ("services", "Service", &[Ungenerated, By("spec.clusterIP"), By("spec.type")]),
];

const APPS: &[Row] = &[
    ("controllerrevisions", "ControllerRevision", &[Whole, Ungenerated]),
    ("daemonsets", "DaemonSet", &[]),
    ("deployments", "Deployment", &[]),
    ("replicasets", "ReplicaSet", &[By("status.replicas")]),
    ("statefulsets", "StatefulSet", &[]),
];

const RBAC: &[Row] = &[
    ("clusterrolebindings", "ClusterRoleBinding", &[Cluster, Whole, Ungenerated]),
    ("clusterroles", "ClusterRole", &[Cluster, Whole, Ungenerated]),
    ("rolebindings", "RoleBinding", &[Whole, Ungenerated]),
    ("roles", "Role", &[Whole, Ungenerated]),
];

const STORAGE: &[Row] = &[
    ("csidrivers", "CSIDriver", &[Cluster, Whole]),
    ("csinodes", "CSINode", &[Cluster, Whole, Ungenerated]),
    ("storageclasses", "StorageClass", &[Cluster, Whole, Ungenerated]),
    ("volumeattachments", "VolumeAttachment", &[Cluster, Ungenerated]),
];

const ADMISSION: &[Row] = &[
    ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", &[Cluster, Whole]),
    ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", &[Cluster, Whole]),
];

/// Kinds of Kubernetes itself.
const BUILT_IN: &[(&str, &str, &[Row])] = &[
    ("", "v1", CORE),
    ("admissionregistration.k8s.io", "v1", ADMISSION),
    ("apiextensions.k8s.io", "v1", &[("customresourcedefinitions", "CustomResourceDefinition", &[Cluster])]),
    ("apiregistration.k8s.io", "v1", &[("apiservices", "APIService", &[Cluster, Ungenerated])]),
    ("apps", "v1", APPS),
    ("batch", "v1", &[("cronjobs", "CronJob", &[]), ("jobs", "Job", &[By("status.successful")])]),
    ("coordination.k8s.io", "v1", &[("leases", "Lease", &[Whole, Ungenerated])]),
    ("policy", "v1", &[("poddisruptionbudgets", "PodDisruptionBudget", &[])]),
    ("rbac.authorization.k8s.io", "v1", RBAC),
    ("scheduling.k8s.io", "v1", &[("priorityclasses", "PriorityClass", &[Cluster, Whole])]),
    ("storage.k8s.io", "v1", STORAGE),
];

const KUBEVIRT: &[Row] = &[
    ("kubevirts", "KubeVirt", &[]),
    ("virtualmachineinstancemigrations", "VirtualMachineInstanceMigration", &[]),
    ("virtualmachineinstances", "VirtualMachineInstance", &[Whole]),
    ("virtualmachines", "VirtualMachine", &[]),
];

const HARVESTER: &[Row] = &[
    ("addons", "Addon", &[]),
    ("keypairs", "KeyPair", &[Whole]),
    ("settings", "Setting", &[Cluster, Whole]),
    ("upgradelogs", "UpgradeLog", &[Whole]),
    ("upgrades", "Upgrade", &[Whole]),
    ("versions", "Version", &[Whole]),
    ("virtualmachinebackups", "VirtualMachineBackup", &[Whole]),
    ("virtualmachineimages", "VirtualMachineImage", &[Whole]),
];

const DEVICES: &[Row] = &[
    ("pcideviceclaims", "PCIDeviceClaim", &[Cluster]),
    ("pcidevices", "PCIDevice", &[Cluster]),
    ("sriovgpudevices", "SRIOVGPUDevice", &[Cluster]),
    ("sriovnetworkdevices", "SRIOVNetworkDevice", &[Cluster]),
    ("usbdeviceclaims", "USBDeviceClaim", &[Cluster]),
    ("usbdevices", "USBDevice", &[Cluster]),
    ("vgpudevices", "VGPUDevice", &[Cluster]),
];

const LONGHORN: &[Row] = &[
    ("backingimagedatasources", "BackingImageDataSource", &[]),
    ("backingimagemanagers", "BackingImageManager", &[]),
    ("backingimages", "BackingImage", &[]),
    ("backups", "Backup", &[]),
    ("backuptargets", "BackupTarget", &[]),
    ("backupvolumes", "BackupVolume", &[]),
    ("engineimages", "EngineImage", &[]),
    ("engines", "Engine", &[]),
    ("instancemanagers", "InstanceManager", &[]),
    ("nodes", "Node", &[]),
    ("orphans", "Orphan", &[]),
    ("recurringjobs", "RecurringJob", &[]),
    ("replicas", "Replica", &[]),
    ("settings", "Setting", &[]),
    ("sharemanagers", "ShareManager", &[]),
    ("snapshots", "Snapshot", &[]),
    ("supportbundles", "SupportBundle", &[]),
    ("systembackups", "SystemBackup", &[]),
    ("systemrestores", "SystemRestore", &[]),
    ("volumeattachments", "VolumeAttachment", &[]),
    ("volumes", "Volume", &[]),
];

const LOGGING: &[Row] = &[
    ("clusterflows", "ClusterFlow", &[]),
    ("clusteroutputs", "ClusterOutput", &[]),
    ("fluentbitagents", "FluentbitAgent", &[Cluster]),
    ("loggings", "Logging", &[Cluster]),
];

const RKE: &[Row] = &[
    ("custommachines", "CustomMachine", &[]),
    ("etcdsnapshots", "ETCDSnapshot", &[]),
    ("rkebootstraps", "RKEBootstrap", &[]),
    ("rkebootstraptemplates", "RKEBootstrapTemplate", &[Whole]),
    ("rkeclusters", "RKECluster", &[]),
    ("rkecontrolplanes", "RKEControlPlane", &[]),
];

const SNAPSHOTS: &[Row] = &[
    ("volumesnapshotclasses", "VolumeSnapshotClass", &[Cluster, Whole]),
    ("volumesnapshotcontents", "VolumeSnapshotContent", &[Cluster]),
    ("volumesnapshots", "VolumeSnapshot", &[]),
];

/// Kinds that `CustomResourceDefinition`s of the products make.
const CUSTOM: &[(&str, &str, &[Row])] = &[
    ("agent.harvesterhci.io", "v1alpha1", &[("nodeupgrades", "NodeUpgrade", &[By("spec.nodeName")])]),
    ("cluster.x-k8s.io", "v1beta1", &[("clusters", "Cluster", &[]), ("machines", "Machine", &[])]),
    ("devices.harvesterhci.io", "v1beta1", DEVICES),
    ("harvesterhci.io", "v1beta1", HARVESTER),
    (
        "helm.cattle.io",
        "v1",
        &[("helmchartconfigs", "HelmChartConfig", &[]), ("helmcharts", "HelmChart", &[])],
    ),
    ("k8s.cni.cncf.io", "v1", &[("network-attachment-definitions", "NetworkAttachmentDefinition", &[Whole])]),
    ("kubevirt.io", "v1", KUBEVIRT),
    ("logging.banzaicloud.io", "v1beta1", LOGGING),
    ("longhorn.io", "v1beta2", LONGHORN),
    (
        "management.cattle.io",
        "v3",
        &[("managedcharts", "ManagedChart", &[]), ("settings", "Setting", &[Cluster])],
    ),
    ("migrations.kubevirt.io", "v1alpha1", &[("migrationpolicies", "MigrationPolicy", &[Cluster])]),
    ("provisioning.cattle.io", "v1", &[("clusters", "Cluster", &[])]),
    ("rke.cattle.io", "v1", RKE),
    ("snapshot.storage.k8s.io", "v1", SNAPSHOTS),
    ("upgrade.cattle.io", "v1", &[("plans", "Plan", &[])]),
];

/// All kinds of the table.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    let built_in = BUILT_IN.iter().map(|group| (group, false));
    let custom = CUSTOM.iter().map(|group| (group, true));
    built_in.chain(custom).flat_map(|((group, version, rows), custom)| {
        rows.iter().map(move |row| kind(group, version, row, custom))
    })
}

fn kind(group: &'static str, version: &'static str, row: &Row, custom: bool) -> Kind {
    let (plural, kind, traits) = *row;
    let has = |wanted| traits.contains(&wanted);
    let fields = traits.iter().filter_map(|one| match one {
        By(field) => Some(Cow::Borrowed(*field)),
        Cluster | Whole | Ungenerated => None,
    });
    let generation = match (custom, has(Ungenerated)) {
        (true, _) => Generation::Content,
        (false, true) => Generation::Never,
        (false, false) => Generation::Spec,
    };
    Kind {
        group: group.into(),
        version: version.into(),
        group_version: format!("{group}/{version}").into(),
        plural: plural.into(),
        kind: kind.into(),
        namespaced: !has(Cluster),
        status: !has(Whole),
        custom,
        generation,
        fields: fields.collect(),
    }
}

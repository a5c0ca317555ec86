//! What a machine is before a rehearsal begins: its disks, its unit, its binary. Built once, started thousands of times.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::disk::{Disk, MountSpec};
use super::etcd;
use super::release::{binary, release};
use crate::flow::plan::Role;
use crate::host::fs::FsKind;

/// Where the release tarball of the plan lies on a machine.
pub const ARTIFACT: &str = "/var/lib/rancher/artifacts/rke2.linux-amd64.tar.gz";
/// Where the agent's own program lies.
pub const PROGRAM: &str = "/usr/bin/upgrade-agent";
/// Where the agent keeps its state; on a persistent disk in both layouts.
pub const STATE_DIR: &str = "/var/lib/rancher/upgrade-agent";

/// How the disks of a machine are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One ext4 file system; RKE2 below `/usr/local`, its unit in `/usr/local/lib/systemd/system`.
    Plain,
    /// An image that cannot be written, an overlay in memory, and bind mounts of one partition; RKE2 below `/opt/rke2`,
    /// its unit in `/etc/systemd/system`.
    Harvester,
}

impl Layout {
    /// The install prefix of RKE2.
    #[must_use]
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Plain => "/usr/local",
            Self::Harvester => "/opt/rke2",
        }
    }

    /// The live binary.
    #[must_use]
    pub fn live(self) -> String {
        format!("{}/bin/rke2", self.prefix())
    }
}

/// What a machine is and how long it takes for things.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Decides boot ids, invocation ids and whatever else is random in life.
    pub seed: u64,
    /// Server or agent.
    pub role: Role,
    /// Its disks.
    pub layout: Layout,
    /// The RKE2 that is installed and runs.
    pub from: String,
    /// The RKE2 whose tarball lies at [`ARTIFACT`].
    pub to: String,
    /// 32 hex digits.
    pub machine_id: String,
    /// The kernel's name for the boot that it is in at first; one by the seed when empty.
    pub boot_id: String,
    /// Its only control plane: the API is away while its RKE2 comes up.
    pub is_only_server: bool,
    /// Where its health ports listen.
    pub address: IpAddr,
    /// Power cut to systemd starting its units.
    pub boot: Duration,
    /// RKE2's order to start to its readiness.
    pub start: Duration,
    /// RKE2's order to stop to its end.
    pub stop: Duration,
    /// A daemon-reload.
    pub reload: Duration,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            seed: 1,
            role: Role::Server,
            layout: Layout::Plain,
            from: "v1.34.3+rke2r3".to_owned(),
            to: "v1.35.6+rke2r1".to_owned(),
            machine_id: "0123456789abcdef0123456789abcdef".to_owned(),
            boot_id: String::new(),
            is_only_server: false,
            address: IpAddr::from([127, 0, 0, 1]),
            boot: Duration::from_mins(1),
            // Clients look every half second: short waits keep rehearsals quick.
            start: Duration::from_secs(4),
            stop: Duration::from_secs(1),
            reload: Duration::from_millis(300),
        }
    }
}

/// A machine to start rehearsals from.
#[derive(Debug, Clone)]
pub struct MachineImage {
    /// What it is.
    pub spec: MachineSpec,
    /// Its disks; change them at will before it is started.
    pub disk: Disk,
}

impl MachineImage {
    /// Lays out a machine with RKE2 installed and enabled, and the release of the new version at hand.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(spec: MachineSpec) -> io::Result<Self> {
        let mut disk = match spec.layout {
            Layout::Plain => Disk::new(MountSpec::ext4(0x801)),
            Layout::Harvester => harvester()?,
        };
        disk.mount(
            "/proc",
            MountSpec { device: 5, kind: FsKind::Other("0x9fa0".to_owned()), volatile: true },
        )?;
        disk.mount("/run", MountSpec::tmpfs(6))?;
        disk.mount(
            "/sys",
            MountSpec { device: 7, kind: FsKind::Other("0x62656572".to_owned()), volatile: true },
        )?;
        disk.install(spec.layout.live(), binary(&spec.from), 0o755)?;
        let (role, prefix, unit) = (role_word(spec.role), spec.layout.prefix(), spec.role.unit());
        let env = format!("{prefix}/lib/systemd/system/rke2-{role}.env");
        disk.install(env, "HOME=/root\n", 0o644)?;
        let fragment = match spec.layout {
            Layout::Plain => format!("/usr/local/lib/systemd/system/{unit}"),
            Layout::Harvester => format!("/etc/systemd/system/{unit}"),
        };
        disk.install(&fragment, unit_text(prefix, role), 0o644)?;
        let wants = format!("/etc/systemd/system/multi-user.target.wants/{unit}");
        disk.install_link(wants, &fragment)?;
        if spec.role == Role::Server {
            disk.install_dir(Path::new("/var/lib/rancher/rke2/server/db/snapshots"))?;
            disk.install_dir(Path::new("/var/lib/rancher/rke2/server/db/etcd"))?;
        }
        disk.install(PROGRAM, "upgrade-agent", 0o755)?;
        disk.install(ARTIFACT, release(&spec.to)?.tarball.clone(), 0o644)?;
        etcd::install(&mut disk, spec.role)?;
        write_boot_files(&mut disk, &spec)?;
        Ok(Self { spec, disk })
    }
}

/// What the operating system puts into memory at each boot; on a plain disk it is there already.
pub(super) fn write_boot_files(disk: &mut Disk, spec: &MachineSpec) -> Result<(), Errno> {
    if disk.read(Path::new("/etc/machine-id")).is_err() {
        disk.install("/etc/machine-id", format!("{}\n", spec.machine_id), 0o444)?;
    }
    Ok(())
}

/// cOS: squashfs below, memory over `/etc`, bind mounts of the persistent partition over that.
fn harvester() -> Result<Disk, Errno> {
    const PERSISTENT: u64 = 0x803;
    let squashfs = MountSpec { device: 0x700, kind: FsKind::Other("squashfs".to_owned()), volatile: false };
    let mut disk = Disk::new(squashfs);
    let bound = ["/usr/local", "/opt", "/var/lib/rancher", "/var/lib/kubelet"];
    for path in ["/etc", "/var"] {
        disk.mount(path, MountSpec { device: 0x20, kind: FsKind::Overlay, volatile: true })?;
    }
    for path in bound.into_iter().chain(["/etc/systemd", "/etc/rancher"]) {
        disk.mount(path, MountSpec::ext4(PERSISTENT))?;
    }
    disk.install_dir(Path::new("/proc"))?;
    disk.install_dir(Path::new("/run"))?;
    disk.install_dir(Path::new("/sys"))?;
    Ok(disk)
}

pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Server => "server",
        Role::Agent => "agent",
    }
}

/// RKE2's unit file as its installer leaves it.
pub(super) fn unit_text(prefix: &str, role: &str) -> String {
    format!(
        "[Unit]\nDescription=Rancher Kubernetes Engine v2 ({role})\nWants=network-online.target\n\
         After=network-online.target\n\n[Install]\nWantedBy=multi-user.target\n\n[Service]\nType=notify\n\
         EnvironmentFile=-{prefix}/lib/systemd/system/%N.env\nKillMode=process\nDelegate=yes\n\
         TimeoutStartSec=0\nRestart=always\nRestartSec=5s\nExecStartPre=-/sbin/modprobe overlay\n\
         ExecStart={prefix}/bin/rke2 {role}\n"
    )
}

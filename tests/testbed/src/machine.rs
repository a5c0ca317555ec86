//! A machine with a real systemd, D-Bus and logind, booted by systemd-nspawn from a root of its own.
//! Owns the machine's processes, root and cgroups; what runs on it is put there by `rke2`.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::cgroup::MachineCgroup;
use crate::children::Daemon;
use crate::places::{self, Loopback};

/// How long systemd on the machine may take until every unit is up.
const BOOT_DEADLINE: Duration = Duration::from_mins(10);

/// What systemd-nspawn exits with when the machine asked for a reboot: its manager shall start it again.
const REBOOT_ASKED: i32 = 133;

/// What to boot.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// Host name, unique within one test bed.
    pub name: String,
    /// The loopback address that its servers bind to; by default a free one.
    pub loopback: Option<Ipv4Addr>,
}

impl MachineSpec {
    /// A machine of this name on a free loopback address.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), loopback: None }
    }
}

/// A running machine; it is killed when it is dropped, its root stays in the run's directory.
#[derive(Debug)]
pub struct Machine {
    name: String,
    root: PathBuf,
    log: PathBuf,
    loopback: Loopback,
    cgroup: MachineCgroup,
    supervisor: Option<Daemon>,
    leader: u32,
}

impl Machine {
    /// Copies the cached root to `<dir>/<name>`, boots it, and waits until its systemd is up.
    ///
    /// # Errors
    /// When the root is not there yet, or systemd is not up within 60 s.
    pub async fn boot(dir: &Path, spec: MachineSpec) -> Result<Self> {
        let template = places::cache().join("machine-root-v1");
        ensure!(template.is_dir(), "{} is not there; run scripts/testbed as root", template.display());
        let loopback = spec.loopback.map_or_else(Loopback::claim, Loopback::claim_this)?;
        fs::create_dir_all(dir)?;
        let root = fs::canonicalize(dir)?.join(&spec.name);
        // Not an overlay: the journal of the product refuses to live on one, as an overlay's upper layer may be memory.
        let copy =
            Command::new("cp").args(["-a", "--reflink=auto"]).arg(&template).arg(&root).output().await?;
        ensure!(copy.status.success(), "cannot copy the root: {}", String::from_utf8_lossy(&copy.stderr));
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")?.replace('-', "");
        fs::write(root.join("etc/machine-id"), id)?;
        fs::write(root.join("etc/hostname"), format!("{}\n", spec.name))?;
        fs::write(
            root.join("etc/hosts"),
            format!("127.0.0.1 localhost\n{} {}\n", loopback.address(), spec.name),
        )?;

        let address = loopback.address().to_string().replace('.', "-");
        let unique = format!("testbed-{}-{address}-{}", std::process::id(), spec.name);
        let cgroup = MachineCgroup::new(&unique)?;
        let log = dir.join(format!("{}.log", spec.name));
        let mut machine = Self { name: spec.name, root, log, loopback, cgroup, supervisor: None, leader: 0 };
        machine.boot_again().await?;
        Ok(machine)
    }

    /// Boots the machine from the root as it is now, and waits until its systemd is up; a running one is killed first.
    ///
    /// # Errors
    /// When systemd is not up within 60 s.
    pub async fn boot_again(&mut self) -> Result<()> {
        self.kill();
        self.cgroup.make()?;
        let arguments = self.cgroup.enter_and_run(&self.nspawn());
        // SIGTERM makes it shut the machine down; SIGKILL would leave the machine running on its own.
        self.supervisor = Some(Daemon::start(&self.name, &self.log, Signal::SIGTERM, &arguments)?);
        self.wait_up().await
    }

    fn nspawn(&self) -> Vec<String> {
        let mut arguments = vec!["systemd-nspawn".to_owned(), "--quiet".to_owned(), "-D".to_owned()];
        arguments.push(self.root.display().to_string());
        // This computer may itself not run systemd, so nothing is asked of it: no registration, no unit.
        arguments.extend(["--register=no", "--keep-unit", "-b", "--console=pipe"].map(str::to_owned));
        arguments.extend(["--resolv-conf=off", "--timezone=off", "--link-journal=no"].map(str::to_owned));
        arguments.push(format!("--machine={}", self.cgroup.name()));
        arguments.push(format!("--hostname={}", self.name));
        arguments
    }

    async fn wait_up(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut state = String::from("its first process is not there");
        loop {
            let supervisor = self.supervisor.as_mut().context("the machine is off")?;
            if let Some(status) = supervisor.ended() {
                bail!("machine {} ended while booting ({status}); {}", self.name, supervisor.last_words());
            }
            if let Some(leader) = leader_of(supervisor.pid()) {
                self.leader = leader;
                // A failed unit ("degraded") is a matter for the test that looks at that unit.
                let output = self.run(&["systemctl", "is-system-running"]).await?;
                String::from_utf8_lossy(&output.stdout).trim().clone_into(&mut state);
                if matches!(state.as_str(), "running" | "degraded") && self.bus().exists() {
                    return Ok(());
                }
            }
            if began.elapsed() > BOOT_DEADLINE {
                bail!(
                    "machine {} is not up after 60 s ({state}); {}",
                    self.name,
                    crate::children::last_lines(&self.log, 15)
                );
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Its host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The loopback address that its servers bind to.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        self.loopback.address()
    }

    /// The process id of its PID 1 on this computer; another one after each boot.
    #[must_use]
    pub fn leader(&self) -> u32 {
        self.leader
    }

    /// The machine's root as its own processes see it, `/run` and `/proc` included: what `--host-root` takes.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.leader))
    }

    /// The machine's disk, which is there also while the machine is off.
    #[must_use]
    pub fn disk(&self) -> &Path {
        &self.root
    }

    /// The socket of its system bus: what `--system-bus` takes.
    #[must_use]
    pub fn bus(&self) -> PathBuf {
        self.root().join("run/dbus/system_bus_socket")
    }

    /// The kernel's boot id as the machine sees it; systemd-nspawn makes a new one for each boot.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn boot_id(&self) -> Result<String> {
        let file = self.root().join("proc/sys/kernel/random/boot_id");
        let id = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(id.trim().to_owned())
    }

    /// A command that runs on the machine, in all its namespaces, to be spawned by the caller.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.leader.to_string(), "--all", "--"])
            .args(arguments)
            .kill_on_drop(true);
        command
    }

    /// Runs a command on the machine and waits for its end, whatever its exit status.
    ///
    /// # Errors
    /// When nsenter cannot be started.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments).output().await.context("cannot start nsenter")
    }

    /// Runs a command that must succeed, and returns its standard output without the last line end.
    ///
    /// # Errors
    /// When it fails: with what it said.
    pub async fn must_run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        let (said, wrong) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "{} on {}: {}\n{said}{wrong}",
            arguments.join(" "),
            self.name,
            output.status
        );
        Ok(said.trim_end().to_owned())
    }

    /// Waits until the machine has gone down, and says whether it asked to come up again.
    ///
    /// # Errors
    /// When it is still up after `patience`.
    pub async fn wait_down(&mut self, patience: Duration) -> Result<bool> {
        let began = Instant::now();
        let supervisor = self.supervisor.as_mut().context("the machine is off")?;
        loop {
            if let Some(status) = supervisor.ended() {
                let reboot = status.code() == Some(REBOOT_ASKED) && status.signal().is_none();
                self.kill();
                return Ok(reboot);
            }
            ensure!(began.elapsed() < patience, "machine {} is still up after {patience:?}", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the machine has gone down for a reboot, and boots it.
    ///
    /// # Errors
    /// When it does not go down, goes down for good, or does not come up.
    pub async fn wait_reboot(&mut self, patience: Duration) -> Result<()> {
        ensure!(self.wait_down(patience).await?, "machine {} went down, but not for a reboot", self.name);
        self.boot_again().await
    }

    /// Ends every process of the machine at once. Unlike a power cut it loses nothing that was written:
    /// this computer's page cache stays.
    pub fn kill(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else {
            return;
        };
        // The machine is a PID namespace: with its first process the kernel ends all others. Its supervisor
        // sees that and puts its mounts away, which it could not if it were killed first.
        if let Some(leader) = leader_of(supervisor.pid())
            && let Ok(leader) = i32::try_from(leader)
            && let Err(error) = kill(Pid::from_raw(leader), Signal::SIGKILL)
        {
            eprintln!("testbed: machine {} was going down already: {error}", self.name);
        }
        if supervisor.wait_end(Duration::from_secs(5)).is_none() {
            supervisor.kill();
        }
        self.cgroup.remove();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The machine's PID 1: the child of the supervisor that is number 1 in a PID namespace of its own.
fn leader_of(supervisor: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(|&pid| is_first_of_namespace(pid))
}

fn is_first_of_namespace(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}

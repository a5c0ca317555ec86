//! The other roots of a machine, and what became of it after each of their deeds.

#![expect(unreachable_pub, reason = "one module for several programs")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use testbed::places::RunDir;
use testbed::rke2::{binary, hex_sha256};
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::sim::world::Shutdown;

use crate::asserts::{agent, said};
use crate::sampler::Sampler;
use crate::support::cast::Cast;
use crate::support::{LIVE, RELEASE, Stage, TO};
use crate::witness::{self, Gate, Start};

/// Inside one Kubernetes minor the way back is open.
pub const PATCH: &str = "v1.35.2+rke2r1";
/// Over a minor it is closed as soon as the new version has run.
pub const MINOR: &str = "v1.34.2+rke2r1";
/// A release that nobody ordered.
const THIRD: &str = "v1.36.1+rke2r1";
const OTHER: &str = "/var/lib/other-rke2.tar.gz";
const OLD: &str = "/var/lib/old-rke2.tar.gz";
const UNIT: &str = "rke2-server";

/// Somebody else who is root on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Actor {
    /// `systemctl restart`
    Restart,
    /// `kill -9` of RKE2
    Kill,
    /// Power off and on
    Power,
    /// `tar xzf` of another release over the live path, and `kill -9`
    Tar,
    /// The same with the old release: a plan of yesterday is applied again
    OldTar,
}

/// One line of the table.
pub struct Row {
    fault: String,
    actor: String,
    step: String,
    did: String,
    ran: String,
    broken: Option<String>,
}

impl Row {
    pub fn head() -> String {
        format!(
            "{:<29} {:<8} {:<14} {:<34} {:<22} verdict",
            "new RKE2", "actor", "agent dead at", "what came of it", "ran afterwards"
        )
    }

    pub fn line(&self) -> String {
        let verdict = self.broken.as_deref().unwrap_or("holds");
        let Self { fault, actor, step, did, ran, .. } = self;
        format!("{fault:<29} {actor:<8} {step:<14} {did:<34} {ran:<22} {verdict}")
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }
}

/// A release's tarball, made in `folder`.
fn pack(folder: &Path, rke2: &[u8], tarball: &Path) {
    let file = folder.join("bin/rke2");
    std::fs::create_dir(folder.join("bin")).unwrap();
    std::fs::write(&file, rke2).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    let packed = Command::new("tar").arg("czf").arg(tarball).arg("-C").arg(folder).arg("bin/rke2").status();
    assert!(packed.unwrap().success());
}

/// A machine, its witness and its sampler.
pub struct Bench {
    pub stage: Stage,
    old: String,
    /// The old one may not run any more once the new one has.
    is_for_good: bool,
    fault: String,
    rows: Vec<Row>,
    sampler: Sampler,
    orders: String,
    /// Where the interpreter is that the machine does not have.
    shell: Option<RunDir>,
}

impl Bench {
    pub async fn set(name: &str, fault: &str, from: &str) -> Self {
        let cast = Cast { from: from.into(), ..Cast::named(name) };
        let cast = cast.bound("pci", |shape| shape.shutdown = Shutdown::Seconds(1));
        let mut stage = Stage::shared(cast).await.unwrap();
        // One that dies after a while has to do so while it is watched.
        stage.soak_seconds = if fault.starts_with("die-after") { 20 } else { 5 };
        let old = stage.live_sha256().await.unwrap();
        let disk = stage.machine.disk();
        for (path, version) in [(OTHER, THIRD), (OLD, from)] {
            let run = RunDir::new().unwrap();
            let content = binary(version).unwrap();
            pack(run.path(), &content, &disk.join(path.trim_start_matches('/')));
        }
        witness::install(disk);
        stage.machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
        let orders = stage.plan().artifacts.sha256;
        let journal = format!("var/lib/rancher/upgrade-agent/{}/journal.jsonl", stage.upgrade_uid);
        let (live, journal) = (disk.join(LIVE.trim_start_matches('/')), disk.join(journal));
        let sampler = Sampler::watch(live, journal, old.clone());
        let fault = if fault.is_empty() { "serves".to_owned() } else { fault.to_owned() };
        let is_for_good = from == MINOR;
        Self { stage, old, is_for_good, fault, rows: Vec::new(), sampler, orders, shell: None }
    }

    /// The new release becomes one that says its version here and cannot be executed on the machine.
    pub fn release_without_interpreter(&mut self) {
        let run = RunDir::new().unwrap();
        let dir = run.path().canonicalize().unwrap();
        let shell = dir.join("sh");
        std::os::unix::fs::symlink("/bin/sh", &shell).unwrap();
        let script = format!("#!{}\necho 'rke2 version {TO} (deadbeef)'\n", shell.display());
        let tarball = self.stage.machine.disk().join(RELEASE.trim_start_matches('/'));
        let tarball = tarball.join("rke2.linux-amd64.tar.gz");
        pack(&dir, script.as_bytes(), &tarball);
        self.orders = hex_sha256(&std::fs::read(&tarball).unwrap());
        self.stage.new_sha256 = hex_sha256(script.as_bytes());
        self.shell = Some(run);
    }

    pub async fn order(&self) {
        let orders = self.orders.clone();
        self.stage.order_plan(Control::Run, |plan| plan.artifacts.sha256 = orders).await.unwrap();
    }

    pub async fn kill_agent_at(&self, step: &str, later: &str) {
        // Whoever dies while it watches the new RKE2 has to die before it has seen enough.
        let watches = ["restarted", "rolledBack"].contains(&step);
        let soak = if watches { 60 } else { self.stage.soak_seconds }.to_string();
        let child = self.stage.start_agent(agent(), &["node", "--once", "--soak-seconds", &soak]).unwrap();
        self.stage.kill_at(child, step, 1, later).await.unwrap();
    }

    fn starts(&self) -> Vec<Start> {
        witness::starts(self.stage.machine.disk())
    }

    fn name(&self, sha256: &str) -> String {
        match sha256 {
            "" => "NOTHING".to_owned(),
            old if old == self.old => "old".to_owned(),
            new if new == self.stage.new_sha256 => "new".to_owned(),
            alien => format!("ALIEN {}", &alien[..8.min(alien.len())]),
        }
    }

    /// The first start that nobody approved, or what the sampler saw.
    fn breach(&self) -> Option<String> {
        let of = |start: &Start| match self.name(&start.sha256).as_str() {
            "old" => None,
            "new" if start.drained > 0 && start.intended > 0 => None,
            other => Some(format!(
                "BROKEN: {other} started with {} preDrained, {} swapIntent",
                start.drained, start.intended
            )),
        };
        let starts = self.starts();
        let names: Vec<String> = starts.iter().map(|start| self.name(&start.sha256)).collect();
        let new = names.iter().position(|name| name == "new").unwrap_or(names.len());
        if self.is_for_good && names.iter().skip(new).any(|name| name == "old") {
            return Some("BROKEN: the old one started after the new one had, over a minor".to_owned());
        }
        starts.iter().find_map(of).or_else(|| self.sampler.breach(&self.stage.new_sha256))
    }

    async fn pid(&self) -> Option<String> {
        self.stage.rke2_pid().await.ok()
    }

    /// Kills RKE2, which may be between two lives.
    async fn kill_rke2(&self) -> bool {
        for _ in 0..80 {
            if let Some(pid) = self.pid().await {
                // It may end by itself just now.
                return self.stage.machine.run(&["kill", "-9", &pid]).await.unwrap().status.success();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    pub async fn act(&mut self, actor: Actor, step: &str) {
        let mut before = self.starts().len();
        let mut broken = None;
        // Half-way through the agent's own restart it may have been stopped already: then nobody starts it.
        let show = ["systemctl", "show", "-P", "ActiveState", UNIT];
        let is_stopped = step == "restartIntent"
            && ["inactive", "deactivating"]
                .contains(&self.stage.machine.must_run(&show).await.unwrap().trim());
        let (did, starts) = match actor {
            Actor::Restart => {
                let output = self.stage.machine.run(&["systemctl", "restart", UNIT]).await.unwrap();
                if output.status.success() {
                    broken = Some("BROKEN: nobody refused the restart".to_owned());
                }
                ("refused by systemd", false)
            }
            Actor::Kill if self.kill_rke2().await => ("killed", true),
            Actor::Kill => ("nothing to kill", false),
            Actor::Power => {
                self.stage.machine.kill();
                // One whose RKE2 does not start is never said to be up.
                let patience = Duration::from_secs(if self.fault == "serves" { 600 } else { 30 });
                let up = tokio::time::timeout(patience, self.stage.machine.boot_again());
                if let Ok(up) = up.await {
                    up.unwrap();
                }
                ("power off and on", true)
            }
            Actor::Tar | Actor::OldTar => {
                // Who strikes in the instant between the guard's look and the start is not kept from it: starts wait at the
                // gate, and one that was past it when it was shut is let through.
                let gate = Gate::shut(self.stage.machine.disk());
                let show = ["systemctl", "show", "-P", "SubState", UNIT];
                let state = async || self.stage.machine.must_run(&show).await.unwrap();
                let is_past = async || match state().await.trim() {
                    _ if gate.has_somebody_waiting() => true,
                    "start-pre" => false,
                    // Until then what is forked is systemd's own program.
                    "start" => ["old", "new"].contains(&self.running().await.as_str()),
                    _ => true,
                };
                self.stage.wait("the guard to have had its say", is_past).await.unwrap();
                self.sampler.rest(true);
                let release = if actor == Actor::Tar { OTHER } else { OLD };
                self.stage.machine.must_run(&["tar", "xzf", release, "-C", "/opt/rke2"]).await.unwrap();
                before = self.starts().len();
                drop(gate);
                if self.kill_rke2().await {
                    ("unpacked, killed", true)
                } else {
                    ("unpacked, nothing to kill", false)
                }
            }
        };
        let must = starts && (actor == Actor::Power || !is_stopped);
        let patience = Duration::from_secs(if must { 240 } else { 8 });
        let is_more = async || self.starts().len() > before;
        let started = starts && self.stage.wait_within("a start", patience, is_more).await.is_ok();
        if must && !started {
            broken = Some("BROKEN: nothing was started".to_owned());
        }
        let last = self.starts().last().map(|start| self.name(&start.sha256));
        if started && (self.fault == "serves" || last.as_deref() == Some("old")) {
            self.stage.machine.wait_active(UNIT, Duration::from_mins(15)).await.unwrap();
        }
        if started {
            self.sampler.rest(false);
        }
        let ran = self.runs().await;
        if ran.starts_with("ALIEN") {
            broken = Some("BROKEN: a binary runs that nobody approved".to_owned());
        }
        let broken = broken.or_else(|| self.breach());
        let did = if starts && started { format!("{did}, started") } else { did.to_owned() };
        self.row(&format!("{actor:?}"), step, &did, ran, broken);
    }

    /// What runs now, and what lies there.
    async fn runs(&self) -> String {
        let mut runs = self.running().await;
        // Between fork and exec a process is systemd's own program.
        for _ in 0..30 {
            if !runs.starts_with("ALIEN") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            runs = self.running().await;
        }
        let live = self.stage.live_sha256().await.unwrap_or_default();
        format!("{runs}, live {}", self.name(&live))
    }

    async fn running(&self) -> String {
        let Some(pid) = self.pid().await else { return "-".to_owned() };
        let output = self.stage.machine.run(&["sha256sum", &format!("/proc/{pid}/exe")]).await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // It may have ended by now.
        text.split_whitespace().next().map_or_else(|| "-".to_owned(), |sha256| self.name(sha256))
    }

    fn row(&mut self, actor: &str, step: &str, did: &str, ran: String, broken: Option<String>) {
        let (fault, actor, step, did) = (self.fault.clone(), actor.to_lowercase(), step.into(), did.into());
        self.rows.push(Row { fault, actor, step, did, ran, broken });
    }

    /// The agent alone brings it to its end. `wanted` is how what runs and lies there is to end.
    pub async fn ends(&mut self, arguments: &[&str], code: i32, wanted: &str) {
        let output = self.stage.run_agent(agent(), arguments).await.unwrap();
        self.sampler.rest(false);
        let ran = self.runs().await;
        let broken = if output.status.code() == Some(code) && ran.ends_with(wanted) {
            self.breach()
        } else {
            let words = said(&output);
            let last: Vec<&str> = words.lines().rev().take(6).collect();
            Some(format!("BROKEN: {wanted} and exit {code} were due: {}", last.join(" | ")))
        };
        let did = format!("exit {:?} of {}", output.status.code(), arguments.join(" "));
        self.row("agent", "(its end)", &did, ran, broken);
    }

    pub fn over(self) -> Vec<Row> {
        self.rows
    }
}

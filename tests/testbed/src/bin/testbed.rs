//! `testbed up`: a control plane and one machine with RKE2, to poke around in; Ctrl-C ends it all.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the product; this takes one word from its command line"
)]

use anyhow::{Result, bail};
use testbed::control_plane::ControlPlane;
use testbed::machine::{Machine, MachineSpec};
use testbed::places::RunDir;
use testbed::rke2::Rke2Spec;
use testbed::stand_in::Role;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "its output is meant for `eval`")]
async fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() != Some("up") {
        bail!("usage: testbed up");
    }
    let run = RunDir::new()?;
    let plane = ControlPlane::start(&run.path().join("control-plane")).await?;
    let crds = plane.install_crds()?;
    let machine = Machine::boot(run.path(), MachineSpec::named("node1")).await?;
    let kubeconfig = plane.admin_kubeconfig();
    machine.install_rke2(&Rke2Spec::new(Role::Server, "v1.34.2+rke2r1", &kubeconfig, "node1")).await?;

    eprintln!("testbed: {crds:?}; Ctrl-C ends everything");
    println!("export KUBECONFIG={}", kubeconfig.display());
    println!("export TESTBED_KUBECTL={}", plane.kubectl().display());
    println!("export TESTBED_LEADER={}", machine.leader());
    println!("export TESTBED_ADDRESS={}", machine.address());
    println!("export UPGRADE_AGENT_HOST_ROOT={}", machine.root().display());

    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        // Cancel-safe: both only wait.
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

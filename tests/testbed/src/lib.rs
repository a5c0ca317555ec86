//! The real-parts test bed: a real API server, a real systemd machine, a stand-in `rke2`.
//!
//! Owns the processes and files of one test run and removes them. Never part of the product: nothing in it is
//! shipped, and the product knows nothing of it. `scripts/testbed` makes the parts; `README.md` says what they are.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use testbed::control_plane::ControlPlane;
//! use testbed::machine::{Machine, MachineSpec};
//! use testbed::places::RunDir;
//! use testbed::rke2::{Rke2Spec, rke2_release};
//! use testbed::stand_in::Role;
//!
//! let run = RunDir::new()?; // first, so that it is dropped last
//! let plane = ControlPlane::start(&run.path().join("control-plane")).await?;
//! plane.install_crds()?;
//! let machine = Machine::boot(run.path(), MachineSpec::named("node1")).await?;
//! let spec = Rke2Spec::new(Role::Server, "v1.34.2+rke2r1", &plane.admin_kubeconfig(), "node1");
//! machine.install_rke2(&spec).await?;
//! let release = rke2_release(&run.path().join("release"), "v1.35.6+rke2r1")?;
//! # Ok(()) }
//! ```

// The product's bans on direct file access and the like are not meant for the bed it is tested on.
#![expect(clippy::disallowed_methods, reason = "the bans guard the product's one door to the file system")]

mod cgroup;
mod children;
pub mod control_plane;
pub mod etcd;
mod http_server;
pub mod machine;
pub mod pki;
pub mod places;
pub mod proxy;
pub mod rke2;
pub mod stand_in;
pub mod virt_api;

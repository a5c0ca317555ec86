//! This machine as a value: every byte read from or written to it, and every unit started on it, goes through here.
//! Never talks to Kubernetes, never decides anything about an upgrade, imports no other room.
//!
//! Tour: [`root`] says where the machine's `/` is, [`fs`] reads and writes durably below it, [`swap_file`] makes a
//! staged binary live. [`release`] brings a release and [`images`] archives of images, with [`fetch`], [`oci`] and [`unpack`]
//! below them. [`systemd`] restarts units and tells what became of them, [`fence`] keeps others from restarting them,
//! [`installer`] holds Rancher's back. [`process`], [`boot`], [`probe`] and [`command`] look, [`runtime`] looks for RKE2's images and
//! [`kept_runtime`] keeps the old one;
//! [`etcd`] asks the machine's own etcd over [`grpc`], [`etcd_snapshot`] finds what that saved, [`rke2_config`] reads what RKE2 was
//! told; [`lock`] keeps a second agent away. Under all of it is [`effects`]: [`kernel`] in production, a machine in memory in
//! rehearsals.

pub mod boot;
pub mod clock;
pub mod command;
pub mod effects;
pub mod etcd;
pub mod etcd_snapshot;
pub mod fence;
pub mod fetch;
pub mod fs;
pub mod grpc;
pub mod http;
pub mod images;
pub mod installer;
pub mod kept_runtime;
pub mod kernel;
pub mod lock;
pub mod oci;
pub mod own_program;
pub mod probe;
pub mod process;
pub mod release;
pub mod rke2_config;
pub mod root;
pub mod runtime;
pub mod swap_file;
pub mod systemd;
mod tar_stream;
pub mod unpack;

use crate::host::root::HostRoot;
use crate::host::systemd::Systemd;

/// One machine: its files and its service manager, which must belong together.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where the machine's `/` is seen from here.
    pub root: HostRoot,
    /// The service manager of the same machine.
    pub systemd: Systemd,
}

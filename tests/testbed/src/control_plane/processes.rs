//! The command lines of etcd, kube-apiserver and kube-controller-manager. Starts them; waits for none.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::ADMIN_KUBECONFIG;
use crate::children::Daemon;
use crate::pki::ControlPlaneKeys;

/// The controllers whose work shows in the API: owner references, namespaces that end, service accounts, budgets,
/// aggregated roles. Named one by one, because the node life cycle controller must stay off: readiness and leases
/// are the business of the stand-in rke2, and a test that kills a machine decides itself what the cluster sees.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
    serviceaccount-token-controller,root-ca-certificate-publisher-controller,disruption-controller,\
    clusterrole-aggregation-controller,resourcequota-controller";

pub(super) fn start_etcd(dir: &Path, program: &Path, address: Ipv4Addr) -> Result<Daemon> {
    let mut arguments = vec![
        program.display().to_string(),
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls=http://{address}:2379"),
        format!("--advertise-client-urls=http://{address}:2379"),
        format!("--listen-peer-urls=http://{address}:2380"),
        format!("--initial-advertise-peer-urls=http://{address}:2380"),
        format!("--initial-cluster=default=http://{address}:2380"),
    ];
    // A run never outlives a power cut, so where etcd can do without fsync, it shall. 3.4 does not list the flag
    // in its help; so the flag is tried.
    let known = Command::new(program).args(["--unsafe-no-fsync", "--version"]).output()?;
    if known.status.success() {
        arguments.push("--unsafe-no-fsync".to_owned());
    }
    Daemon::start("etcd", &dir.join("etcd.log"), Signal::SIGKILL, &arguments)
}

pub(super) fn start_api_server(
    dir: &Path,
    program: &Path,
    keys: &ControlPlaneKeys,
    address: Ipv4Addr,
) -> Result<Daemon> {
    let file = |name: &str| dir.join(name).display().to_string();
    let arguments = vec![
        program.display().to_string(),
        format!("--etcd-servers=http://{address}:2379"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        "--secure-port=6443".to_owned(),
        // There is no pod network in which somebody would look for the service `kubernetes`.
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--tls-cert-file={}", keys.path("apiserver.crt")),
        format!("--tls-private-key-file={}", keys.path("apiserver.key")),
        format!("--client-ca-file={}", keys.path("ca.crt")),
        format!("--token-auth-file={}", file("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        // A test makes a bare pod without having made its service account first.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", keys.path("sa.pub")),
        format!("--service-account-signing-key-file={}", keys.path("sa.key")),
        "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
        format!("--requestheader-client-ca-file={}", keys.path("front-proxy-ca.crt")),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        format!("--proxy-client-cert-file={}", keys.path("front-proxy-client.crt")),
        format!("--proxy-client-key-file={}", keys.path("front-proxy-client.key")),
        "--enable-aggregator-routing=false".to_owned(),
        format!("--audit-policy-file={}", file("audit-policy.yaml")),
        format!("--audit-log-path={}", file("audit.log")),
        // Megabytes. The whole of it is counted: it must not begin a new file.
        "--audit-log-maxsize=10000".to_owned(),
    ];
    Daemon::start("kube-apiserver", &dir.join("kube-apiserver.log"), Signal::SIGKILL, &arguments)
}

pub(super) fn start_controllers(dir: &Path, program: &Path, keys: &ControlPlaneKeys) -> Result<Daemon> {
    let arguments = vec![
        program.display().to_string(),
        format!("--kubeconfig={}", dir.join(ADMIN_KUBECONFIG).display()),
        format!("--controllers={CONTROLLERS}"),
        format!("--service-account-private-key-file={}", keys.path("sa.key")),
        format!("--root-ca-file={}", keys.path("ca.crt")),
        "--leader-elect=false".to_owned(),
        // Nobody asks it for anything; without a port there is none to run into.
        "--secure-port=0".to_owned(),
    ];
    let log = dir.join("kube-controller-manager.log");
    Daemon::start("kube-controller-manager", &log, Signal::SIGKILL, &arguments)
}

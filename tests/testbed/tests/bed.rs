//! The test bed itself: every part comes up, works, and leaves nothing behind.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "tests, which look at the machine from outside"
)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use testbed::control_plane::{ControlPlane, Crds};
use testbed::machine::{Machine, MachineSpec};
use testbed::places::RunDir;
use testbed::rke2::{Rke2Spec, hex_sha256, rke2_release};
use testbed::stand_in::Role;
use testbed::virt_api::serve_aggregated;

/// Prints how long each part takes; `--nocapture` shows it.
struct Watch(Instant);

impl Watch {
    fn lap(&mut self, what: &str) {
        println!("{what}: {:.2} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_serves_an_aggregated_api() {
    let run = RunDir::new().unwrap();
    let mut watch = Watch(Instant::now());
    let mut plane = ControlPlane::start(run.path()).await.unwrap();
    watch.lap("control plane");
    let crds = plane.install_crds().unwrap();
    watch.lap(&format!("definitions ({crds:?})"));

    let api = serve_aggregated(&plane, |request: Request<Bytes>| async move {
        Response::new(Bytes::from(request.uri().path().to_owned()))
    });
    let api = api.await.unwrap();
    watch.lap("aggregated API");
    let path = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/vm1/start";
    let answer = plane.client().request_text(Request::put(path).body(b"{}".to_vec()).unwrap()).await.unwrap();
    assert_eq!(answer, path);
    assert!(fs::read_to_string(plane.audit_log()).unwrap().contains("virtualmachines/vm1/start"));
    drop(api);

    plane
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: agent, namespace: harvester-system}}")
        .unwrap();
    let limited = plane.kubeconfig_for_service_account("harvester-system", "agent").await.unwrap();
    let limited = limited.display().to_string();
    let refused = plane.run_kubectl(&["--kubeconfig", &limited, "get", "nodes"]).unwrap_err().to_string();
    assert!(refused.contains("system:serviceaccount:harvester-system:agent"), "{refused}");

    plane.stop_api();
    assert!(plane.client().apiserver_version().await.is_err());
    plane.start_api().await.unwrap();
    plane.client().apiserver_version().await.unwrap();
    watch.lap("outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_rke2_and_joins_the_cluster() {
    let run = RunDir::new().unwrap();
    let mut watch = Watch(Instant::now());
    let plane_dir = run.path().join("control-plane");
    let (plane, machine) = tokio::join!(
        ControlPlane::start(&plane_dir),
        Machine::boot(run.path(), MachineSpec::named("node1")),
    );
    let (plane, mut machine) = (plane.unwrap(), machine.unwrap());
    watch.lap("control plane and machine");
    assert!(machine.bus().exists());

    let mut spec = Rke2Spec::new(Role::Server, "v1.34.2+rke2r1", &plane.admin_kubeconfig(), "node1");
    spec.extra_allocatable.push(("nvidia.com/TU104GL".to_owned(), "2".to_owned()));
    machine.install_rke2(&spec).await.unwrap();
    watch.lap("rke2 installed and active");
    let nodes: Api<Node> = Api::all(plane.client());
    assert_eq!(kubelet_version(&nodes).await, "v1.34.2+rke2r1");
    assert_eq!(node_ready(&nodes).await, "True");
    let said = machine.must_run(&["/opt/rke2/bin/rke2", "--version"]).await.unwrap();
    assert!(said.starts_with("rke2 version v1.34.2+rke2r1 (deadbeef)"), "{said}");
    supervisor_says_pong(&machine);

    machine.must_run(&["systemctl", "restart", "rke2-server"]).await.unwrap();
    machine.wait_active("rke2-server", Duration::from_mins(5)).await.unwrap();
    watch.lap("systemctl restart");

    let release = rke2_release(&run.path().join("release"), "v1.35.6+rke2r1").unwrap();
    assert_eq!(hex_sha256(&fs::read(&release.tarball).unwrap()), release.sha256);
    watch.lap("release");
    let prefix = machine.disk().join("opt/rke2").display().to_string();
    let tarball = release.tarball.display().to_string();
    let unpacked =
        std::process::Command::new("tar").args(["-xzf", &tarball, "-C", &prefix]).status().unwrap();
    assert!(unpacked.success());

    // A version that crashes is started again and again, and works as soon as the fault is gone.
    machine.set_rke2_fault("v1.35.6+rke2r1 crash").unwrap();
    assert!(!machine.run(&["systemctl", "restart", "rke2-server"]).await.unwrap().status.success());
    machine.set_rke2_fault("").unwrap();
    machine.wait_active("rke2-server", Duration::from_mins(5)).await.unwrap();
    assert_eq!(kubelet_version(&nodes).await, "v1.35.6+rke2r1");
    watch.lap("crash and recovery");
    faults_are_seen_from_outside(&machine, &nodes).await;
    watch.lap("three more faults");

    let before = machine.boot_id().unwrap();
    machine.run(&["systemctl", "reboot"]).await.unwrap();
    machine.wait_reboot(Duration::from_mins(5)).await.unwrap();
    machine.wait_active("rke2-server", Duration::from_mins(5)).await.unwrap();
    assert_ne!(machine.boot_id().unwrap(), before);
    watch.lap("reboot until rke2 is active");

    machine.kill();
    machine.boot_again().await.unwrap();
    machine.wait_active("rke2-server", Duration::from_mins(5)).await.unwrap();
    watch.lap("power cut until rke2 is active");

    let at = run.path().to_owned();
    drop(machine);
    watch.lap("machine ended");
    drop(plane);
    watch.lap("control plane ended");
    drop(run);
    watch.lap("files removed");
    assert_nothing_left(&at);
}

/// Leaves RKE2 active and without a fault.
async fn faults_are_seen_from_outside(machine: &Machine, nodes: &Api<Node>) {
    let restart = ["systemctl", "restart", "--no-block", "rke2-server"];
    // Five starts within ten seconds, and systemd starts it no more, whatever Restart= says.
    machine.must_run(&["systemctl", "reset-failed", "rke2-server"]).await.unwrap();

    machine.set_rke2_fault("wrong-version:v1.34.2+rke2r1").unwrap();
    machine.must_run(&["systemctl", "restart", "rke2-server"]).await.unwrap();
    assert_eq!(kubelet_version(nodes).await, "v1.34.2+rke2r1");

    machine.set_rke2_fault("hang").unwrap();
    machine.must_run(&restart).await.unwrap();
    until_it_says(machine, "SubState", |sub| sub == "start").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state(machine, "rke2-server").await, "activating");
    assert!(std::net::TcpStream::connect((machine.address(), 10248)).is_err());

    // It says that it is ready, and ends nevertheless: who looks once only is deceived.
    machine.set_rke2_fault("die-after:1").unwrap();
    machine.must_run(&["systemctl", "restart", "rke2-server"]).await.unwrap();
    // It was ready, or the order would have failed.
    until_it_says(machine, "NRestarts", |count| count.parse::<u32>().unwrap() > 0).await;

    machine.set_rke2_fault("").unwrap();
    machine.must_run(&restart).await.unwrap();
    machine.wait_active("rke2-server", Duration::from_mins(5)).await.unwrap();
    assert_eq!(kubelet_version(nodes).await, "v1.35.6+rke2r1");
}

/// Waits until a property of RKE2's unit is as wanted.
async fn until_it_says(machine: &Machine, property: &str, is_it: impl Fn(&str) -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_mins(5);
    loop {
        let said = machine.must_run(&["systemctl", "show", "-P", property, "rke2-server"]).await.unwrap();
        if is_it(said.trim()) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{property} stays {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What `systemctl is-active` prints.
async fn state(machine: &Machine, unit: &str) -> String {
    let output = machine.run(&["systemctl", "is-active", unit]).await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_needs_no_api_server_to_hang() {
    let run = RunDir::new().unwrap();
    let machine = Machine::boot(run.path(), MachineSpec::named("node2")).await.unwrap();
    let nowhere = run.path().join("nowhere.kubeconfig");
    fs::write(&nowhere, "{}").unwrap();
    machine.lay_out_rke2(&Rke2Spec::new(Role::Agent, "v1.34.2+rke2r1", &nowhere, "node2")).unwrap();
    machine.must_run(&["systemctl", "daemon-reload"]).await.unwrap();
    machine.must_run(&["systemctl", "start", "--no-block", "rke2-agent"]).await.unwrap();
    assert!(machine.wait_active("rke2-agent", Duration::from_secs(2)).await.is_err());
    let state = machine.run(&["systemctl", "is-active", "rke2-agent"]).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&state.stdout).trim(), "activating");
}

#[test]
fn the_stand_in_definitions_are_complete() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("crds/stand-ins.yaml")).unwrap();
    assert_eq!(text.matches("kind: CustomResourceDefinition").count(), 5);
    assert_ne!(Crds::StandIn, Crds::Real("crds".into()));
}

async fn kubelet_version(nodes: &Api<Node>) -> String {
    nodes.get("node1").await.unwrap().status.unwrap().node_info.unwrap().kubelet_version
}

async fn node_ready(nodes: &Api<Node>) -> String {
    let conditions = nodes.get("node1").await.unwrap().status.unwrap().conditions.unwrap();
    conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap().status
}

fn supervisor_says_pong(machine: &Machine) {
    let authority =
        machine.disk().join("var/lib/rancher/rke2/server/tls/server-ca.crt").display().to_string();
    let url = format!("https://{}:9345/ping", machine.address());
    let answer =
        std::process::Command::new("curl").args(["-sS", "--cacert", &authority, &url]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "pong",
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );
}

/// No process has a file of the run in its command line, no mount points into it, and the run itself is gone.
fn assert_nothing_left(run: &Path) {
    assert!(!run.exists());
    let path = run.display().to_string();
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(&path));
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(
            !String::from_utf8_lossy(&command).contains(&path),
            "{} still runs",
            process.path().display()
        );
    }
    let cgroups = fs::read_to_string("/proc/mounts").unwrap();
    let tag = format!("testbed-{}-", std::process::id());
    for dir in
        cgroups.lines().filter(|line| line.contains("cgroup")).filter_map(|line| line.split(' ').nth(1))
    {
        let left = fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(&tag) && name.ends_with("-node1")
        });
        assert!(!left, "a cgroup is left in {dir}");
    }
}

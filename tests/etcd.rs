//! Whether etcd can spare a member: asked of three real etcds that run as RKE2 runs them, and of one in memory.

#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testbed::etcd::EtcdCluster;
use testbed::pki::{Authority, Purpose};
use testbed::places::RunDir;
use upgrade_agent::agent::quorum;
use upgrade_agent::agent::step_error::chain;
use upgrade_agent::flow::quorum::Spare;
use upgrade_agent::host::fs::Fs;
use upgrade_agent::host::grpc::{GrpcCall, TlsIdentity};
use upgrade_agent::host::root::HostRoot;
use upgrade_agent::sim::machine::SimMachine;
use upgrade_agent::sim::machine::etcd::{EtcdMember, EtcdTrouble};
use upgrade_agent::sim::machine::image::{MachineImage, MachineSpec};
use upgrade_agent::sim::machine::life::LifePlan;

/// Asks until the answer is as wanted: a cluster that has just lost or won a member needs a moment to notice.
async fn wait_for(root: &HostRoot, what: &str, is_it: impl Fn(&Spare) -> bool) {
    let began = Instant::now();
    loop {
        let said = quorum::ask(root).await;
        if said.as_ref().is_ok_and(|said| said.as_ref().is_some_and(&is_it)) {
            return;
        }
        assert!(began.elapsed() < Duration::from_mins(5), "{what}: {said:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn refuses(spare: &Spare, words: &str) -> bool {
    matches!(spare, Spare::No(objection) if objection.why.contains(words) && !objection.fix.is_empty())
}

/// Calls a member to change something, as `etcdctl` does.
async fn call(cluster: &EtcdCluster, method: &'static str, message: Vec<u8>) {
    let client = cluster.client();
    let identity = TlsIdentity {
        authority: cluster.authority().certificate().as_bytes().to_vec(),
        certificate: client.certificate.clone().into_bytes(),
        key: client.key.clone().into_bytes(),
    };
    let (server, deadline) = (cluster.client_url(0), Duration::from_secs(10));
    let call = GrpcCall { server: &server, method, message, identity: &identity, deadline };
    let began = Instant::now();
    // etcd takes nobody in until all members have been connected for five seconds.
    while let Err(error) = Fs::kernel().effects().grpc(&call).await {
        assert!(began.elapsed() < Duration::from_mins(5), "{error}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_real_members_one_after_the_other_unwell() {
    let run = RunDir::new().unwrap();
    let mut cluster = EtcdCluster::start(run.path(), 3).unwrap();
    let root = HostRoot::new(run.path().join("root"));
    assert_eq!(quorum::ask(&root).await.unwrap(), None, "a machine without etcd's data is not asked");
    cluster.write_server_files(0, root.path()).unwrap();
    wait_for(&root, "three that are well", |spare| *spare == Spare::Yes(2)).await;

    cluster.hang(2, true).unwrap();
    let asked = Instant::now();
    let said = quorum::ask(&root).await;
    // Where it was the leader, the others cannot even say who belongs to them until they have another one.
    let refused = said
        .as_ref()
        .is_err_and(|error| chain(error).contains("etcd on this machine") && !error.own_is_gone())
        || said.as_ref().is_ok_and(|said| refuses(said.as_ref().unwrap(), "etcd3 does not answer"));
    assert!(refused, "{said:?}");
    // Three calls, each of which gives up after five seconds; for ever is not among what it may take.
    assert!(asked.elapsed() < Duration::from_mins(2), "{:?}", asked.elapsed());
    wait_for(&root, "hanging", |spare| refuses(spare, "etcd3 does not answer")).await;
    cluster.hang(2, false).unwrap();
    wait_for(&root, "it goes on", |spare| *spare == Spare::Yes(2)).await;

    let url = cluster.reserve().unwrap();
    let mut learner = vec![0x0a, u8::try_from(url.len()).unwrap()];
    learner.extend(url.as_bytes());
    learner.extend([0x10, 1]);
    call(&cluster, "/etcdserverpb.Cluster/MemberAdd", learner).await;
    wait_for(&root, "added", |spare| refuses(spare, &format!("{url} was added and has not started"))).await;
    cluster.join().unwrap();
    wait_for(&root, "a learner", |spare| refuses(spare, "etcd4 is a learner")).await;

    cluster.kill(1);
    wait_for(&root, "stopped", |spare| {
        refuses(spare, "etcd2 does not answer") && refuses(spare, "etcd4 is a learner")
    })
    .await;

    let no_space = vec![0x08, 1, 0x18, 1];
    call(&cluster, "/etcdserverpb.Maintenance/Alarm", no_space).await;
    wait_for(&root, "an alarm", |spare| refuses(spare, "NOSPACE")).await;

    let stranger = Authority::new("another").unwrap().sign("etcd-client", Purpose::Client, &[], &[]).unwrap();
    let tls = root.at("/var/lib/rancher/rke2/server/tls/etcd");
    std::fs::write(tls.join("client.crt"), stranger.certificate).unwrap();
    std::fs::write(tls.join("client.key"), stranger.key).unwrap();
    let error = quorum::ask(&root).await.unwrap_err();
    assert!(chain(&error).contains("certificate") && !error.own_is_gone(), "{}", chain(&error));
    std::fs::write(tls.join("client.key"), "no key").unwrap();
    quorum::ask(&root).await.unwrap_err();

    cluster.write_server_files(0, root.path()).unwrap();
    // Without a quorum it cannot say who belongs to it, but it is there.
    cluster.kill(2);
    let error = quorum::ask(&root).await.unwrap_err();
    assert!(!error.own_is_gone(), "{}", chain(&error));
    cluster.kill(0);
    let error = quorum::ask(&root).await.unwrap_err();
    assert!(chain(&error).contains("etcd on this machine") && error.own_is_gone(), "{}", chain(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_member_is_only_said() {
    let run = RunDir::new().unwrap();
    let cluster = EtcdCluster::start(run.path(), 1).unwrap();
    let root = HostRoot::new(run.path().join("root"));
    cluster.write_server_files(0, root.path()).unwrap();
    wait_for(&root, "one", |spare| *spare == Spare::ApiAway(1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_etcd_of_a_machine_in_memory_is_as_well_as_it_is_made() {
    let machine = SimMachine::start(&MachineImage::new(MachineSpec::default()).unwrap());
    let life = machine.life(LifePlan::quiet());
    let root = HostRoot::on(Fs::new(life.effects()), PathBuf::from("/"));
    assert_eq!(quorum::ask(&root).await.unwrap(), Some(Spare::ApiAway(1)));

    let third = Arc::new(Mutex::new(EtcdMember::well("c")));
    let shown = Arc::clone(&third);
    machine.set_etcd(Arc::new(move || {
        let own = EtcdMember { is_own: true, ..EtcdMember::well("a") };
        vec![own, EtcdMember::well("b"), shown.lock().unwrap().clone(), EtcdMember::well("d")]
    }));
    let table = [
        (None, None),
        (Some(EtcdTrouble::Learner), Some("c-etcd is a learner")),
        (Some(EtcdTrouble::NotStarted), Some("https://c:2380 was added")),
        (Some(EtcdTrouble::Silent), Some("c-etcd does not answer")),
        (Some(EtcdTrouble::Behind(5000)), Some("5000 entries behind")),
        (Some(EtcdTrouble::Alarm(2)), Some("CORRUPT for member c-etcd")),
    ];
    for (trouble, expected) in table {
        third.lock().unwrap().trouble = trouble;
        let said = quorum::ask(&root).await.unwrap().unwrap();
        match expected {
            None => assert_eq!(said, Spare::Yes(3)),
            Some(words) => assert!(refuses(&said, words), "{trouble:?}: {said:?}"),
        }
    }
    machine
        .change_disk(|disk| disk.install("/var/lib/rancher/rke2/server/tls/etcd/client.crt", "forged", 0o600))
        .unwrap();
    let error = quorum::ask(&root).await.unwrap_err();
    assert!(chain(&error).contains("certificate"), "{}", chain(&error));
}

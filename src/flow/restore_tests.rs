//! What must be there before a start, each named when it is missing.

use super::*;
use crate::flow::placement::{Closed, Resident};
use crate::flow::progress::tests::vm_entry;
use crate::flow::vms::{Fate, Verdict};

const GPU: &str = "nvidia.com/A16";

fn place() -> Place {
    let allocatable =
        [(KVM.to_owned(), 110_000), (GPU.to_owned(), 2000), ("hugepages-2Mi".to_owned(), 1 << 30)];
    Place {
        name: "node1".into(),
        labels: [("kubevirt.io/cpumanager".to_owned(), "true".to_owned())].into(),
        allocatable: allocatable.into(),
        ..Place::default()
    }
}

fn held(place: &mut Place, resource: &str, amount: u128) {
    let asks = [(resource.to_owned(), amount)].into();
    place.pods.push(Resident { asks, ..Resident::default() });
}

fn wants(devices: &[&str]) -> VmEntry {
    let mut entry = vm_entry("db", Verdict::ShutDown { why: "it holds a device".into() });
    entry.devices = devices.iter().map(|&device| device.to_owned()).collect();
    entry
}

type Change = fn(&mut Place);

#[test]
fn each_precondition_is_named_when_it_is_missing() {
    let pages = || VmEntry { hugepages: Some("2Mi".into()), ..wants(&[]) };
    let cpus = || VmEntry { dedicated_cpus: true, ..wants(&[]) };
    let table: [(&str, VmEntry, Change, &str); 20] = [
        ("all there", wants(&[]), |_| {}, ""),
        ("device there", wants(&[GPU]), |_| {}, ""),
        ("two of two", wants(&[GPU, GPU]), |_| {}, ""),
        ("huge pages there", pages(), |_| {}, ""),
        ("CPUs there", cpus(), |_| {}, ""),
        ("CPUs by the old label", cpus(), |on| on.labels = [("cpumanager".into(), "true".into())].into(), ""),
        (
            "not ready",
            wants(&[]),
            |on| on.closed = Some(Closed::NotReady),
            "node node1 is not Ready; look at its RKE2",
        ),
        (
            "cordoned",
            wants(&[]),
            |on| on.closed = Some(Closed::Cordoned),
            "node node1 is cordoned; uncordon it",
        ),
        (
            "drained",
            wants(&[]),
            |on| on.closed = Some(Closed::Draining),
            "node node1 is being drained; wait until",
        ),
        (
            "out of service",
            wants(&[]),
            |on| on.closed = Some(Closed::OutOfService),
            "has the taint node.kubernetes.io/out-of-service; take that taint off",
        ),
        (
            "virt-handler away",
            wants(&[]),
            |on| on.closed = Some(Closed::NoVirtHandler),
            "has no virt-handler ready; look at its virt-handler pod",
        ),
        (
            "no kvm",
            wants(&[]),
            |on| {
                on.allocatable.remove(KVM);
            },
            "does not offer devices.kubevirt.io/kvm (yet); look",
        ),
        (
            "kvm of 0",
            wants(&[GPU]),
            |on| {
                on.allocatable.insert(KVM.into(), 0);
            },
            "does not offer devices.kubevirt.io/kvm",
        ),
        (
            "device away",
            wants(&[GPU]),
            |on| {
                on.allocatable.remove(GPU);
            },
            "does not offer nvidia.com/A16 (yet); look at its device plugin",
        ),
        (
            "one of two devices away",
            wants(&[GPU, GPU]),
            |on| {
                on.allocatable.insert(GPU.into(), 1000);
            },
            "does not offer nvidia.com/A16",
        ),
        ("held by another", wants(&[GPU]), |on| held(on, GPU, 2000), "is held by another pod; stop the VM"),
        ("one of two held", wants(&[GPU, GPU]), |on| held(on, GPU, 1000), "is held by another pod"),
        (
            "no huge pages",
            pages(),
            |on| {
                on.allocatable.remove("hugepages-2Mi");
            },
            "node node1 has no free hugepages-2Mi; set its huge pages up again",
        ),
        ("huge pages held", pages(), |on| held(on, "hugepages-2Mi", 1 << 30), "no free hugepages-2Mi"),
        (
            "no cpumanager",
            cpus(),
            |on| on.labels.clear(),
            "node node1 has no label kubevirt.io/cpumanager of true; let its kubelet",
        ),
    ];
    for (what, entry, change, expected) in table {
        let mut place = place();
        change(&mut place);
        let said = missing(&entry, "node1", Some(&place));
        assert_eq!(said.is_none(), expected.is_empty(), "{what}: {said:?}");
        let text = said.map(|missing| missing.to_string()).unwrap_or_default();
        assert!(text.contains(expected), "{what}: {text}");
        assert!(missing(&entry, "node1", None).is_some_and(|said| said.what.contains("not in the cluster")));
    }
}

#[test]
fn only_a_device_that_is_not_offered_asks_for_an_explanation() {
    let mut away = place();
    away.allocatable.remove(GPU);
    let device =
        |place: &Place| missing(&wants(&[GPU]), "node1", Some(place)).and_then(|missing| missing.device);
    assert_eq!(device(&away).as_deref(), Some(GPU));
    let mut taken = place();
    held(&mut taken, GPU, 2000);
    assert_eq!(device(&taken), None);
}

#[test]
fn a_device_that_kubevirt_does_not_permit_is_named() {
    let listed = |devices: &[&str]| Permitted::Listed(devices.iter().map(|&one| one.to_owned()).collect());
    let unknown = Permitted::Unknown { why: "there is no KubeVirt object".into() };
    let table = [
        ("listed", wants(&[GPU]), listed(&[GPU]), None),
        ("no devices", wants(&[]), listed(&["a/b"]), None),
        ("KubeVirt lists none", wants(&[GPU]), Permitted::Unlisted, None),
        ("nobody could tell", wants(&[GPU]), unknown, None),
        (
            "not listed",
            wants(&[GPU]),
            listed(&["a/b"]),
            Some("KubeVirt does not permit nvidia.com/A16 any more"),
        ),
        (
            "an empty list",
            wants(&[GPU]),
            listed(&[]),
            Some("KubeVirt does not permit nvidia.com/A16 any more"),
        ),
        (
            "one of two",
            wants(&["a/b", GPU]),
            listed(&["a/b"]),
            Some("KubeVirt does not permit nvidia.com/A16 any more"),
        ),
    ];
    for (what, entry, permitted, expected) in table {
        let said = refused(&entry, &permitted).map(|missing| missing.what);
        assert_eq!(said.as_deref(), expected, "{what}");
    }
}

#[test]
fn what_others_depend_on_is_started_first() {
    let line = |name: &str, shutdown_order: i32| {
        LedgerLine::new(VmEntry { shutdown_order, ..vm_entry(name, Verdict::Leaving) }, Fate::Here)
    };
    let lines = [line("app", -1), line("web", 0), line("db", 10), line("mail", 0)];
    let names: Vec<String> = start_order(lines.iter()).into_iter().map(|line| line.entry.vm.name).collect();
    assert_eq!(names, ["db", "web", "mail", "app"]);
}

#[test]
fn vms_that_wait_for_the_same_are_named_together() {
    let vm = |name| VmKey::new("default", name);
    let all = [
        (vm("a"), "node node1 is not Ready".to_owned()),
        (vm("b"), "claim b is gone".to_owned()),
        (vm("c"), "node node1 is not Ready".to_owned()),
    ];
    let expected = [
        "VMs default/a, default/c are owed a start: node node1 is not Ready",
        "VM default/b is owed a start: claim b is gone",
    ];
    assert_eq!(not_up(&all), expected);
    assert!(not_up(&[]).is_empty());
}

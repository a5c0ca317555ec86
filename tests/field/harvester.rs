//! What Harvester's own jobs and the agent share: the list of VMs to start again.

use std::collections::BTreeSet;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use serde_json::json;

use crate::Ran;
use crate::support::cast::Cast;
use crate::support::{NAMESPACE, Stage};

/// As Harvester's job reads a node's key: names of namespace and VM, split at commas, nothing trimmed
/// (reference `harvester-upgrade.md` §4.2, §4.3).
fn parse(list: &str) -> BTreeSet<(String, String)> {
    let vm = |text: &str| {
        let parts: Vec<&str> = text.split('/').collect();
        let [namespace, name] = parts[..] else { panic!("{text:?} in {list:?} is no namespace/name") };
        let is_name = |part: &str| !part.is_empty() && !part.contains(char::is_whitespace);
        assert!(is_name(namespace) && is_name(name), "{text:?} in {list:?}");
        (namespace.to_owned(), name.to_owned())
    };
    list.split(',').map(vm).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn harvesters_list_of_vms_to_start_is_merged_with_and_never_shortened() {
    let cast = Cast::named("listed").movable("app", |_| {}).bound("pci-1", |_| {}).bound("pci-2", |_| {});
    let stage = Stage::shared(cast).await.unwrap();
    // What the helper of Harvester's pre-drain job has written: one that the agent stops too, one that it does not know, and
    // the list of another node.
    let name = format!("{}-restore-vm", stage.upgrade);
    let maps: Api<ConfigMap> = Api::namespaced(stage.client.clone(), NAMESPACE);
    let theirs: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": name, "ownerReferences": [{"apiVersion": "harvesterhci.io/v1beta1", "kind": "Upgrade",
            "name": stage.upgrade, "uid": stage.upgrade_uid}]},
        "data": {stage.node.as_str(): "prod/legacy,listed/pci-2", "node9": "prod/mail,prod/web"},
    }))
    .unwrap();
    maps.create(&PostParams::default(), &theirs).await.unwrap();

    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(maps.clone(), only).boxed();
    let (mut known, node) = (parse("prod/legacy,listed/pci-2"), stage.node.clone());
    let watch = async {
        while let Some(event) = events.next().await {
            let Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) = event else { continue };
            let now = parse(&map.data.unwrap()[&node]);
            assert!(now.is_superset(&known), "{now:?} lacks some of {known:?}");
            known = now;
        }
    };
    let ran = tokio::select! {
        () = watch => panic!("the watch ended"),
        ran = Ran::through(&stage, |_| {}) => ran,
    };
    ran.assert_done(&stage);
    let left = maps.get(&name).await.unwrap();
    let data = left.data.unwrap();
    let owed = [("listed", "pci-1"), ("listed", "pci-2"), ("prod", "legacy")];
    let owed: BTreeSet<(String, String)> = owed.map(|(one, two)| (one.to_owned(), two.to_owned())).into();
    assert_eq!(parse(&data[&stage.node]), owed);
    assert_eq!(data["node9"], "prod/mail,prod/web", "the other node's list is as it was");
    assert_eq!(left.metadata.owner_references, theirs.metadata.owner_references);
}

use serde_json::json;

use super::*;

fn stored(view: &mut View, kind: Kind, object: Value) -> Vec<Task> {
    view.store(kind, Object::of(object), Instant::now())
}

fn replica(version: u64, state: &str, node: &str) -> Value {
    json!({"metadata": {"namespace": "longhorn-system", "name": "v-r-1", "uid": "r", "resourceVersion": version.to_string()},
        "spec": {"volumeName": "v", "nodeID": node, "desireState": state, "healthyAt": "t"},
        "status": {"currentState": state, "started": state == "running", "instanceManagerName": ""}})
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_an_object_follows_each_version_and_no_older_one() {
    let mut view = View::default();
    let key = Key::new("longhorn-system", "v-r-1");
    let running = |view: &View, node: &str| view.running(Kind::Replica, node).count();
    stored(&mut view, Kind::Replica, replica(5, "running", "node1"));
    assert_eq!(running(&view, "node1"), 1);
    stored(&mut view, Kind::Replica, replica(4, "stopped", "node1"));
    assert_eq!(
        (running(&view, "node1"), view.entry(Kind::Replica, &key).unwrap().facts.rest),
        (1, Rest::Nowhere)
    );
    stored(&mut view, Kind::Replica, replica(6, "running", "node2"));
    assert_eq!((running(&view, "node1"), running(&view, "node2")), (0, 1));
    stored(&mut view, Kind::Replica, replica(7, "stopped", "node2"));
    let entry = view.entry(Kind::Replica, &key).unwrap();
    assert_eq!(
        (entry.facts.rest, entry.filed.state, entry.filed.health),
        (Rest::Stopped, State::Stopped, Health::Whole)
    );
    view.bury(Kind::Replica, &key);
    assert_eq!((running(&view, "node2"), view.on(Kind::Replica, "node2").count()), (0, 0));
}

fn vmi(version: u64, status: &Value) -> Value {
    json!({"metadata": {"namespace": "default", "name": "a", "uid": "i", "resourceVersion": version.to_string()},
        "spec": {"evictionStrategy": "LiveMigrate"}, "status": status})
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_moved_wakes_the_node_it_left_and_the_one_it_came_to() {
    let mut view = View::default();
    let state = json!({"migrationUid": "m", "targetPod": "p", "startTimestamp": "t1"});
    let before = json!({"phase": "Running", "nodeName": "node1", "migrationState": state,
        "conditions": [{"type": "LiveMigratable", "status": "True"}]});
    stored(&mut view, Kind::Vmi, vmi(1, &before));
    let known = view.entry(Kind::Vmi, &Key::new("default", "a")).unwrap();
    let since = known.phase_since;
    assert_eq!(
        (known.facts.copy_job(), known.facts.is_migratable, known.facts.strategy),
        ("m", true, Strategy::LiveMigrate)
    );
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let after = json!({"phase": "Running", "nodeName": "node2", "migrationState": {"completed": true}});
    let woken = stored(&mut view, Kind::Vmi, vmi(2, &after));
    for node in ["node1", "node2"] {
        assert!(woken.contains(&(Kind::Node, Key::new("", node))), "{node}: {woken:?}");
    }
    let known = view.entry(Kind::Vmi, &Key::new("default", "a")).unwrap();
    assert_eq!((known.phase_since, known.facts.copy_job()), (since, ""), "the phase is as old as before");
    assert_eq!(known.copying_since, Instant::now(), "the copy is not");
    assert_eq!(view.moved(), BTreeSet::from([Key::new("default", "a")]));
}

#[tokio::test(start_paused = true)]
async fn a_node_is_known_by_its_bare_name_and_by_what_it_says_now() {
    let mut view = View::default();
    let node = |version: u64, cordoned: bool, off: Option<&str>| {
        json!({"metadata": {"name": "node1", "uid": "n", "resourceVersion": version.to_string(),
                "annotations": {fields::OFF: off}},
            "spec": {"unschedulable": cordoned},
            "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"bootID": "b"}}})
    };
    stored(&mut view, Kind::Node, node(1, false, None));
    let facts = &view.node("node1").unwrap().facts;
    assert!(
        facts.is_ready
            && !facts.host.is_cordoned
            && !facts.host.is_off
            && facts.host.boot.as_deref() == Some("b")
    );
    stored(&mut view, Kind::Node, node(2, true, Some("true")));
    let facts = &view.node("node1").unwrap().facts;
    assert!(facts.host.is_cordoned && facts.host.is_off && view.node("node2").is_none());
}

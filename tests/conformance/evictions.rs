//! Evictions and disruption budgets.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::access::{Access, PATIENCE, Reply};
use super::pods::pod;

crate::checks![
    an_eviction_deletes_with_grace,
    a_budget_refuses,
    a_budget_counts_down,
    two_budgets_are_an_error,
    an_unready_pod_of_a_healthy_budget_may_go,
];

async fn evict(at: &Access, name: &str, query: &str) -> Reply {
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": at.space},
        "deleteOptions": {"gracePeriodSeconds": 15}});
    at.post(&format!("{}{query}", at.core(&format!("pods/{name}/eviction"))), &body).await
}

/// An eviction that is answered as it has to be once the budget's controller has seen every pod; until then it refuses.
async fn evict_until(at: &Access, name: &str, query: &str, good: impl Fn(&Reply) -> bool) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = evict(at, name, query).await;
        if good(&reply) {
            return reply;
        }
        assert!(reply.code == 429 && Instant::now() < deadline, "{reply:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn evicted(at: &Access, name: &str, query: &str) {
    evict_until(at, name, query, |reply| reply.code == 201).await;
}

async fn running(at: &Access, name: &str, ready: bool) {
    pod(at, name, json!({"app": "x"}), Some("n1")).await;
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
    at.merge(&at.core(&format!("pods/{name}/status")), &status).await.ok();
}

/// A budget whose status says what the disruption controller will find, whether it runs or not.
async fn budget(at: &Access, name: &str, least: u32, healthy: u32) -> Value {
    let path = at.group("policy/v1", "poddisruptionbudgets");
    let body = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": "x"}}}});
    let made = at.post(&path, &body).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{path}/{name}");
    let status = json!({"status": {"observedGeneration": 1, "currentHealthy": healthy, "desiredHealthy": least,
        "expectedPods": healthy, "disruptionsAllowed": healthy.saturating_sub(least)}});
    at.merge(&format!("{path}/status"), &status).await.ok();
    at.until(&path, "waited for the count", |reply| reply.body["status"]["currentHealthy"] == healthy).await
}

async fn an_eviction_deletes_with_grace(at: Access) {
    running(&at, "a", true).await;
    let dry = evict(&at, "a", "?dryRun=All").await;
    assert_eq!(dry.code, 201);
    assert!(at.get(&at.core("pods/a")).await.ok()["metadata"].get("deletionTimestamp").is_none());
    let done = evict(&at, "a", "").await;
    assert_eq!((done.code, &done.body["status"]), (201, &json!("Success")));
    let marked = at.get(&at.core("pods/a")).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 15);
    let conditions = marked["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions
            .iter()
            .any(|one| one["type"] == "DisruptionTarget" && one["reason"] == "EvictionByEvictionAPI")
    );
    evict(&at, "none", "").await.refused(404, "NotFound", "pods \"none\" not found");
}

async fn a_budget_refuses(at: Access) {
    running(&at, "a", true).await;
    budget(&at, "keep", 1, 1).await;
    let expected = json!([{"reason": "DisruptionBudget",
        "message": "The disruption budget keep needs 1 healthy pods and has 1 currently"}]);
    let is_told = |reply: &Reply| reply.body["details"]["causes"] == expected;
    evict_until(&at, "a", "", is_told).await.refused(
        429,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    );
}

async fn a_budget_counts_down(at: Access) {
    running(&at, "a", true).await;
    running(&at, "b", true).await;
    budget(&at, "keep", 1, 2).await;
    evicted(&at, "a", "?dryRun=All").await;
    evicted(&at, "a", "").await;
    evict(&at, "b", "").await.refused(429, "TooManyRequests", "Cannot evict pod");
}

async fn two_budgets_are_an_error(at: Access) {
    running(&at, "a", true).await;
    budget(&at, "one", 0, 1).await;
    budget(&at, "two", 0, 1).await;
    let reply = evict(&at, "a", "").await;
    let said = reply.body["message"].as_str().unwrap_or_default();
    assert!(
        said.contains(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        ),
        "{reply:?}"
    );
    assert_eq!((reply.code, &reply.body["code"]), (500, &json!(500)), "{reply:?}");
}

async fn an_unready_pod_of_a_healthy_budget_may_go(at: Access) {
    running(&at, "a", true).await;
    running(&at, "b", false).await;
    budget(&at, "keep", 1, 1).await;
    evict(&at, "a", "").await.refused(429, "TooManyRequests", "Cannot evict pod");
    evicted(&at, "b", "").await;
}

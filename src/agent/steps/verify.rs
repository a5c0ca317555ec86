//! Verify: the new version really serves: unit, executable, health ports, and the Node itself (reference §7.1).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::cluster::nodes;
use crate::flow::plan::Role;
use crate::flow::progress::{Preflighted, StagedFact, Work};
use crate::flow::record::Record;
use crate::flow::report::Blocker;
use crate::host::fs::Fs;
use crate::host::process;

/// How long all signs have to be good in a row before they count.
const SOAK: Duration = Duration::from_secs(5);
/// Health ports have no watch; they are asked this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A server that imports images looks like one that hangs, so this is generous (reference §7.2).
const VERIFY_DEADLINE: Duration = Duration::from_mins(14);
/// One probe of a loopback port.
const PROBE: Duration = Duration::from_secs(3);
/// Kubelet's healthz.
const KUBELET_PORT: u16 = 10248;
/// etcd's metrics listener.
const ETCD_PORT: u16 = 2381;
/// `RKE2`'s supervisor, and the API server behind it.
const SUPERVISOR_PORT: u16 = 9345;

/// Waits until every sign is good for a while, then records the version.
///
/// # Errors
/// Needs an operator when a sign stays bad; the sentence names it and where the old binary is.
pub async fn verify_version(run: &mut Run) -> Result<(), StepError> {
    let (found, staged, invocation) = facts(run)?;
    let begun = run.now();
    let deadline = Instant::now() + VERIFY_DEADLINE;
    let mut good_since: Option<Instant> = None;
    loop {
        match look(run, &found, &staged, &invocation).await? {
            Look::Good(kubelet_version) => {
                let since = *good_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= SOAK {
                    return Ok(run.record(Record::Verified { kubelet_version })?);
                }
            }
            Look::NotYet(what) => {
                good_since = None;
                if Instant::now() >= deadline {
                    return Err(StepError::operator(failure(run, &what)));
                }
                run.publish_blockers(vec![Blocker {
                    what,
                    since: begun,
                    owner: "nobody has to act yet".to_owned(),
                    deadline: Some(begun + VERIFY_DEADLINE),
                    then: "hold".to_owned(),
                }]);
            }
            Look::Bad(what) => return Err(StepError::operator(failure(run, &what))),
        }
        run.pause(LOOK_AGAIN).await?;
    }
}

enum Look {
    Good(String),
    NotYet(String),
    Bad(String),
}

fn facts(run: &Run) -> Result<(Preflighted, StagedFact, String), StepError> {
    let progress = run.journal.progress();
    match (progress.preflighted(), progress.staged(), progress.restart()) {
        (Some(found), Some(staged), Work::Done(invocation)) => {
            Ok((found.clone(), staged.clone(), invocation.clone()))
        }
        _ => Err(StepError::operator("verification was asked for before the restart; run the whole upgrade")),
    }
}

fn failure(run: &Run, what: &str) -> String {
    let kept = match run.journal.progress().swap() {
        Work::Done(fact) => format!("; the old binary is kept at {}", fact.previous),
        Work::Not | Work::Intended(_) => String::new(),
    };
    format!("{} does not serve after the restart: {what}{kept}; mend it, then resume", run.plan.rke2.to)
}

async fn look(
    run: &Run,
    found: &Preflighted,
    staged: &StagedFact,
    invocation: &str,
) -> Result<Look, StepError> {
    let unit = run.host.systemd.unit(&found.unit).await?;
    if unit.invocation_id != invocation && unit.n_restarts >= 3 {
        let what = format!(
            "{} was restarted {} times by systemd; see journalctl -u {}",
            unit.name, unit.n_restarts, unit.name
        );
        return Ok(Look::Bad(what));
    }
    if unit.active_state != "active" || unit.main_pid == 0 {
        return Ok(Look::NotYet(format!("{} is {}", unit.name, unit.active_state)));
    }
    let (root, pid) = (run.host.root.clone(), unit.main_pid);
    let hash = move |_: &Fs| process::exe_sha256(&root, pid).map_err(StepError::from);
    match run.host.root.fs().blocking(hash).await {
        Ok(sha256) if sha256 == staged.sha256 => {}
        Ok(_) => {
            return Ok(Look::Bad(format!("pid {pid} runs another binary than the one put in place")));
        }
        Err(error) => return Ok(Look::NotYet(error.sentence())),
    }
    if let Some(what) = sick_port(run, found.role).await {
        return Ok(Look::NotYet(what));
    }
    node_says(run).await
}

/// The first health port that does not answer as it should.
async fn sick_port(run: &Run, role: Role) -> Option<String> {
    let kubelet = SocketAddr::new(run.local_address, KUBELET_PORT);
    if let Some(what) = sick_http(run, "kubelet", kubelet, "/healthz").await {
        return Some(what);
    }
    match role {
        Role::Agent => None,
        Role::Server => {
            let etcd = SocketAddr::new(run.local_address, ETCD_PORT);
            if let Some(what) = sick_http(run, "etcd", etcd, "/health").await {
                return Some(what);
            }
            // Its TLS needs the cluster's own CA; that it accepts a connection is what can be told without.
            let supervisor = SocketAddr::new(run.local_address, SUPERVISOR_PORT);
            let answer = run.host.root.fs().effects().connect(supervisor, PROBE).await;
            answer.err().map(|error| format!("supervisor {supervisor} does not answer: {error}"))
        }
    }
}

async fn sick_http(run: &Run, name: &str, address: SocketAddr, path: &str) -> Option<String> {
    match run.host.root.fs().effects().http_get(address, path, PROBE).await {
        Ok((200, _)) => None,
        Ok((code, body)) => {
            let body: String = body.chars().take(80).collect();
            Some(format!("{name} {address}{path} says {code} {body}"))
        }
        Err(error) => Some(chain(&error)),
    }
}

async fn node_says(run: &Run) -> Result<Look, StepError> {
    let wanted = run.plan.rke2.to.kubelet_version();
    let node = match nodes::get(&run.cluster.client, &run.plan.node_name).await {
        Ok(Some(node)) => node,
        Ok(None) => {
            return Ok(Look::NotYet(format!("node {} is not in the cluster", run.plan.node_name)));
        }
        // On a single server the restart takes the API away: that is expected for a while.
        // So is a 401 or 403 while its caches fill.
        Err(error) => return Ok(Look::NotYet(chain(&error))),
    };
    let restarted = run
        .journal
        .entries()
        .iter()
        .rev()
        .find(|entry| matches!(entry.record, Record::RestartIntent { .. }))
        .map(|entry| entry.at);
    let reported = nodes::kubelet_version(&node).unwrap_or_default();
    // Node heartbeats have whole seconds.
    let fresh = nodes::heartbeat(&node)
        .zip(restarted)
        .is_some_and(|(heartbeat, restarted)| heartbeat.as_second() >= restarted.as_second());
    Ok(if !fresh {
        Look::NotYet(format!("node {} has not reported since the restart", run.plan.node_name))
    } else if reported != wanted {
        Look::NotYet(format!("node {} reports kubelet {reported}, not {wanted}", run.plan.node_name))
    } else if !nodes::is_ready(&node) {
        Look::NotYet(format!("node {} is not Ready", run.plan.node_name))
    } else {
        Look::Good(reported.to_owned())
    })
}

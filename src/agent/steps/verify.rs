//! Verify: the new version really serves: unit, executable, health ports, and the Node itself (reference §7.1).

use std::net::SocketAddr;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::agent::observe::sha256_of_process;
use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::agent::steps::absence::Absence;
use crate::agent::steps::deaths::Deaths;
use crate::agent::steps::rollback::{self, Evidence};
use crate::cluster::nodes;
use crate::flow::plan::Role;
use crate::flow::progress::{Preflighted, Work};
use crate::flow::record::Record;
use crate::flow::report::{Blocker, NOBODY};
use crate::host::{etcd_snapshot, swap_file};

/// Health ports have no watch; they are asked this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// And so often while all of them are good: a life that ended in between shows by the name of the next one.
const SOAKING: Duration = Duration::from_secs(15);
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
    let (found, sha256, invocation) = facts(run)?;
    if run.plan.immutable_binary {
        // Whoever has put a binary back, or a crash after the rename, has left it without the flag.
        let live = run.host.root.at(&found.live);
        run.host.root.fs().blocking(move |fs| swap_file::lock(fs, &live).map_err(StepError::from)).await?;
    }
    let begun = run.now();
    // An API server of another machine that is away says nothing about this node: that time does not count, within reason.
    let mut absence = Absence::none_yet(run);
    let deadline = Instant::now() + VERIFY_DEADLINE;
    let mut good_since: Option<Good> = None;
    let mut deaths = Deaths::none_yet();
    loop {
        match look(run, &found, &sha256, &invocation, &mut deaths).await? {
            Look::Good { kubelet_version, life } => {
                absence.saw(false);
                let new = || Good { since: Instant::now(), at: run.now(), life: life.clone() };
                let good = good_since.take().filter(|good| good.life == life).unwrap_or_else(new);
                if good.since.elapsed() >= run.soak {
                    return Ok(run.record(Record::Verified { kubelet_version })?);
                }
                let at = good.at;
                good_since = Some(good);
                run.publish_blockers(vec![Blocker {
                    what: format!("{} serves, and is watched for a while", rollback::wanted(run)),
                    since: at,
                    owner: NOBODY.to_owned(),
                    deadline: Some(at + run.soak),
                    then: "go on".to_owned(),
                }]);
                run.pause(SOAKING.min(run.soak)).await?;
                continue;
            }
            Look::NotYet(what, evidence) => {
                good_since = None;
                absence.saw(evidence == Evidence::Away);
                if Instant::now() >= deadline + absence.allowed() {
                    // One that the API server was away from for too long has not had its time.
                    let in_doubt = evidence == Evidence::Silence && absence.is_too_long();
                    let evidence = if in_doubt { Evidence::Away } else { evidence };
                    return rollback::give_up(run, what, evidence).await;
                }
                run.publish_blockers(vec![Blocker {
                    what,
                    since: begun,
                    owner: NOBODY.to_owned(),
                    deadline: Some(begun + VERIFY_DEADLINE + absence.allowed()),
                    then: "hold".to_owned(),
                }]);
            }
            Look::Bad(what) => return rollback::give_up(run, what, Evidence::Local).await,
            Look::Alien(_) if rollback::goes_back_unasked(run).await? => return Ok(()),
            Look::Alien(what) => return Err(StepError::operator(what)),
        }
        run.pause(LOOK_AGAIN).await?;
    }
}

/// Since when all signs are good, in one life of the service: one that systemd started again begins anew.
struct Good {
    since: Instant,
    at: Timestamp,
    life: String,
}

enum Look {
    Good {
        kubelet_version: String,
        /// The invocation of the unit that was looked at.
        life: String,
    },
    NotYet(String, Evidence),
    Bad(String),
    /// Somebody else has put a binary there.
    Alien(String),
}

/// What preflight found, the digest of the binary that has to run, and the life that it was started to.
fn facts(run: &Run) -> Result<(Preflighted, String, String), StepError> {
    let progress = run.journal.progress();
    match (progress.preflighted(), progress.placed_sha256(), progress.restart()) {
        (Some(found), Some(sha256), Work::Done(invocation)) => {
            Ok((found.clone(), sha256.to_owned(), invocation.clone()))
        }
        _ => Err(StepError::operator("verification was asked for before the restart; run the whole upgrade")),
    }
}

async fn look(
    run: &Run,
    found: &Preflighted,
    sha256: &str,
    invocation: &str,
    deaths: &mut Deaths,
) -> Result<Look, StepError> {
    let unit = run.host.systemd.unit(&found.unit).await?;
    if deaths.are_a_loop(Instant::now(), unit.n_restarts) && unit.invocation_id != invocation {
        let what = format!("{} dies again and again, and systemd restarts it", unit.name);
        return Ok(Look::Bad(format!("{what}; see journalctl -u {}", unit.name)));
    }
    if unit.active_state != "active" || unit.main_pid == 0 {
        // It may have given up on an API server, and waits for one now.
        return Ok(unless_the_cluster(run, format!("{} is {}", unit.name, unit.active_state)).await);
    }
    let pid = unit.main_pid;
    match sha256_of_process(&run.host, pid).await {
        Ok(found) if found == sha256 => {}
        Ok(_) => {
            let what = "runs another binary than the one put in place; another installer is at work: stop it, then resume";
            return Ok(Look::Alien(format!("pid {pid} of {} {what}", unit.name)));
        }
        // It ends just now.
        Err(error) => return Ok(unless_the_cluster(run, error.sentence()).await),
    }
    if let Some(what) = sick_port(run, found.role).await {
        return Ok(Look::NotYet(what, Evidence::Local));
    }
    if found.role == Role::Server
        && let Some(what) = sick_etcd(run).await
    {
        // So it says also when it is the other members that are away.
        return Ok(unless_the_cluster(run, what).await);
    }
    node_says(run, unit.invocation_id).await
}

/// What speaks against the new RKE2, unless no API server answers either: then it may be waiting for one, as etcd does for the other
/// members.
async fn unless_the_cluster(run: &Run, what: String) -> Look {
    match rollback::api_answers(run).await {
        Ok(()) => Look::NotYet(what, Evidence::Silence),
        Err(why) => Look::NotYet(format!("{what}; no API server answers: {why}"), Evidence::Away),
    }
}

/// The first health port that does not answer as it should, of those that no other machine has a say in.
async fn sick_port(run: &Run, role: Role) -> Option<String> {
    let kubelet = SocketAddr::new(run.local_address, KUBELET_PORT);
    if let Some(what) = sick_http(run, "kubelet", kubelet, "/healthz").await {
        return Some(what);
    }
    match role {
        Role::Agent => None,
        Role::Server => {
            // Its TLS needs the cluster's own CA; that it accepts a connection is what can be told without.
            let supervisor = SocketAddr::new(run.local_address, SUPERVISOR_PORT);
            let answer = run.host.root.fs().effects().connect(supervisor, PROBE).await;
            answer.err().map(|error| format!("supervisor {supervisor} does not answer: {error}"))
        }
    }
}

/// Why etcd is not well. A server with an external datastore has none; where nobody can tell, it has to answer.
async fn sick_etcd(run: &Run) -> Option<String> {
    if matches!(etcd_snapshot::folder(&run.host.root), Ok(None)) {
        return None;
    }
    let etcd = SocketAddr::new(run.local_address, ETCD_PORT);
    sick_http(run, "etcd", etcd, "/health").await
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

async fn node_says(run: &Run, life: String) -> Result<Look, StepError> {
    let wanted = rollback::wanted(run).kubelet_version();
    let node = match nodes::get(&run.cluster.client, &run.plan.node_name).await {
        Ok(Some(node)) => node,
        Ok(None) => {
            let what = format!("node {} is not in the cluster", run.plan.node_name);
            return Ok(Look::NotYet(what, Evidence::Silence));
        }
        // On a single server the restart takes the API away: that is expected for a while.
        // So is a 401 or 403 while its caches fill.
        Err(error) => return Ok(Look::NotYet(chain(&error), Evidence::Away)),
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
    let name = &run.plan.node_name;
    let lacks = if !fresh {
        format!("node {name} has not reported since the restart")
    } else if reported != wanted {
        format!("node {name} reports kubelet {reported}, not {wanted}")
    } else if !nodes::is_ready(&node) {
        format!("node {name} is not Ready")
    } else {
        return Ok(Look::Good { kubelet_version: reported.to_owned(), life });
    };
    Ok(Look::NotYet(lacks, Evidence::Silence))
}

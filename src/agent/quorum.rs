//! Whether etcd can spare this server's member for a restart: etcd's own word on its members, and what the other servers' Nodes
//! say. Asks; what to think of the answers is `flow::quorum`'s and `flow::skew`'s.

use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::cluster::nodes;
use crate::cluster::turn::{self, LEASE, Turn};
use crate::flow::plan::Role;
use crate::flow::quorum::{Alarm, EtcdSeen, Health, Member, Spare, Status, spare, spare_unwell};
use crate::flow::skew::{self, Objection};
use crate::host::etcd::wire::StatusResponse;
use crate::host::etcd::{self, EtcdError, EtcdLook};
use crate::host::root::HostRoot;

/// Can etcd spare the member of this machine now? None where this machine has no member.
///
/// # Errors
/// Nobody could say, which is no permission.
pub async fn ask(root: &HostRoot) -> Result<Option<Spare>, EtcdError> {
    let look = etcd::look(root).await?;
    Ok(look.map(|look| spare(&seen(look))))
}

/// A restart of RKE2 takes this server's etcd member away for a minute or two: the others have to be there for it, by what etcd
/// says and by what their Nodes say. On the way back the own member may be broken, and only the others count.
///
/// # Errors
/// Retries while they cannot spare it, or nobody can tell; the sentence names the member.
pub async fn spared(run: &Run) -> Result<(), StepError> {
    let progress = run.journal.progress();
    match progress.preflighted().map(|found| found.role) {
        Some(Role::Agent) => Ok(()),
        // Where nobody has said that it is none, it is a server.
        Some(Role::Server) | None if progress.goes_back() => spared_on_the_way_back(run).await,
        Some(Role::Server) | None => spared_on_the_way(run).await.map(|_| ()),
    }
}

/// What a server is beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Nothing: there is no other server, and etcd's only member is its own.
    Nobody,
    /// Other voting members of etcd.
    Members,
    /// Other servers, or a datastore elsewhere.
    Others,
}

/// The same for a server on the way to its new version. Where etcd has other members, it is this server's turn from here on.
///
/// # Errors
/// As [`spared`]; retries as well while another server has its turn.
pub async fn spared_on_the_way(run: &Run) -> Result<Beside, StepError> {
    let beside = look_around(run).await?;
    if beside != Beside::Members {
        return Ok(beside);
    }
    let node = &run.plan.node_name;
    match turn::take(&run.cluster, node, run.now()).await? {
        Turn::Kept => Ok(beside),
        // Who had it until just now may be away yet.
        Turn::Taken => look_around(run).await,
        Turn::Anothers(holder) => Err(StepError::retry(format!(
            "one server after the other: {holder}, until its own upgrade is verified, ends or is cancelled; if none is under way there, \
             delete Lease {}/{LEASE}",
            run.cluster.namespace
        ))),
    }
}

async fn look_around(run: &Run) -> Result<Beside, StepError> {
    let said = ask(&run.host.root).await.map_err(|error| cannot_be_asked(&chain(&error)))?;
    let voters = match &said {
        Some(Spare::ApiAway(voters)) => Some(*voters),
        Some(Spare::Yes(others)) => Some(others + 1),
        Some(Spare::No(_)) | None => None,
    };
    obey(run, said)?;
    let others = nodes::other_servers(&run.cluster.client, &run.plan.node_name).await?;
    others_are_fit(run, &others)?;
    Ok(match voters {
        Some(2..) => Beside::Members,
        Some(_) if others.is_empty() => Beside::Nobody,
        Some(_) | None => Beside::Others,
    })
}

/// What is broken there is no reason to leave it broken; a member that is gone cannot be taken away. The API may be away with it.
async fn spared_on_the_way_back(run: &Run) -> Result<(), StepError> {
    let etcd = match etcd::look(&run.host.root).await {
        Ok(look) => {
            obey(run, look.map(|look| spare_unwell(&seen(look))))?;
            Ok(())
        }
        Err(error) if error.own_is_gone() => {
            tracing::info!(
                error = chain(&error),
                "this server's etcd member is gone: its restart takes nothing away"
            );
            return Ok(());
        }
        Err(error) => Err(error),
    };
    match (etcd, nodes::other_servers(&run.cluster.client, &run.plan.node_name).await) {
        // What etcd says itself is enough where no API server answers; and where one does, the others have a quorum without a
        // member that cannot say who they are.
        (Ok(()), Err(_)) => Ok(()),
        (Ok(()) | Err(_), Ok(others)) => others_are_fit(run, &others),
        (Err(etcd), Err(api)) => {
            Err(cannot_be_asked(&format!("{}; nor does an API server answer: {}", chain(&etcd), chain(&api))))
        }
    }
}

fn obey(run: &Run, said: Option<Spare>) -> Result<(), StepError> {
    match said {
        None | Some(Spare::Yes(_) | Spare::ApiAway(_)) => Ok(()),
        Some(Spare::No(Objection { why, fix })) => Err(not_spared(run, &format!("{why}; {fix}"))),
    }
}

fn others_are_fit(run: &Run, others: &[skew::Server]) -> Result<(), StepError> {
    let unfit = skew::unfit(others);
    if unfit.is_empty() { Ok(()) } else { Err(not_spared(run, &unfit.join("; "))) }
}

fn not_spared(run: &Run, why: &str) -> StepError {
    StepError::retry(format!("etcd cannot spare the member of {} now: {why}", run.plan.node_name))
}

fn cannot_be_asked(why: &str) -> StepError {
    StepError::retry(format!("no restart of RKE2 while etcd cannot be asked: {why}"))
}

fn seen(look: EtcdLook) -> EtcdSeen {
    let members = look.members.into_iter().map(|(member, status)| Member {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
        health: match status {
            Ok(status) => Health::Answers(said(status)),
            Err(error) => Health::Silent(chain(&error)),
        },
    });
    let alarms = look.alarms.into_iter().map(|raised| {
        let alarm = match raised.alarm {
            1 => Alarm::NoSpace,
            2 => Alarm::Corrupt,
            other => Alarm::Other(other),
        };
        (raised.member_id, alarm)
    });
    EtcdSeen { me: look.me, members: members.collect(), alarms: alarms.collect() }
}

fn said(status: StatusResponse) -> Status {
    Status {
        leader: status.leader,
        committed: status.raft_index,
        applied: status.raft_applied_index,
        is_learner: status.is_learner,
        errors: status.errors,
    }
}

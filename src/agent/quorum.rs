//! etcd's own word on its members, as `flow::quorum` takes it. Asks; decides nothing.

use crate::agent::step_error::chain;
use crate::flow::quorum::{Alarm, EtcdSeen, Health, Member, Spare, Status, spare};
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

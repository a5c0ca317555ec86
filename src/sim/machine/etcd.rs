//! etcd on a server in memory: the members that the world says there are, answered over the same messages as a real one. The
//! machine's own member outlives RKE2, as the container that it is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::SimMachine;
use super::disk::Disk;
use super::state::State;
use crate::flow::plan::Role;
use crate::host::etcd::wire::{
    ALARM, AlarmMember, AlarmResponse, Header, MEMBER_LIST, Member, MemberListResponse, STATUS,
    StatusResponse,
};
use crate::host::grpc::{GrpcCall, GrpcError};

const SERVER: &str = "/var/lib/rancher/rke2/server";
/// Where the own member listens.
const LOCAL: &str = "https://127.0.0.1:2379";
/// What RKE2's own client of etcd shows, and whom it trusts.
const KEYS: [(&str, &str); 3] =
    [("server-ca.crt", "etcd's authority\n"), ("client.crt", "etcd's client\n"), ("client.key", "its key\n")];
/// Where every member's log is; one that lags is behind this.
const NEWEST: u64 = 100_000;

/// A member of the cluster's etcd, as a world has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// The node that it is on; its number follows from that.
    pub node: String,
    /// It is the one on the machine that is asked.
    pub is_own: bool,
    /// What is wrong with it.
    pub trouble: Option<EtcdTrouble>,
}

/// What may be wrong with a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdTrouble {
    /// It was added and has not started.
    NotStarted,
    /// It does not vote yet.
    Learner,
    /// It does not answer.
    Silent,
    /// So many entries are still to be applied.
    Behind(u64),
    /// This is raised for it: 1 is NOSPACE, 2 is CORRUPT.
    Alarm(i32),
}

impl EtcdMember {
    /// One that is well.
    #[must_use]
    pub fn well(node: &str) -> Self {
        Self { node: node.to_owned(), is_own: false, trouble: None }
    }

    /// One that is not.
    #[must_use]
    pub fn with(node: &str, trouble: EtcdTrouble) -> Self {
        Self { trouble: Some(trouble), ..Self::well(node) }
    }

    fn is(&self, trouble: EtcdTrouble) -> bool {
        self.trouble == Some(trouble)
    }

    fn id(&self) -> u64 {
        self.node.bytes().fold(1469, |id, byte| (id * 31 + u64::from(byte)) % (1 << 40))
    }

    fn client_url(&self) -> String {
        format!("https://{}:2379", self.node)
    }

    fn shown(&self) -> Member {
        let has_started = !self.is(EtcdTrouble::NotStarted);
        Member {
            id: self.id(),
            name: if has_started { format!("{}-etcd", self.node) } else { String::new() },
            peer_urls: vec![format!("https://{}:2380", self.node)],
            client_urls: has_started.then(|| self.client_url()).into_iter().collect(),
            is_learner: self.is(EtcdTrouble::Learner),
        }
    }

    fn votes(&self) -> bool {
        !self.is(EtcdTrouble::Learner)
    }

    fn status(&self, leader: u64) -> StatusResponse {
        let applied = match self.trouble {
            Some(EtcdTrouble::Behind(entries)) => NEWEST - entries,
            _ => NEWEST,
        };
        StatusResponse {
            leader,
            raft_index: applied,
            raft_applied_index: applied,
            errors: if leader == 0 { vec!["etcdserver: no leader".to_owned()] } else { Vec::new() },
            is_learner: self.is(EtcdTrouble::Learner),
        }
    }

    fn alarm(&self) -> Option<AlarmMember> {
        match self.trouble {
            Some(EtcdTrouble::Alarm(alarm)) => Some(AlarmMember { member_id: self.id(), alarm }),
            _ => None,
        }
    }

    fn answers(&self) -> bool {
        !self.is(EtcdTrouble::Silent) && !self.is(EtcdTrouble::NotStarted)
    }
}

/// etcd at one moment, from this machine.
struct Seen {
    members: Vec<EtcdMember>,
    own_is_up: bool,
    others_are_near: bool,
}

impl Seen {
    fn is_there(&self, member: &EtcdMember) -> bool {
        member.answers() && if member.is_own { self.own_is_up } else { self.others_are_near }
    }

    fn has_quorum(&self) -> bool {
        let voters = || self.members.iter().filter(|member| member.votes());
        voters().filter(|member| self.is_there(member)).count() > voters().count() / 2
    }
}

/// Puts on a server's disk what RKE2 keeps there for etcd.
pub(super) fn install(disk: &mut Disk, role: Role) -> Result<(), nix::errno::Errno> {
    if role != Role::Server {
        return Ok(());
    }
    let config = format!("listen-client-urls: {LOCAL},https://10.0.0.1:2379\nname: own\n");
    disk.install(format!("{SERVER}/db/etcd/config"), config, 0o600)?;
    for (name, content) in KEYS {
        disk.install(format!("{SERVER}/tls/etcd/{name}"), content, 0o600)?;
    }
    Ok(())
}

/// May whoever shows this be answered?
fn trusts(call: &GrpcCall<'_>) -> bool {
    let shown = [&call.identity.authority, &call.identity.certificate, &call.identity.key];
    KEYS.iter().zip(shown).all(|((_, content), shown)| content.as_bytes() == shown.as_slice())
}

impl State {
    fn etcd_is_up(&self) -> bool {
        self.is_on()
            && self.containers
            && self.disk.stat(Path::new(&format!("{SERVER}/db/etcd")), true).is_ok()
    }
}

impl SimMachine {
    /// Who says what members etcd has now; without it, there is only the one of this machine.
    pub fn set_etcd(&self, members: Arc<dyn Fn() -> Vec<EtcdMember> + Send + Sync>) {
        self.hooks().etcd = Some(members);
    }

    /// The members, and who of them could answer from here.
    fn etcd_seen(&self) -> Seen {
        let hook = self.hooks().etcd.clone();
        let members = match hook {
            Some(members) => members(),
            None => vec![EtcdMember { is_own: true, ..EtcdMember::well("own") }],
        };
        let (own_is_up, others_are_near) =
            self.look(|state| (state.etcd_is_up(), state.is_cut_off_for().is_none()));
        Seen { members, own_is_up, others_are_near }
    }

    /// Do enough members reach each other for a leader?
    pub(super) fn etcd_has_quorum(&self) -> bool {
        self.etcd_seen().has_quorum()
    }

    pub(super) fn answer_grpc(&self, call: &GrpcCall<'_>) -> Result<Bytes, GrpcError> {
        let server = || call.server.to_owned();
        let no_answer = |why: io::Error| GrpcError::NoAnswer { server: server(), source: why.into() };
        let seen = self.etcd_seen();
        let (members, has_quorum) = (&seen.members, seen.has_quorum());
        let asked = members.iter().find(|member| {
            if call.server == LOCAL { member.is_own } else { call.server == member.client_url() }
        });
        let asked = asked.filter(|member| seen.is_there(member));
        let Some(asked) = asked else { return Err(no_answer(io::ErrorKind::ConnectionRefused.into())) };
        if !trusts(call) {
            return Err(no_answer(io::Error::other("invalid peer certificate")));
        }
        let answer = match call.method {
            // Both ask the leader.
            MEMBER_LIST | ALARM if !has_quorum => {
                return Err(GrpcError::TimedOut { server: server(), deadline: call.deadline });
            }
            MEMBER_LIST => {
                let header = Some(Header { member_id: asked.id() });
                let members = members.iter().map(EtcdMember::shown).collect();
                MemberListResponse { header, members }.encode_to_vec()
            }
            STATUS => {
                let leads = |member: &&EtcdMember| has_quorum && seen.is_there(member) && member.votes();
                asked.status(members.iter().find(leads).map_or(0, EtcdMember::id)).encode_to_vec()
            }
            ALARM => AlarmResponse { alarms: members.iter().filter_map(EtcdMember::alarm).collect() }
                .encode_to_vec(),
            method => {
                let (code, message) = ("Unimplemented".to_owned(), "unknown method".to_owned());
                return Err(GrpcError::Refused { server: server(), method, code, message });
            }
        };
        Ok(answer.into())
    }
}

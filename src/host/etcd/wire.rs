//! The messages of etcd's API that are asked for and answered here, with the fields that are read (etcd's `rpc.proto`, the same in
//! 3.4, 3.5 and 3.6; what an older etcd does not know is empty).

use prost::Message;

/// Lists the members.
pub const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";
/// Asks one member about itself.
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
/// Lists the alarms.
pub const ALARM: &str = "/etcdserverpb.Maintenance/Alarm";

/// Beginning of every answer.
#[derive(Clone, PartialEq, Message)]
pub struct Header {
    /// Who answers.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
}

/// Asks for the members.
#[derive(Clone, PartialEq, Message)]
pub struct MemberListRequest {
    /// With a quorum behind the answer (etcd 3.5 and later).
    #[prost(bool, tag = "1")]
    pub linearizable: bool,
}

/// The members.
#[derive(Clone, PartialEq, Message)]
pub struct MemberListResponse {
    /// Who answers.
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    /// All of them.
    #[prost(message, repeated, tag = "2")]
    pub members: Vec<Member>,
}

/// A member.
#[derive(Clone, PartialEq, Message)]
pub struct Member {
    /// Its number.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name; empty as long as it has not started.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Where others reach it.
    #[prost(string, repeated, tag = "3")]
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    #[prost(string, repeated, tag = "4")]
    pub client_urls: Vec<String>,
    /// It does not vote.
    #[prost(bool, tag = "5")]
    pub is_learner: bool,
}

/// Asks a member about itself.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// What a member says of itself.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// The leader that it knows.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
    /// The last entry that it knows to be committed.
    #[prost(uint64, tag = "5")]
    pub raft_index: u64,
    /// The last entry that it has applied.
    #[prost(uint64, tag = "7")]
    pub raft_applied_index: u64,
    /// What it complains of.
    #[prost(string, repeated, tag = "8")]
    pub errors: Vec<String>,
    /// It does not vote.
    #[prost(bool, tag = "10")]
    pub is_learner: bool,
}

/// Asks for the alarms: the action GET, of all members, is the empty message.
#[derive(Clone, PartialEq, Message)]
pub struct AlarmRequest {}

/// The alarms.
#[derive(Clone, PartialEq, Message)]
pub struct AlarmResponse {
    /// All that are raised.
    #[prost(message, repeated, tag = "2")]
    pub alarms: Vec<AlarmMember>,
}

/// One alarm.
#[derive(Clone, PartialEq, Message)]
pub struct AlarmMember {
    /// About whom.
    #[prost(uint64, tag = "1")]
    pub member_id: u64,
    /// 1 is NOSPACE, 2 is CORRUPT.
    #[prost(int32, tag = "2")]
    pub alarm: i32,
}

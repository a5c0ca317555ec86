//! Check of etcd: can it spare this server's member, by its own word?

use crate::agent::checks::Check;
use crate::agent::quorum;
use crate::flow::quorum::Spare;
use crate::host::root::HostRoot;

const NAME: &str = "etcd members";
const SCOPE: &str = "cluster";

pub(super) async fn members(root: &HostRoot) -> Check {
    match quorum::ask(root).await {
        Ok(None) => Check::pass(NAME, SCOPE, "this server has no etcd of its own"),
        Ok(Some(Spare::No(objection))) => Check::fail(NAME, SCOPE, objection.why, objection.fix),
        Ok(Some(spare @ (Spare::Yes(_) | Spare::ApiAway(_)))) => Check::pass(NAME, SCOPE, spare.to_string()),
        Err(error) => Check::unknown(NAME, SCOPE, &error),
    }
}

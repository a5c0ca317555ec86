//! What has to be there before VMs are started, looked at for all of them together: several VMs that wait for the same node
//! cost one look at it. Which of it a VM needs, and what is missing, `flow::restore` says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::{Cluster, ClusterError, devices, places, volumes};
use crate::flow::placement::Place;
use crate::flow::restore::{self, Missing, Permitted, storage};
use crate::flow::vms::VmEntry;

/// A look is as good as a new one for so long.
const FRESH: Duration = Duration::from_secs(1);
/// Why a device is away is asked again after this.
const EXPLAIN_AGAIN: Duration = Duration::from_secs(30);

/// A look at the node.
struct Looked {
    at: Instant,
    place: Option<Place>,
    /// With its pods, which only some VMs need.
    with_pods: bool,
}

/// What was seen, for all VMs that are to be started on one node.
pub(super) struct Premises {
    cluster: Cluster,
    node: String,
    looked: Mutex<Option<Looked>>,
    permitted: Mutex<Option<(Instant, Permitted)>>,
    /// Claims that can be attached: one look for each is enough.
    attachable: Mutex<BTreeSet<String>>,
    explained: Mutex<BTreeMap<String, (Instant, Option<String>)>>,
}

impl Premises {
    pub(super) fn new(cluster: Cluster, node: String) -> Self {
        Self {
            cluster,
            node,
            looked: Mutex::new(None),
            permitted: Mutex::new(None),
            attachable: Mutex::new(BTreeSet::new()),
            explained: Mutex::new(BTreeMap::new()),
        }
    }

    /// Which node.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// What is missing for a start, in a sentence; none when all is there. `claims` are those of the VM's own spec.
    pub(super) async fn missing(
        &self,
        entry: &VmEntry,
        claims: &[String],
    ) -> Result<Option<String>, ClusterError> {
        let place = self.place(restore::shares(entry)).await?;
        if let Some(missing) = restore::missing(entry, &self.node, place.as_ref()) {
            return Ok(Some(self.explain(missing).await));
        }
        if !entry.devices.is_empty()
            && let Some(missing) = restore::refused(entry, &self.permitted().await?)
        {
            return Ok(Some(missing.to_string()));
        }
        let Some(place) = place else { return Ok(None) };
        self.detached(&entry.vm.namespace, claims, &place).await
    }

    /// What nobody could tell about this VM; said when it does not come up.
    pub(super) async fn unsure(&self, entry: &VmEntry) -> Option<String> {
        let known = self.permitted.lock().await;
        match known.as_ref()? {
            (_, Permitted::Unknown { why }) if !entry.devices.is_empty() => {
                let devices = entry.devices.join(", ");
                Some(format!("nobody could tell whether KubeVirt permits {devices} ({why})"))
            }
            (_, Permitted::Unknown { .. } | Permitted::Unlisted | Permitted::Listed(_)) => None,
        }
    }

    async fn place(&self, with_pods: bool) -> Result<Option<Place>, ClusterError> {
        let mut looked = self.looked.lock().await;
        let fresh =
            looked.as_ref().filter(|look| look.at.elapsed() < FRESH && (look.with_pods || !with_pods));
        if let Some(look) = fresh {
            return Ok(look.place.clone());
        }
        let at = Instant::now();
        let mut place = places::one(&self.cluster.client, &self.node).await?;
        // Who holds what of a node that is closed matters to nobody.
        if let Some(place) = place.as_mut().filter(|place| with_pods && place.closed.is_none()) {
            place.pods = places::pods_on(&self.cluster.client, &self.node).await?;
        }
        *looked = Some(Looked { at, place: place.clone(), with_pods });
        Ok(place)
    }

    async fn permitted(&self) -> Result<Permitted, ClusterError> {
        let mut known = self.permitted.lock().await;
        if let Some((at, permitted)) = known.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(permitted.clone());
        }
        let at = Instant::now();
        let permitted = devices::permitted(&self.cluster).await?;
        if let Permitted::Unknown { why } = &permitted
            && known.as_ref().is_none_or(|(_, known)| *known != permitted)
        {
            tracing::warn!(
                why,
                "nobody can tell which devices KubeVirt permits; VMs are started all the same"
            );
        }
        *known = Some((at, permitted.clone()));
        Ok(permitted)
    }

    async fn detached(
        &self,
        namespace: &str,
        claims: &[String],
        place: &Place,
    ) -> Result<Option<String>, ClusterError> {
        for name in claims {
            let full = format!("{namespace}/{name}");
            if self.attachable.lock().await.contains(&full) {
                continue;
            }
            let claim = volumes::claim(&self.cluster.client, namespace, name).await?;
            if let Some(missing) = storage::detached(&claim, place) {
                return Ok(Some(missing.to_string()));
            }
            self.attachable.lock().await.insert(full);
        }
        Ok(None)
    }

    /// The sentence, with Harvester's own word on a device that is not there.
    async fn explain(&self, missing: Missing) -> String {
        let Some(device) = &missing.device else { return missing.to_string() };
        let mut explained = self.explained.lock().await;
        let fresh = explained.get(device).filter(|(at, _)| at.elapsed() < EXPLAIN_AGAIN);
        let story = if let Some((_, story)) = fresh {
            story.clone()
        } else {
            let story = devices::explain(&self.cluster.client, &self.node, device).await;
            explained.insert(device.clone(), (Instant::now(), story.clone()));
            story
        };
        match story {
            Some(story) => format!("{}: {story}", missing.what),
            None => missing.to_string(),
        }
    }
}

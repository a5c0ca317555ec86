//! Where the VMs of a node can go: reads nodes, and the pods of nodes, until the proof holds and no further, so that a yes
//! costs no more among a thousand nodes than among three; a no has looked at all of them. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;

use crate::cluster::crd::kubevirt::VirtualMachineInstance;
use crate::cluster::{ClusterError, places};
use crate::flow::classify::Elsewhere;
use crate::flow::evacuate::Target;
use crate::flow::placement::{self, Closed, Mover, Place, Proof};
use crate::flow::vms::VmKey;

/// Nodes whose pods are read at first; four times as many each time that they do not suffice.
const FIRST_ROUND: usize = 4;

/// What was read for proofs about one node; asks again only for what it does not know yet.
pub struct Surroundings {
    client: Client,
    node: String,
    movers: BTreeMap<VmKey, Mover>,
    /// Nodes whose pods are known.
    read: Vec<Place>,
    /// Nodes whose pods are not: as if they were empty.
    unread: Vec<Place>,
    /// Where the next nodes begin; none when all are known.
    next: Option<String>,
}

impl Surroundings {
    /// Reads what these VMs of `node` ask for, and the first of the other nodes.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn of(
        client: &Client,
        node: &str,
        vmis: &[&VirtualMachineInstance],
    ) -> Result<Self, ClusterError> {
        let movers = places::movers(client, node, vmis).await?;
        let (unread, next) = places::page(client, node, None).await?;
        Ok(Self { client: client.clone(), node: node.to_owned(), movers, read: Vec::new(), unread, next })
    }

    /// The other nodes as places for one VM, whatever room they have.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn elsewhere(&mut self, vm: &VmKey) -> Result<Elsewhere, ClusterError> {
        let Some(mover) = self.movers.get(vm).cloned() else {
            let why = "its launcher pod is not to be seen, so nobody knows what it needs".to_owned();
            return Ok(Elsewhere::Closed { why });
        };
        loop {
            let elsewhere = placement::elsewhere(&mover, self.read.iter().chain(&self.unread));
            if elsewhere == Elsewhere::Open || !self.more_nodes().await? {
                return Ok(elsewhere);
            }
        }
    }

    /// Whether these fit on the other nodes, together. One whose launcher pod is not there is left out of the proof.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn prove(&mut self, who: impl Fn(&VmKey) -> bool) -> Result<Proof, ClusterError> {
        let all = self.movers.iter().filter(|(vm, _)| who(vm));
        let movers: Vec<Mover> = all.map(|(_, mover)| mover.clone()).collect();
        if movers.iter().any(Mover::minds_neighbours) {
            self.read_everything().await?;
        }
        let mut round = FIRST_ROUND;
        loop {
            let mut proof = placement::prove(&movers, &self.read);
            let unplaced = |vm: &VmKey| proof.unplaced.iter().any(|one| one.vm == *vm);
            let hopeful: Vec<&Mover> = movers.iter().filter(|mover| unplaced(&mover.vm)).collect();
            if hopeful.is_empty() {
                return Ok(proof);
            }
            let suits = |place: &Place| hopeful.iter().any(|one| placement::misfit(one, place).is_none());
            let (suiting, others): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.unread).into_iter().partition(|place| suits(place));
            self.unread = others;
            if suiting.is_empty() && !self.more_nodes().await? {
                for one in &mut proof.unplaced {
                    let mover = movers.iter().find(|mover| mover.vm == one.vm);
                    let others = self.unread.iter().filter(|place| place.closed != Some(Closed::Leaving));
                    let why = others
                        .filter_map(|place| Some((place.name.clone(), placement::misfit(mover?, place)?)));
                    one.why.extend(why);
                }
                return Ok(proof);
            }
            self.read_pods(suiting, round).await?;
            round *= 4;
        }
    }

    /// Where each of these could go now: together, or each alone. With each the nodes where it has failed before: another
    /// one is looked for then. Only a no that is certain is a no.
    ///
    /// # Errors
    /// [`ClusterError`].
    pub async fn targets(
        &mut self,
        movers: &BTreeMap<VmKey, BTreeSet<String>>,
    ) -> Result<BTreeMap<VmKey, Target>, ClusterError> {
        let together = self.prove(|vm| movers.contains_key(vm)).await?;
        let mut targets = BTreeMap::new();
        for (vm, failed_on) in movers {
            let Some(mover) = self.movers.get(vm).cloned() else { continue };
            let alone = if together.placed.contains_key(vm) {
                None
            } else {
                self.prove(|one| one == vm).await?.unplaced.pop()
            };
            let target = match alone {
                Some(unplaced) if placement::is_certain(&mover, &unplaced) => {
                    Target::None { why: unplaced.reasons(), cure: unplaced.smallest_change() }
                }
                Some(_) => Target::Unknown,
                None => Target::Open { other: self.another(&mover, failed_on).await? },
            };
            targets.insert(vm.clone(), target);
        }
        Ok(targets)
    }

    /// How many nodes' pods were read.
    #[must_use]
    pub fn nodes_read(&self) -> u32 {
        u32::try_from(self.read.len()).unwrap_or(u32::MAX)
    }

    /// A node that takes this one and is none of those where it has failed; none when it has failed nowhere.
    async fn another(
        &mut self,
        mover: &Mover,
        failed_on: &BTreeSet<String>,
    ) -> Result<Option<String>, ClusterError> {
        if failed_on.is_empty() {
            return Ok(None);
        }
        let others = |read: &[Place]| -> Vec<Place> {
            read.iter().filter(|place| !failed_on.contains(&place.name)).cloned().collect()
        };
        let find = |read: &[Place]| {
            let mut proof = placement::prove(std::slice::from_ref(mover), &others(read));
            proof.placed.remove(&mover.vm)
        };
        if let Some(found) = find(&self.read) {
            return Ok(Some(found));
        }
        let (suiting, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unread)
            .into_iter()
            .partition(|place| !failed_on.contains(&place.name) && placement::misfit(mover, place).is_none());
        self.unread = later;
        self.read_pods(suiting, FIRST_ROUND).await?;
        Ok(find(&self.read))
    }

    /// Reads the pods of the largest of these, and keeps the others for later.
    async fn read_pods(&mut self, mut suiting: Vec<Place>, count: usize) -> Result<(), ClusterError> {
        let memory = |place: &Place| place.allocatable.get("memory").copied().unwrap_or(0);
        suiting.sort_by_key(|place| std::cmp::Reverse(memory(place)));
        let later = suiting.split_off(count.min(suiting.len()));
        self.unread.extend(later);
        for mut place in suiting {
            place.pods = places::pods_on(&self.client, &place.name).await?;
            self.read.push(place);
        }
        Ok(())
    }

    /// All pods of all nodes, the one that is left and the closed ones too.
    async fn read_everything(&mut self) -> Result<(), ClusterError> {
        while self.more_nodes().await? {}
        let all = std::mem::take(&mut self.unread);
        self.read_pods(all, usize::MAX).await
    }

    /// False when there are no more.
    async fn more_nodes(&mut self) -> Result<bool, ClusterError> {
        let Some(from) = self.next.take() else { return Ok(false) };
        let (more, next) = places::page(&self.client, &self.node, Some(&from)).await?;
        self.unread.extend(more);
        self.next = next;
        Ok(true)
    }
}

//! The search for an assignment: the pickiest and biggest first, each to the emptiest node that takes it; whoever finds no
//! place may send others elsewhere, as far as a budget of tries reaches. What it placed fits; what it could not place it
//! calls unplaced, also in the rare case that a longer search would have found a way.

use std::cmp::Reverse;

use super::rules::{self, Company};
use super::{Closed, Misfit, Mover, Place, Proof, Resident, Resources, Unplaced};

/// Tries to send others elsewhere before it is left at that.
const BUDGET: u32 = 20_000;
/// How many have to go elsewhere for one, at most.
const DEPTH: u32 = 2;

struct Search<'a> {
    movers: Vec<&'a Mover>,
    places: &'a [Place],
    company: Vec<Company>,
    /// For each mover, the places whose labels, taints and state it meets.
    candidates: Vec<Vec<usize>>,
    free: Vec<Resources>,
    chosen: Vec<Option<usize>>,
    budget: u32,
}

pub(super) fn search(movers: &[Mover], places: &[Place]) -> Proof {
    let free: Vec<Resources> = places.iter().map(free).collect();
    let open = |mover: &Mover| -> Vec<usize> {
        let places = places.iter().enumerate();
        places.filter(|(_, place)| rules::misfit(mover, place).is_none()).map(|(at, _)| at).collect()
    };
    let mut order: Vec<(&Mover, Vec<usize>)> = movers.iter().map(|mover| (mover, open(mover))).collect();
    order.sort_by_cached_key(|(mover, open)| {
        (open.len(), Reverse(permille(&mover.pod.asks, &free)), mover.vm.clone())
    });
    let (movers, candidates): (Vec<_>, Vec<_>) = order.into_iter().unzip();
    let company = movers.iter().map(|mover| Company::of(mover, places)).collect();
    let chosen = vec![None; movers.len()];
    let mut search = Search { movers, places, company, candidates, free, chosen, budget: BUDGET };
    // Whoever has to be with another one finds a place once that one has; nobody else is helped by another round.
    while search.place_all(0) && search.minds_company() {}
    // Togetherness cannot be kept while its partners are sent about.
    if !search.minds_company() {
        search.place_all(DEPTH);
    }
    search.proof()
}

impl Search<'_> {
    /// Tries everybody who has no place once; whether anybody got one.
    fn place_all(&mut self, depth: u32) -> bool {
        let mut any = false;
        for mover in 0..self.movers.len() {
            any |= self.chosen_of(mover).is_none() && self.place(mover, depth);
        }
        any
    }

    fn minds_company(&self) -> bool {
        self.movers.iter().any(|mover| !mover.together.is_empty())
    }

    /// Finds a place, with at most `depth` others sent elsewhere. False leaves everything as it was.
    fn place(&mut self, mover: usize, depth: u32) -> bool {
        let mut open = self.candidates.get(mover).cloned().unwrap_or_default();
        open.sort_by_cached_key(|at| (Reverse(self.free_permille(*at)), *at));
        if let Some(at) = open.iter().copied().find(|at| self.misfit(mover, *at).is_none()) {
            self.settle(mover, Some(at));
            return true;
        }
        depth > 0 && open.into_iter().any(|at| self.place_instead(mover, at, depth))
    }

    /// Takes the place of somebody who finds another one.
    fn place_instead(&mut self, mover: usize, at: usize, depth: u32) -> bool {
        for other in 0..self.movers.len() {
            if self.chosen_of(other) != Some(at) {
                continue;
            }
            if self.budget == 0 {
                return false;
            }
            self.budget -= 1;
            self.settle(other, None);
            if self.misfit(mover, at).is_none() {
                self.settle(mover, Some(at));
                if self.place(other, depth - 1) {
                    return true;
                }
                self.settle(mover, None);
            }
            self.settle(other, Some(at));
        }
        false
    }

    fn settle(&mut self, mover: usize, at: Option<usize>) {
        let Some(asks) = self.movers.get(mover).map(|mover| &mover.pod.asks) else { return };
        let before = std::mem::replace(self.chosen.get_mut(mover).unwrap_or(&mut None), at);
        if let Some(free) = before.and_then(|at| self.free.get_mut(at)) {
            for (resource, asked) in asks {
                *free.entry(resource.clone()).or_insert(0) += asked;
            }
        }
        if let Some(free) = at.and_then(|at| self.free.get_mut(at)) {
            for (resource, asked) in asks {
                let left = free.entry(resource.clone()).or_insert(0);
                *left = left.saturating_sub(*asked);
            }
        }
    }

    /// What keeps a mover from a place, as everybody is placed now.
    fn misfit(&self, mover: usize, at: usize) -> Option<Misfit> {
        let (Some(who), Some(place)) = (self.movers.get(mover), self.places.get(at)) else {
            return Some(Misfit::Closed(Closed::Leaving));
        };
        let lacks = lacking(&who.pod.asks, self.free.get(at));
        let lacks = (!lacks.is_empty()).then_some(Misfit::Lacks(lacks));
        let other = match rules::misfit(who, place) {
            // Opening a node that is too small would help nobody.
            Some(Misfit::Closed(
                Closed::Cordoned | Closed::NoVirtHandler | Closed::NotReady | Closed::OutOfService,
            )) if lacks.is_some() => None,
            other => other,
        };
        other.or(lacks).or_else(|| self.company.get(mover)?.misfit(who, place, &self.arrived(mover)))
    }

    /// The other movers that have a place, with it.
    fn arrived(&self, but: usize) -> Vec<(&Resident, &Place)> {
        let all = self.movers.iter().zip(&self.chosen).enumerate().filter(|(mover, _)| *mover != but);
        all.filter_map(|(_, (mover, at))| Some((&mover.pod, self.places.get((*at)?)?))).collect()
    }

    fn chosen_of(&self, mover: usize) -> Option<usize> {
        self.chosen.get(mover).copied().flatten()
    }

    fn free_permille(&self, at: usize) -> u128 {
        let (Some(place), Some(free)) = (self.places.get(at), self.free.get(at)) else { return 0 };
        let share = |resource: &str| {
            let all = place.allocatable.get(resource).copied().unwrap_or(0);
            free.get(resource).copied().unwrap_or(0).saturating_mul(1000).checked_div(all).unwrap_or(0)
        };
        share("memory").min(share("cpu"))
    }

    fn proof(&self) -> Proof {
        let mut proof = Proof::default();
        for (mover, who) in self.movers.iter().enumerate() {
            if let Some(place) = self.chosen_of(mover).and_then(|at| self.places.get(at)) {
                proof.placed.insert(who.vm.clone(), place.name.clone());
                continue;
            }
            let why =
                self.places.iter().enumerate().filter(|(_, place)| place.closed != Some(Closed::Leaving));
            let why = why.filter_map(|(at, place)| Some((place.name.clone(), self.misfit(mover, at)?)));
            proof.unplaced.push(Unplaced { vm: who.vm.clone(), why: why.collect() });
        }
        proof.unplaced.sort_by(|one, other| one.vm.cmp(&other.vm));
        proof
    }
}

/// What a place lacks for one mover.
pub(super) fn too_full(mover: &Mover, place: &Place) -> Option<Misfit> {
    let lacks = lacking(&mover.pod.asks, Some(&free(place)));
    (!lacks.is_empty()).then_some(Misfit::Lacks(lacks))
}

/// What is not taken of a place.
fn free(place: &Place) -> Resources {
    let mut free = place.allocatable.clone();
    for (resource, asked) in place.pods.iter().flat_map(|pod| &pod.asks) {
        let left = free.entry(resource.clone()).or_insert(0);
        *left = left.saturating_sub(*asked);
    }
    free
}

fn lacking(asks: &Resources, free: Option<&Resources>) -> Resources {
    let left = |resource: &str| free.and_then(|free| free.get(resource)).copied().unwrap_or(0);
    let lacks = asks.iter().filter(|(resource, asked)| **asked > left(resource));
    lacks.map(|(resource, asked)| (resource.clone(), asked - left(resource))).collect()
}

/// The largest part of what is free anywhere that this takes.
fn permille(asks: &Resources, free: &[Resources]) -> u128 {
    let shares = asks.iter().map(|(resource, asked)| {
        let most = free.iter().filter_map(|free| free.get(resource)).max().copied().unwrap_or(0);
        asked.saturating_mul(1000).checked_div(most).unwrap_or(u128::MAX)
    });
    shares.max().unwrap_or(0)
}

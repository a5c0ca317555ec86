//! Looks where RKE2 would find its runtime images on this machine, as `flow::runtime_image` takes it, and has the old one kept where
//! the way back needs it. Decides nothing.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::step_error::{StepError, chain};
use crate::flow::place::Place;
use crate::flow::plan::{NodePlan, Role};
use crate::flow::runtime_image::{Archive, Folder, Source, must_keep, new_source, old_source};
use crate::flow::skew::Objection;
use crate::flow::version::Rke2Version;
use crate::flow::way_back::WayBack;
use crate::host::Host;
use crate::host::fs::FsError;
use crate::host::kept_runtime;
use crate::host::rke2_config::Rke2Config;
use crate::host::root::HostRoot;
use crate::host::runtime;

/// Archives of some gigabytes are read to their lists, from a disk that others use as well.
const LOOKING: Duration = Duration::from_mins(5);
/// How long RKE2 may take to stop; a hanging start is cut off.
pub(super) const STOP: Duration = Duration::from_mins(3);

/// Which archives of the plan are looked at beside those of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archives {
    /// Those that the upgrade will put there.
    Planned,
    /// They are there by now.
    InPlace,
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    new: Vec<(String, Folder)>,
    old: Vec<(String, Folder)>,
    archives: Vec<Archive>,
    planned: Vec<Archive>,
}

impl Found {
    /// Where the new RKE2 will find its runtime.
    ///
    /// # Errors
    /// Nowhere, or in a folder that may be half unpacked.
    pub fn new_source(&self, plan: &NodePlan) -> Result<Source, Objection> {
        new_source(&plan.rke2.to, &self.new, &self.archives, &self.planned)
    }

    /// Where the old one will.
    ///
    /// # Errors
    /// Nowhere.
    pub fn old_source(&self, plan: &NodePlan, way: &WayBack) -> Result<Source, Objection> {
        old_source(&plan.rke2, way, &self.old, &self.archives)
    }
}

/// Looks at the data folders of both versions, and into every archive.
///
/// # Errors
/// The machine's folders cannot be read, or not in five minutes.
pub async fn look(host: &Host, plan: &NodePlan, which: Archives) -> io::Result<Found> {
    let (root, rke2) = (host.root.clone(), plan.rke2.clone());
    let images = match which {
        Archives::Planned => plan.artifacts.images.clone(),
        Archives::InPlace => Vec::new(),
    };
    let looked = host.root.fs().blocking(move |_| {
        let config = Rke2Config::read(&root).map_err(io::Error::other)?;
        let folders = |version| runtime::folders(&root, &config, version).map_err(io::Error::other);
        let planned: io::Result<Vec<Archive>> = (0..)
            .zip(&images)
            .map(|(number, image)| planned(&root, &image.place(number).map_err(io::Error::other)?))
            .collect();
        Ok::<_, io::Error>(Found {
            new: folders(&rke2.to)?,
            old: folders(&rke2.from)?,
            archives: runtime::archives(&root, &config).map_err(io::Error::other)?,
            planned: planned?,
        })
    });
    let late = |_| io::Error::other("the image archives were not read in five minutes");
    tokio::time::timeout(LOOKING, looked).await.map_err(late)?
}

fn planned(root: &HostRoot, place: &Place) -> io::Result<Archive> {
    match place {
        Place::Disk(path) => runtime::archive_at(root, path).map_err(io::Error::other),
        Place::Server { url, .. } => Ok(runtime::archive_from(url)),
        Place::Registry(_) | Place::Archive { .. } => Err(io::Error::other("an image archive is a file")),
    }
}

/// With all archives of the plan in place: sees that the new RKE2 finds its runtime, and keeps the old one where the way back needs it.
///
/// # Errors
/// Refuses when there is none, or nobody can tell.
pub async fn settle(host: &Host, plan: &NodePlan, role: Role) -> Result<(), StepError> {
    let found = look(host, plan, Archives::InPlace).await;
    let found = found.map_err(|error| {
        StepError::refuse(format!("nobody can tell where RKE2 finds its runtime image: {}", chain(&error)))
    })?;
    let source = found.new_source(plan).map_err(|Objection { why, fix }| {
        StepError::refuse(format!("{} could not start: {why}; {fix}", plan.rke2.to))
    })?;
    tracing::debug!(%source, "the new runtime image");
    if !must_keep(&WayBack::of(role, &plan.rke2), &plan.rke2.to) {
        return Ok(());
    }
    let (root, from) = (host.root.clone(), plan.rke2.from.clone());
    let keep = move |_: &_| {
        let config = Rke2Config::read(&root).map_err(io::Error::other)?;
        kept_runtime::keep(&root, &config, &from).map_err(io::Error::other)
    };
    let kept = host.root.fs().blocking(keep).await.map_err(|error| {
        let why = chain(&error);
        StepError::refuse(format!("the runtime of {} cannot be kept for the way back: {why}", plan.rke2.from))
    })?;
    tracing::debug!(?kept, "the old runtime image is kept for the way back");
    Ok(())
}

/// Puts the old runtime back where the new RKE2 has removed it. `unit` is stopped for that.
///
/// # Errors
/// Needs an operator when it cannot be put there.
pub async fn put_back(host: &Host, plan: &NodePlan, unit: &str) -> Result<(), StepError> {
    let lost = |error: io::Error| {
        let why = chain(&error);
        StepError::operator(format!("the runtime of {} cannot be put back: {why}", plan.rke2.from))
    };
    let of_old = |act: fn(&HostRoot, &Rke2Config, &Rke2Version) -> Result<Vec<PathBuf>, FsError>| {
        let (root, from) = (host.root.clone(), plan.rke2.from.clone());
        host.root.fs().blocking(move |_| {
            let config = Rke2Config::read(&root).map_err(io::Error::other)?;
            act(&root, &config, &from).map_err(io::Error::other)
        })
    };
    if of_old(kept_runtime::missing).await.map_err(lost)?.is_empty() {
        return Ok(());
    }
    host.systemd.stop_fenced(unit, Instant::now() + STOP).await?;
    let places = of_old(kept_runtime::put_back).await.map_err(lost)?;
    tracing::info!(?places, "the old runtime image is in its place again");
    Ok(())
}

//! Watches the live binary while the fence stands: whoever replaces it is found within seconds, not at the next start. Then the
//! approved binary is put back and the run holds. Installs nothing of its own, and leaves running processes alone.

use std::path::PathBuf;
use std::time::Duration;

use crate::agent::observe::sha256_of_process;
use crate::agent::run::Run;
use crate::agent::step_error::{StepError, chain};
use crate::flow::guard::Kept;
use crate::flow::progress::{Progress, Work};
use crate::flow::record::Record;
use crate::flow::step::Step;
use crate::host::Host;
use crate::host::effects::Stat;
use crate::host::fs::{Fs, FsError};
use crate::host::swap_file::{self, By};

/// A look is one `stat`; the file is read only when that has changed.
const LOOK: Duration = Duration::from_secs(5);

/// No process is on its way from fork to exec for so long.
const EXEC: Duration = Duration::from_secs(1);

/// What was seen last, and found good.
pub type Seen = Option<(Stat, u32)>;

/// A binary that this run has not approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alien {
    /// sha256 of what lies at the live path.
    live: String,
    /// sha256 of what runs, where something runs.
    runs: Option<String>,
    /// Its pid.
    pid: u32,
}

/// One step's watch.
pub struct Watch {
    host: Host,
    unit: String,
    live: PathBuf,
    approved: Approved,
    seen: Seen,
    /// What runs is not looked at.
    only_path: bool,
}

/// By digest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Approved {
    old: String,
    /// Once it is in place.
    new: Option<String>,
    /// The one that has to be at the live path now.
    expected: String,
}

impl Approved {
    fn of(progress: &Progress) -> Option<Self> {
        let old = progress.preflighted()?.live_sha256.clone();
        let new = match progress.swap() {
            Work::Not | Work::Intended(_) => None,
            Work::Done(fact) => Some(fact.to_sha256.clone()),
        };
        let expected = progress.placed_sha256().unwrap_or(&old).to_owned();
        Some(Self { old, new, expected })
    }

    /// May this lie there while that runs?
    fn lets(&self, live: &str, runs: Option<&str>) -> bool {
        let fits = live == self.expected
            // The boot guard has put the old one back, and it starts or runs: the steps find that themselves.
            || (live == self.old && runs != Some(self.expected.as_str()));
        fits && runs.is_none_or(|sha256| self.knows(sha256))
    }

    fn knows(&self, sha256: &str) -> bool {
        sha256 == self.old || self.new.as_deref() == Some(sha256)
    }
}

/// When the live path is looked at about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Looks {
    /// The fence does not stand, or nobody can say just now which binary has to lie there.
    Never,
    /// Before it is begun, after it has failed, and while the run stands still before it: the step itself is at the binary.
    Before,
    /// All the time, at the path alone: which process is RKE2's changes meanwhile.
    AtThePath,
    /// All the time: the step leaves both alone, and may be left at any await.
    Throughout,
}

impl Looks {
    /// Of a step.
    #[must_use]
    pub fn at(step: Step) -> Self {
        match step {
            Step::Preflight
            | Step::Stage
            | Step::ProbeSwap
            | Step::Rollback
            | Step::Restore
            | Step::Release
            | Step::Finish => Self::Never,
            Step::Fence | Step::Swap => Self::Before,
            Step::Restart | Step::ProbeRestart => Self::AtThePath,
            Step::Cordon | Step::PreDrain | Step::Drain | Step::Snapshot | Step::Verify | Step::PostDrain => {
                Self::Throughout
            }
        }
    }
}

impl Watch {
    /// For as long as the run is at, or stands before, a step at which [`Looks`] are cast.
    #[must_use]
    pub fn of(run: &Run, step: Step) -> Option<Self> {
        if Looks::at(step) == Looks::Never {
            return None;
        }
        let progress = run.journal.progress();
        // Nothing is kept that could be put back, or nobody can tell which one has to lie there.
        if progress.fenced_units().is_empty() || matches!(progress.swap(), Work::Intended(_)) {
            return None;
        }
        let found = progress.preflighted()?;
        Some(Self {
            host: run.host.clone(),
            unit: found.unit.clone(),
            live: run.host.root.at(&found.live),
            approved: Approved::of(progress)?,
            seen: run.seen_live,
            only_path: false,
        })
    }

    /// The same, for as long as RKE2 comes and goes.
    #[must_use]
    pub fn only_path(mut self, only_path: bool) -> Self {
        self.only_path = only_path;
        self
    }

    /// Looks once.
    ///
    /// # Errors
    /// The disk's or the bus's: what lies or runs there cannot be told.
    pub async fn look(&mut self) -> Result<Option<Alien>, StepError> {
        let live = self.live.clone();
        let look = move |fs: &Fs| match fs.effects().stat(&live) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StepError::from(FsError::on("look at", &live)(error))),
        };
        let stat = self.host.root.fs().blocking(look).await?;
        let mut pid = self.pid().await?;
        let now = stat.map(|stat| (stat, pid));
        if now.is_some() && now == self.seen {
            return Ok(None);
        }
        // A folder or a pipe is none of ours either.
        let live = lies_at(&self.host, self.live.clone()).await?;
        let mut runs = self.runs(pid).await;
        if !self.approved.lets(&live, runs.as_deref()) && self.approved.lets(&live, None) {
            // Between fork and exec a process is systemd's own program.
            tokio::time::sleep(EXEC).await;
            pid = self.pid().await?;
            runs = self.runs(pid).await;
        }
        if self.approved.lets(&live, runs.as_deref()) {
            // A process that could not be looked at is on its way out, or is looked at again.
            self.seen = now.filter(|_| pid == 0 || runs.is_some());
            return Ok(None);
        }
        Ok(Some(Alien { live, runs, pid }))
    }

    async fn pid(&self) -> Result<u32, StepError> {
        Ok(if self.only_path { 0 } else { self.host.systemd.main_pid(&self.unit).await? })
    }

    async fn runs(&self, pid: u32) -> Option<String> {
        if pid == 0 { None } else { sha256_of_process(&self.host, pid).await.ok() }
    }

    /// Ends when something is there that was not approved; looks for the first time after a while.
    pub async fn appears(&mut self) -> Alien {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.look().await {
                Ok(Some(alien)) => return alien,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(error = error.sentence(), "the live binary could not be looked at");
                }
            }
        }
    }

    /// What the next watch need not read again.
    #[must_use]
    pub fn seen(self) -> Seen {
        self.seen
    }
}

/// Puts the approved binary back, if it is to be had, and stops the line.
pub async fn stop_the_line(run: &mut Run, alien: Alien) -> StepError {
    let put_back = put_back(run, &alien).await;
    let back = match &put_back {
        Ok(()) => "the approved one is in place again".to_owned(),
        Err(error) => {
            let approved = facts(run).map(|(_, approved)| approved.expected).unwrap_or_default();
            format!(
                "it could not be put back ({}): put the one with sha256 {approved} there",
                error.sentence()
            )
        }
    };
    let Some((live, approved)) = facts(run) else {
        return StepError::operator("the journal has no preflight; ask for help");
    };
    let is_put_back = put_back.is_ok();
    if let Err(error) = run.record(Record::AlienFound { sha256: alien.live.clone(), put_back: is_put_back }) {
        return error.into();
    }
    let what = match alien.runs.as_deref() {
        Some(runs) if !approved.knows(runs) => format!(
            "RKE2 runs a binary that this upgrade has not approved (pid {}, sha256 {runs}): the node was upgraded without pre-drain; {back}; \
             look what installed it, restart RKE2 on the approved one when no VM runs here, then resume",
            alien.pid
        ),
        Some(_) | None => undone(&live, &alien.live, &back),
    };
    StepError::operator(what)
}

/// Looks once, about a step that others' binaries are looked for before and that waits.
///
/// # Errors
/// Needs an operator when one lies there, or runs; what cannot be read now is read the next time.
pub async fn look_once(run: &mut Run, step: Step) -> Result<(), StepError> {
    let watched = match Looks::at(step) {
        Looks::Before | Looks::AtThePath => Watch::of(run, step),
        Looks::Never | Looks::Throughout => None,
    };
    let Some(mut watched) = watched else { return Ok(()) };
    if let Ok(Some(alien)) = watched.look().await {
        return Err(stop_the_line(run, alien).await);
    }
    run.seen_live = watched.seen();
    Ok(())
}

fn facts(run: &Run) -> Option<(String, Approved)> {
    let progress = run.journal.progress();
    Some((progress.preflighted()?.live.clone(), Approved::of(progress)?))
}

/// From where it is kept.
async fn put_back(run: &Run, alien: &Alien) -> Result<(), StepError> {
    let Some((live, approved)) = facts(run) else {
        return Err(StepError::operator("the journal has no preflight"));
    };
    if alien.live == approved.expected {
        return Ok(());
    }
    let kept = Kept::of(&live, &run.plan.rke2);
    let source = if approved.expected == approved.old { kept.old } else { kept.new };
    put_in_place(run, &live, &source, &approved.expected).await
}

/// sha256 of what lies at this path of ours; empty for nothing.
///
/// # Errors
/// The disk's.
pub async fn lies_at(host: &Host, path: PathBuf) -> Result<String, StepError> {
    let look = move |fs: &Fs| fs.sha256_opt(&path).map_err(StepError::from);
    Ok(host.root.fs().blocking(look).await?.unwrap_or_default())
}

/// What people are told once somebody else's binary is gone again, and what they have to do.
#[must_use]
pub fn undone(live: &str, sha256: &str, back: &str) -> String {
    let sha256 = if sha256.is_empty() { "none, it was removed" } else { sha256 };
    format!(
        "{live} was replaced by somebody else (sha256 {sha256}) and {back}; stop what installs RKE2 here (rancher-system-agent, \
         system-upgrade-controller, install.sh), then resume"
    )
}

/// Makes the kept binary of that digest live; both paths are the machine's own view.
///
/// # Errors
/// Needs an operator when it is not there any more, or the disk says no.
pub async fn put_in_place(run: &Run, live: &str, kept: &str, sha256: &str) -> Result<(), StepError> {
    let (live, source, expected) = (run.host.root.at(live), run.host.root.at(kept), sha256.to_owned());
    let restore = move |fs: &Fs| {
        let found = fs.sha256_file(&source)?;
        if found != expected {
            return Err(StepError::operator(format!("{} is another one, sha256 {found}", source.display())));
        }
        let barred = live.with_file_name("rke2.barred");
        swap_file::put_back(fs, By::Agent, &live, (&source, &expected), &barred)
            .map_err(|error| StepError::operator(chain(&error)))
    };
    run.host.root.fs().blocking(restore).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_lie_there_while_what_runs() {
        let before = Approved { old: "old".into(), new: None, expected: "old".into() };
        let after = Approved { old: "old".into(), new: Some("new".into()), expected: "new".into() };
        let back = Approved { old: "old".into(), new: Some("new".into()), expected: "old".into() };
        let table: [(&str, &Approved, &str, Option<&str>, bool); 12] = [
            ("as it was", &before, "old", Some("old"), true),
            ("RKE2 is between two lives", &before, "old", None, true),
            ("somebody installs the new one", &before, "new", Some("old"), false),
            ("somebody removes it", &before, "", Some("old"), false),
            ("somebody restarted it as well", &before, "new", Some("new"), false),
            ("put back by hand, the other one runs", &before, "old", Some("new"), false),
            ("swapped", &after, "new", Some("new"), true),
            ("an old plan is applied again", &after, "old", Some("new"), false),
            ("the guard has put the old one back", &after, "old", Some("old"), true),
            ("the guard is at it", &after, "old", None, true),
            ("a third one", &after, "alien", Some("new"), false),
            ("on the way back", &back, "old", Some("new"), true),
        ];
        for (what, approved, live, runs, lets) in table {
            assert_eq!(approved.lets(live, runs), lets, "{what}");
        }
    }
}

//! One look at a unit, and what it says about a start that is under way. Pure: no bus here.

use zbus::{OwnedVariant, Variant};

use crate::host::fs::hex;
use crate::host::systemd::Properties;

/// So many automatic restarts of one start are a crash loop: RKE2's own give-up times are 15 minutes and longer.
const CRASH_LOOP: u32 = 3;
/// systemd's exit status for "cannot execute the program".
const EXIT_EXEC: i32 = 203;

/// What systemd says about a unit at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Its name.
    pub name: String,
    /// `loaded`, `masked`, `bad-setting` and so on.
    pub load_state: String,
    /// `active`, `activating`, `inactive`, `failed`, `deactivating`, `reloading`.
    pub active_state: String,
    /// `running`, `start`, `auto-restart`, `dead` and so on.
    pub sub_state: String,
    /// How its last run ended: `success`, `exit-code`, `exec-condition` and so on. Empty for what is not a service.
    pub result: String,
    /// Zero when there is none.
    pub main_pid: u32,
    /// Exit status of the last main process; 203 is "cannot execute".
    pub exec_main_status: i32,
    /// Automatic restarts since the last ordered start.
    pub n_restarts: u32,
    /// Hex; new at each start, empty when never started.
    pub invocation_id: String,
    /// The unit file.
    pub fragment_path: String,
    /// The drop-ins that are loaded, whatever is on disk now.
    pub drop_in_paths: Vec<String>,
    /// Its (first) `ExecStart=`.
    pub exec_start: Option<ExecCommand>,
    /// Its `ExecStartPre=`, in their order.
    pub exec_start_pre: Vec<ExecCommand>,
    /// The files on disk have changed since they were loaded.
    pub need_daemon_reload: bool,
    /// Loaded `RefuseManualStart=`.
    pub refuse_manual_start: bool,
    /// Loaded `RefuseManualStop=`.
    pub refuse_manual_stop: bool,
    /// The job that is queued or running for it, zero for none.
    pub job_id: u32,
}

/// What a unit runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecCommand {
    /// The machine's own view.
    pub program: String,
    /// As the program gets them, the name that it is called by first; variables are not resolved yet.
    pub arguments: Vec<String>,
    /// What stands before the program in a unit file, as `-` where its failure counts for nothing (systemd.service(5), "Special
    /// executable prefixes"); `@` apart, which the arguments tell.
    pub prefixes: String,
}

/// What `ExecStartEx` and its like call the prefixes (systemd 259, `exec_command_flags_to_strv`), in the order that we write them.
const PREFIXES: [(&str, &str); 6] = [
    ("ignore-failure", "-"),
    ("no-env-expand", ":"),
    ("via-shell", "|"),
    ("privileged", "+"),
    ("no-setuid", "!"),
    ("ambient", "!!"),
];

/// What one look means for somebody who waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What was waited for is there.
    Reached,
    /// It may still come.
    Wait,
    /// It will not come.
    Hopeless,
}

impl UnitState {
    pub(super) fn from_properties(name: &str, unit: &Properties, service: &Properties) -> Self {
        Self {
            name: name.to_owned(),
            load_state: get(unit, "LoadState"),
            active_state: get(unit, "ActiveState"),
            sub_state: get(unit, "SubState"),
            result: get(service, "Result"),
            main_pid: get(service, "MainPID"),
            exec_main_status: get(service, "ExecMainStatus"),
            n_restarts: get(service, "NRestarts"),
            invocation_id: hex(&get::<Vec<u8>>(unit, "InvocationID")),
            fragment_path: get(unit, "FragmentPath"),
            drop_in_paths: get(unit, "DropInPaths"),
            exec_start: commands(service, "ExecStart").into_iter().next(),
            exec_start_pre: commands(service, "ExecStartPre"),
            need_daemon_reload: get(unit, "NeedDaemonReload"),
            refuse_manual_start: get(unit, "RefuseManualStart"),
            refuse_manual_stop: get(unit, "RefuseManualStop"),
            job_id: unit.get("Job").map_or(0, |job| job_id(job)),
        }
    }

    /// The program that a start of it runs.
    #[must_use]
    pub fn program(&self) -> Option<&str> {
        self.exec_start.as_ref().map(|starts| starts.program.as_str())
    }

    /// In one line for a message: `activating/start, pid 0, 2 automatic restarts, last exit status 1`.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{}/{}, pid {}, {} automatic restarts, last exit status {}",
            self.active_state, self.sub_state, self.main_pid, self.n_restarts, self.exec_main_status
        )
    }

    /// Nothing runs and nothing is about to.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed") && self.main_pid == 0 && self.job_id == 0
    }

    /// Runs, and was started after the life called `not_invocation`.
    #[must_use]
    pub fn is_running_anew(&self, not_invocation: Option<&str>) -> bool {
        matches!(
            (self.active_state.as_str(), self.sub_state.as_str()),
            ("active" | "reloading", "running" | "exited" | "reload" | "listening" | "active")
        ) && not_invocation != Some(self.invocation_id.as_str())
    }

    /// `restarts` is how often systemd had restarted it when the wait began: those count for nothing here.
    pub(super) fn verdict(&self, not_invocation: Option<&str>, restarts: u32) -> Verdict {
        let ordered_start_seen = not_invocation != Some(self.invocation_id.as_str());
        let cannot_start = self.sub_state.starts_with("auto-restart") && self.exec_main_status == EXIT_EXEC;
        let loops = self.active_state != "active" && self.n_restarts.saturating_sub(restarts) >= CRASH_LOOP;
        if self.is_running_anew(not_invocation) {
            Verdict::Reached
        } else if self.is_at_rest() || (ordered_start_seen && (cannot_start || loops)) {
            Verdict::Hopeless
        } else {
            Verdict::Wait
        }
    }
}

/// A property that is missing or of another type counts as empty: older systemd versions lack some.
fn get<T: Default + TryFrom<OwnedVariant>>(properties: &Properties, name: &str) -> T {
    properties
        .get(name)
        .and_then(|value| value.try_clone().ok())
        .and_then(|value| T::try_from(value).ok())
        .unwrap_or_default()
}

/// The extended property says all of the prefixes; systemd before 243 has only the plain one, which says `-`.
fn commands(service: &Properties, name: &str) -> Vec<ExecCommand> {
    let extended = service.get(format!("{name}Ex").as_str());
    let Some(Variant::Array(commands)) = extended.or_else(|| service.get(name)).map(|value| &**value) else {
        return Vec::new();
    };
    commands.inner().iter().filter_map(ExecCommand::read).collect()
}

impl ExecCommand {
    /// A command is `(sasbttttuii)`, the extended one `(sasasttttuii)`: program, arguments with the name it is called by, whether its
    /// failure matters or its flags, and more.
    fn read(command: &Variant<'_>) -> Option<Self> {
        let Variant::Structure(command) = command else { return None };
        let [Variant::Str(program), Variant::Array(arguments), flags, ..] = command.fields() else {
            return None;
        };
        let prefixes = if let Variant::Array(flags) = flags {
            let flags = texts(flags)?;
            let are_set = PREFIXES.iter().filter(|(flag, _)| flags.iter().any(|one| one == flag));
            are_set.map(|(_, prefix)| *prefix).collect()
        } else {
            let may_fail: bool = flags.downcast_ref().ok()?;
            if may_fail { "-" } else { "" }.to_owned()
        };
        Some(Self { program: program.as_str().to_owned(), arguments: texts(arguments)?, prefixes })
    }
}

fn texts(array: &zbus::Array<'_>) -> Option<Vec<String>> {
    let text = |one: &Variant<'_>| {
        if let Variant::Str(text) = one { Some(text.as_str().to_owned()) } else { None }
    };
    array.inner().iter().map(text).collect()
}

/// `Job` is `(uo)`.
fn job_id(job: &Variant<'_>) -> u32 {
    let Variant::Structure(job) = job else { return 0 };
    job.fields().first().and_then(|id| id.downcast_ref::<u32>().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(active: &str, sub: &str, invocation: &str) -> UnitState {
        UnitState {
            active_state: active.to_owned(),
            sub_state: sub.to_owned(),
            invocation_id: invocation.to_owned(),
            ..UnitState::default()
        }
    }

    #[test]
    fn judges_each_state_of_a_restart() {
        let table = [
            (state("active", "running", "new"), Verdict::Reached),
            (state("active", "running", "old"), Verdict::Wait),
            (state("activating", "start", "new"), Verdict::Wait),
            (UnitState { n_restarts: 2, ..state("activating", "auto-restart", "new") }, Verdict::Wait),
            (UnitState { n_restarts: 3, ..state("activating", "start", "new") }, Verdict::Hopeless),
            (
                UnitState { exec_main_status: 203, ..state("activating", "auto-restart", "new") },
                Verdict::Hopeless,
            ),
            (UnitState { n_restarts: 9, ..state("deactivating", "stop-sigterm", "old") }, Verdict::Wait),
            (state("inactive", "dead", "old"), Verdict::Hopeless),
            (UnitState { job_id: 7, ..state("inactive", "dead", "old") }, Verdict::Wait),
            (UnitState { main_pid: 7, ..state("failed", "failed", "new") }, Verdict::Wait),
            (state("failed", "failed", "new"), Verdict::Hopeless),
        ];
        for (state, expected) in table {
            assert_eq!(state.verdict(Some("old"), 0), expected, "{}", state.summary());
        }
        let earlier = UnitState { n_restarts: 8, ..state("activating", "start", "new") };
        assert_eq!(earlier.verdict(Some("old"), 6), Verdict::Wait, "those were others' deaths");
        assert_eq!(earlier.verdict(Some("old"), 5), Verdict::Hopeless);
    }
}

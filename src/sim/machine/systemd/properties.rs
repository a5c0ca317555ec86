//! What `GetAll` and `Get` answer: the properties of systemd 252 that clients of service managers read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use zbus::{ObjectPath, Variant};

use super::service::{Phase, Service};
use super::unit_file::Command;
use crate::sim::machine::state::State;

const UNIT_FOLDER: &str = "/org/freedesktop/systemd1/unit/";

pub(super) type Properties<'a> = BTreeMap<&'static str, Variant<'a>>;

impl State {
    /// Those of a unit's object behind one of its interfaces; none behind another one.
    pub(super) fn properties(&mut self, interface: &str, unit: &str) -> Option<Properties<'_>> {
        match interface {
            "org.freedesktop.systemd1.Unit" => Some(self.unit_properties(unit)),
            "org.freedesktop.systemd1.Service" => Some(self.service_properties(unit)),
            _ => None,
        }
    }

    fn unit_properties(&mut self, name: &str) -> Properties<'_> {
        let stale = self.needs_reload();
        let service = &self.service;
        if let Some(transient) = self.transients.get(name) {
            let now = self.origin.elapsed();
            let (active, sub) = match transient.runs {
                Some(running) if now < running.until => ("activating", "start"),
                Some(running) if !running.well => ("failed", "failed"),
                _ if transient.waits => ("activating", "start"),
                Some(_) | None => ("active", "exited"),
            };
            return Properties::from([
                ("Id", Variant::from(name.to_owned())),
                ("LoadState", Variant::from("loaded")),
                ("ActiveState", Variant::from(active)),
                ("SubState", Variant::from(sub)),
            ]);
        }
        let Some(unit) = service.unit.as_ref().filter(|_| name == service.name) else {
            return Properties::from([
                ("Id", Variant::from(name.to_owned())),
                ("LoadState", Variant::from("not-found")),
                ("ActiveState", Variant::from("inactive")),
                ("SubState", Variant::from("dead")),
            ]);
        };
        let (active, sub) = words(service.phase);
        let drop_ins: Vec<&str> = unit.drop_ins.iter().map(|(path, _)| path.as_str()).collect();
        let job = match service.job {
            0 => "/".to_owned(),
            job => job_path(job),
        };
        Properties::from([
            ("Id", Variant::from(service.name.as_str())),
            ("LoadState", Variant::from("loaded")),
            ("ActiveState", Variant::from(active)),
            ("SubState", Variant::from(sub)),
            ("InvocationID", Variant::from(service.invocation.clone())),
            ("FragmentPath", Variant::from(unit.fragment.as_str())),
            ("DropInPaths", Variant::from(drop_ins)),
            ("NeedDaemonReload", Variant::from(stale)),
            ("RefuseManualStart", Variant::from(unit.refuse_start)),
            ("RefuseManualStop", Variant::from(unit.refuse_stop)),
            ("Job", Variant::new((service.job, ObjectPath::try_from(job).unwrap_or_default()))),
        ])
    }

    fn service_properties(&self, name: &str) -> Properties<'_> {
        let service = &self.service;
        if let Some(running) = self.transients.get(name).and_then(|transient| transient.runs) {
            let (result, status) = if running.well { ("success", 0) } else { ("exit-code", 1) };
            return Properties::from([
                ("Result", Variant::from(result)),
                ("ExecMainStatus", Variant::from(status)),
            ]);
        }
        let Some(unit) = service.unit.as_ref().filter(|_| name == service.name) else {
            return Properties::from([("Result", Variant::from("success"))]);
        };
        Properties::from([
            ("Type", Variant::from("notify")),
            ("Restart", Variant::from("always")),
            ("Result", Variant::from(service.result)),
            ("MainPID", Variant::from(service.main_pid)),
            ("ExecMainStatus", Variant::from(service.status)),
            ("NRestarts", Variant::from(service.n_restarts)),
            ("ExecStart", commands(std::slice::from_ref(&unit.start))),
            ("ExecStartPre", commands(&unit.pre)),
        ])
    }
}

/// `a(sasbttttuii)`: when and how each of them ran is nobody's question here.
fn commands(all: &[Command]) -> Variant<'_> {
    let command = |one: &Command| {
        let (program, argv) = (one.program().to_owned(), one.argv.clone());
        (program, argv, one.may_fail, 0_u64, 0_u64, 0_u64, 0_u64, 0_u32, 0_i32, 0_i32)
    };
    Variant::new(all.iter().map(command).collect::<Vec<_>>())
}

impl Service {
    pub(super) fn words(&self) -> (&'static str, &'static str) {
        words(self.phase)
    }
}

fn words(phase: Phase) -> (&'static str, &'static str) {
    match phase {
        Phase::Dead => ("inactive", "dead"),
        Phase::Failed => ("failed", "failed"),
        Phase::Starting => ("activating", "start"),
        Phase::Running => ("active", "running"),
        Phase::AutoRestart => ("activating", "auto-restart"),
        Phase::Stopping => ("deactivating", "stop-sigterm"),
    }
}

pub(super) fn job_path(job: u32) -> String {
    format!("/org/freedesktop/systemd1/job/{job}")
}

/// A unit's object: all but letters and digits are escaped.
pub(super) fn unit_path(name: &str) -> String {
    name.bytes().fold(UNIT_FOLDER.to_owned(), |mut path, byte| {
        if byte.is_ascii_alphanumeric() {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            write!(path, "_{byte:02x}").ok();
        }
        path
    })
}

/// The other way round; none for another kind of object.
pub(super) fn unit_of_path(path: &str) -> Option<String> {
    let mut escaped = path.strip_prefix(UNIT_FOLDER)?.bytes();
    let mut name = Vec::new();
    while let Some(byte) = escaped.next() {
        if byte == b'_' {
            let digits = [escaped.next()?, escaped.next()?];
            name.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            name.push(byte);
        }
    }
    String::from_utf8(name).ok()
}

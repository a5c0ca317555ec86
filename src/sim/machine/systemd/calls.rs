//! The manager's methods as they come over the wire: decoded, counted as effects of the life that calls, answered.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use zbus::message::{Header, Type};
use zbus::names::{InterfaceName, MemberName};
use zbus::{Message, ObjectPath, Variant};

use super::orders::{Order, Refusal, Transient};
use super::properties::{job_path, unit_of_path};
use crate::sim::machine::life::{Life, Verdict};
use crate::sim::machine::rke2::Cause;
use crate::sim::machine::state::State;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
const UNKNOWN_METHOD: &str = "org.freedesktop.DBus.Error.UnknownMethod";
const UNKNOWN_INTERFACE: &str = "org.freedesktop.DBus.Error.UnknownInterface";
const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.UnknownProperty";
const FAILED: &str = "org.freedesktop.DBus.Error.Failed";

/// What comes back.
pub(super) enum Answer {
    Now(Message),
    After(Duration, Message),
    /// The agent is dead, nobody gets an answer.
    Never,
}

type Settings<'a> = Vec<(&'a str, Variant<'a>)>;

/// One call, from its message to its answer.
pub(super) fn answer(
    life: &Life,
    sender: &UnboundedSender<Message>,
    message: &Message,
) -> zbus::Result<Answer> {
    if life.is_dead() {
        return Ok(Answer::Never);
    }
    if message.message_type() != Type::MethodCall {
        return Ok(Answer::Never);
    }
    let header = message.header();
    let member = header.member().map(MemberName::as_str).unwrap_or_default();
    let body = message.body();
    match (header.interface().map(InterfaceName::as_str).unwrap_or_default(), member) {
        (PROPERTIES, "GetAll") => {
            let unit = header.path().and_then(|path| unit_of_path(path.as_str())).unwrap_or_default();
            get_all(life, &header, &unit, body.deserialize()?)
        }
        (PROPERTIES, "Get") => {
            let unit = header.path().and_then(|path| unit_of_path(path.as_str())).unwrap_or_default();
            get(life, &header, &unit, body.deserialize()?)
        }
        (MANAGER, "Subscribe") => {
            life.machine().with(|state| state.subscribe(life.number(), sender.clone()));
            reply(&header, &())
        }
        (MANAGER, "Reload") => {
            let done = effect(life, member, "", |state| {
                state.reload();
                Ok(state.spec.reload)
            });
            match done {
                Done::Carried(time) => Ok(Answer::After(time, Message::method_return(&header).build(&())?)),
                Done::Refused(_) | Done::Failed(_) | Done::Dead => finish(&header, done, |_| ()),
            }
        }
        (MANAGER, "ResetFailedUnit") => {
            let unit: &str = body.deserialize()?;
            finish(&header, effect(life, member, unit, |state| state.reset_failed(unit)), |()| ())
        }
        (MANAGER, "StartUnit" | "StopUnit" | "RestartUnit") => {
            let (unit, _mode): (&str, &str) = body.deserialize()?;
            let order = match member {
                "StartUnit" => Order::Start,
                "StopUnit" => Order::Stop,
                _ => Order::Restart,
            };
            let cause = Cause::Agent(life.number());
            let done = effect(life, member, steady(unit), |state| state.order(order, unit, cause));
            finish(&header, done, job)
        }
        (MANAGER, "StartTransientUnit") => {
            type Auxiliary<'a> = Vec<(&'a str, Settings<'a>)>;
            let (name, _mode, settings, _aux): (&str, &str, Settings<'_>, Auxiliary<'_>) =
                body.deserialize()?;
            transient(life, &header, name, &settings)
        }
        (interface, member) => {
            refuse(&header, UNKNOWN_METHOD, &format!("{interface}.{member} is not played"))
        }
    }
}

fn transient(life: &Life, header: &Header<'_>, name: &str, settings: &Settings<'_>) -> zbus::Result<Answer> {
    let own = life.machine().unit();
    let names_it = |key: &str| {
        let value = settings.iter().find(|(name, _)| *name == key).map(|(_, value)| value);
        let units: Option<Vec<String>> = value.and_then(|value| value.try_clone().ok()?.try_into().ok());
        units.unwrap_or_default().contains(&own)
    };
    let (conflicts, wants) = (names_it("Conflicts"), names_it("Wants"));
    let remains =
        settings.iter().any(|(key, value)| *key == "RemainAfterExit" && *value == Variant::Bool(true));
    let argv = program_of(settings);
    if let Some(after) = timer_of(settings) {
        let cause = Cause::Agent(life.number());
        let order = |state: &mut State| state.start_timer(name, after, cause);
        return finish(header, effect(life, "StartTransientUnit", name, order), job);
    }
    let unit = Transient { conflicts, remains, waits: false, runs: None, timer: None };
    let what = match (conflicts, wants) {
        (true, _) => format!("Conflicts={own}"),
        (false, true) => format!("Wants={own}"),
        (false, false) => steady(name).to_owned(),
    };
    let cause = Cause::Agent(life.number());
    let order = |state: &mut State| state.start_transient(name, unit, wants, &argv, cause);
    finish(header, effect(life, "StartTransientUnit", &what, order), job)
}

/// How long a timer runs; none for a unit that is no timer.
fn timer_of(settings: &Settings<'_>) -> Option<Duration> {
    let timers = settings.iter().find(|(key, _)| *key == "TimersMonotonic").map(|(_, value)| value)?;
    let timers: Vec<(String, u64)> = timers.try_clone().ok()?.try_into().ok()?;
    timers
        .into_iter()
        .find(|(base, _)| base == "OnActiveSec")
        .map(|(_, micros)| Duration::from_micros(micros))
}

/// What `ExecStart=` runs, with its arguments; empty for what does nothing.
fn program_of(settings: &Settings<'_>) -> Vec<String> {
    let commands = settings.iter().find(|(key, _)| *key == "ExecStart").map(|(_, value)| value);
    let commands: Vec<(String, Vec<String>, bool)> =
        commands.and_then(|value| value.try_clone().ok()?.try_into().ok()).unwrap_or_default();
    let argv = commands.into_iter().next().map(|(_, argv, _)| argv).unwrap_or_default();
    if argv.first().is_some_and(|program| program == "/bin/true") { Vec::new() } else { argv }
}

fn get_all(life: &Life, header: &Header<'_>, unit: &str, interface: &str) -> zbus::Result<Answer> {
    life.machine().with(|state| match state.properties(interface, unit) {
        Some(properties) => reply(header, &properties),
        None => refuse(header, UNKNOWN_INTERFACE, interface),
    })
}

fn get(
    life: &Life,
    header: &Header<'_>,
    unit: &str,
    (interface, name): (&str, &str),
) -> zbus::Result<Answer> {
    life.machine().with(|state| match state.properties(interface, unit) {
        Some(properties) => match properties.get(name) {
            Some(value) => reply(header, value),
            None => refuse(header, UNKNOWN_PROPERTY, name),
        },
        None => refuse(header, UNKNOWN_INTERFACE, interface),
    })
}

enum Done<T> {
    Carried(T),
    Refused(Refusal),
    Failed(nix::errno::Errno),
    Dead,
}

/// Refusals change nothing, and are counted all the same: the caller cannot know before.
fn effect<T>(
    life: &Life,
    member: &str,
    what: &str,
    order: impl FnOnce(&mut State) -> Result<T, Refusal>,
) -> Done<T> {
    let kind = ["StartUnit", "StopUnit", "RestartUnit", "ResetFailedUnit", "Reload", "StartTransientUnit"]
        .into_iter()
        .find(|kind| *kind == member)
        .unwrap_or("call");
    match life.effect(kind, what) {
        Verdict::Dead => Done::Dead,
        Verdict::Fail(errno) => Done::Failed(errno),
        Verdict::Go(pass) => {
            let answer = life.machine().with(order);
            match (pass.spent(), answer) {
                (false, _) => Done::Dead,
                (true, Ok(value)) => Done::Carried(value),
                (true, Err(refusal)) => Done::Refused(refusal),
            }
        }
    }
}

fn finish<T, B>(header: &Header<'_>, done: Done<T>, body: impl FnOnce(T) -> B) -> zbus::Result<Answer>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    match done {
        Done::Carried(value) => reply(header, &body(value)),
        Done::Refused(Refusal::OnlyByDependency(why)) => {
            refuse(header, "org.freedesktop.systemd1.OnlyByDependency", &why)
        }
        Done::Refused(Refusal::NoSuchUnit(why)) => {
            refuse(header, "org.freedesktop.systemd1.NoSuchUnit", &why)
        }
        Done::Refused(Refusal::UnitExists(why)) => {
            refuse(header, "org.freedesktop.systemd1.UnitExists", &why)
        }
        Done::Failed(errno) => refuse(header, FAILED, errno.desc()),
        Done::Dead => Ok(Answer::Never),
    }
}

fn job(job: u32) -> ObjectPath<'static> {
    ObjectPath::try_from(job_path(job)).unwrap_or_default()
}

fn reply<B>(header: &Header<'_>, body: &B) -> zbus::Result<Answer>
where
    B: serde::Serialize + zbus::wire::DynamicType,
{
    Ok(Answer::Now(Message::method_return(header).build(body)?))
}

fn refuse(header: &Header<'_>, name: &str, why: &str) -> zbus::Result<Answer> {
    Ok(Answer::Now(Message::error(header, name).build(&why)?))
}

/// Names of transient units end in a number that is different at every run, which no trace may show.
fn steady(unit: &str) -> &str {
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    match stem.rsplit_once('-') {
        Some((stem, number))
            if number.len() == 16 && number.bytes().all(|digit| digit.is_ascii_hexdigit()) =>
        {
            stem
        }
        Some(_) | None => unit,
    }
}

//! A small systemd on a socket pair, so that the real proxies are what the tests run.

#![expect(
    clippy::unused_self,
    clippy::used_underscore_binding,
    reason = "the interface macro asks for these signatures"
)]

use std::sync::{Arc, Mutex};

use zbus::{OwnedObjectPath, OwnedVariant};

use crate::host::systemd::{BusAddress, Systemd};

pub(in crate::host) const UNIT: &str = "rke2-server.service";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/rke2_2dserver_2eservice";
const ABSENT_PATH: &str = "/org/freedesktop/systemd1/unit/absent_2eservice";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::host) enum Behaviour {
    ComesUp,
    /// The second order finds it up.
    ComesUpLater,
    Hangs,
    DoneButInactive,
}

struct Inner {
    behaviour: Behaviour,
    active: &'static str,
    sub: &'static str,
    pid: u32,
    lives: u8,
    fenced: bool,
    drop_in: Option<String>,
    calls: Vec<String>,
    connection: Option<zbus::Connection>,
    on_reload: Option<Box<dyn Fn() -> Option<String> + Send>>,
    pre: Vec<Command>,
}

type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

fn command(argv: &[&str], may_fail: bool) -> Command {
    let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
    (argv[0].clone(), argv, may_fail, 0, 0, 0, 0, 0, 0, 0)
}

#[derive(Clone)]
pub(in crate::host) struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    fn with<T>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    pub(in crate::host) fn calls(&self) -> Vec<String> {
        self.with(|inner| inner.calls.clone())
    }

    pub(in crate::host) fn fence(&self, fenced: bool) {
        self.with(|inner| inner.fenced = fenced);
    }

    /// Reload then loads the drop-in that `find` names.
    pub(in crate::host) fn load_on_reload(&self, find: impl Fn() -> Option<String> + Send + 'static) {
        self.with(|inner| inner.on_reload = Some(Box::new(find)));
    }

    /// What it has loaded of `ExecStartPre=`.
    pub(in crate::host) fn runs_before(&self, argv: &[&str], may_fail: bool) {
        let pre = vec![command(&["/sbin/modprobe", "overlay"], true), command(argv, may_fail)];
        self.with(|inner| inner.pre = pre);
    }

    /// Somebody else stopped it and is starting it now.
    pub(in crate::host) fn begin_start(&self) {
        self.stop();
        self.start();
    }

    fn stop(&self) {
        self.with(|inner| (inner.active, inner.sub, inner.pid) = ("inactive", "dead", 0));
    }

    fn start(&self) {
        self.with(|inner| {
            if inner.active == "activating" {
                (inner.active, inner.sub) = ("active", "running");
                return;
            }
            inner.lives += 1;
            let pid = 99 + u32::from(inner.lives);
            (inner.active, inner.sub, inner.pid) = match inner.behaviour {
                Behaviour::ComesUp => ("active", "running", pid),
                Behaviour::ComesUpLater | Behaviour::Hangs => ("activating", "start", pid),
                Behaviour::DoneButInactive => ("inactive", "dead", 0),
            };
        });
    }
}

/// A connected client, and the world behind it: `rke2-server.service` runs as pid 100.
pub(in crate::host) async fn machine(behaviour: Behaviour) -> (Systemd, Fake) {
    let fake = Fake(Arc::new(Mutex::new(Inner {
        behaviour,
        active: "active",
        sub: "running",
        pid: 100,
        lives: 1,
        fenced: false,
        drop_in: None,
        calls: Vec::new(),
        connection: None,
        on_reload: None,
        pre: Vec::new(),
    })));
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let server = zbus::connection::Builder::unix_stream(theirs)
        .server(zbus::Guid::generate())
        .p2p()
        .serve_at("/org/freedesktop/systemd1", Manager(fake.clone()))
        .serve_at(UNIT_PATH, Unit(Some(fake.clone())))
        .serve_at(UNIT_PATH, Service(fake.clone()))
        .serve_at(ABSENT_PATH, Unit(None))
        .serve_at(ABSENT_PATH, Service(fake.clone()))
        .build();
    let client = zbus::connection::Builder::unix_stream(ours).p2p().build();
    let (server, client) = tokio::try_join!(server, client).unwrap();
    fake.with(|inner| inner.connection = Some(server));
    (Systemd::connect(&BusAddress::Given(client)).await.unwrap(), fake)
}

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refusal {
    #[zbus(error)]
    Wire(zbus::Error),
    OnlyByDependency(String),
}

struct Manager(Fake);

impl Manager {
    fn manual(&self, method: &str) -> Result<(), Refusal> {
        self.0.with(|inner| {
            inner.calls.push(method.to_owned());
            if inner.fenced { Err(Refusal::OnlyByDependency("fenced".to_owned())) } else { Ok(()) }
        })
    }
}

fn job() -> OwnedObjectPath {
    OwnedObjectPath::try_from("/org/freedesktop/systemd1/job/7").unwrap()
}

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn restart_unit(&self, _name: &str, _mode: &str) -> Result<OwnedObjectPath, Refusal> {
        self.manual("RestartUnit")?;
        self.0.stop();
        self.0.start();
        Ok(job())
    }

    fn stop_unit(&self, name: &str, _mode: &str) -> Result<OwnedObjectPath, Refusal> {
        if name == UNIT {
            self.manual("StopUnit")?;
            self.0.stop();
        } else {
            self.0.with(|inner| inner.calls.push("StopUnit own".to_owned()));
        }
        Ok(job())
    }

    fn start_transient_unit(
        &self,
        _name: &str,
        _mode: &str,
        properties: Vec<(String, OwnedVariant)>,
        _aux: Vec<(String, Vec<(String, OwnedVariant)>)>,
    ) -> OwnedObjectPath {
        for (name, _) in properties {
            if name == "TimersMonotonic" {
                self.0.with(|inner| inner.calls.push("Timer".to_owned()));
            }
            if name == "Conflicts" || name == "Wants" {
                self.0.with(|inner| inner.calls.push(format!("Transient {name}")));
                if name == "Wants" {
                    self.0.start();
                } else {
                    self.0.stop();
                }
            }
        }
        job()
    }

    fn reset_failed_unit(&self, _name: &str) {}

    fn reload(&self) {
        self.0.with(|inner| {
            if let Some(find) = &inner.on_reload {
                inner.drop_in = find();
                inner.fenced = inner.drop_in.is_some();
            }
        });
    }
}

/// `None` plays a unit without a file.
struct Unit(Option<Fake>);

impl Unit {
    fn get<T: Default>(&self, look: impl FnOnce(&mut Inner) -> T) -> T {
        self.0.as_ref().map(|fake| fake.with(look)).unwrap_or_default()
    }
}

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn load_state(&self) -> String {
        if self.0.is_some() { "loaded" } else { "not-found" }.to_owned()
    }
    #[zbus(property)]
    fn active_state(&self) -> String {
        self.get(|inner| inner.active.to_owned())
    }
    #[zbus(property)]
    fn sub_state(&self) -> String {
        self.get(|inner| inner.sub.to_owned())
    }
    #[zbus(property, name = "InvocationID")]
    fn invocation_id(&self) -> Vec<u8> {
        self.get(|inner| vec![inner.lives; 16])
    }
    #[zbus(property)]
    fn drop_in_paths(&self) -> Vec<String> {
        self.get(|inner| inner.drop_in.iter().cloned().collect())
    }
    #[zbus(property)]
    fn refuse_manual_start(&self) -> bool {
        self.get(|inner| inner.fenced)
    }
    #[zbus(property)]
    fn refuse_manual_stop(&self) -> bool {
        self.get(|inner| inner.fenced)
    }
    #[zbus(property)]
    fn job(&self) -> (u32, OwnedObjectPath) {
        (0, OwnedObjectPath::try_from("/").unwrap())
    }
}

struct Service(Fake);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        self.0.with(|inner| inner.pid)
    }
    #[zbus(property)]
    fn exec_start(&self) -> Vec<Command> {
        vec![command(&["/opt/rke2/bin/rke2", "server"], false)]
    }
    #[zbus(property)]
    fn exec_start_pre(&self) -> Vec<Command> {
        self.0.with(|inner| inner.pre.clone())
    }
}

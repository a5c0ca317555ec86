//! A cluster of real etcds as RKE2 runs them: each on an address of its own, clients with certificates only, a configuration
//! file instead of flags. Owns their processes; the files that RKE2 keeps beside them are written where the caller says.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::children::Daemon;
use crate::pki::{Authority, Identity, Purpose};
use crate::places::{self, Loopback};

/// How long a member may take until it serves.
const READY_DEADLINE: Duration = Duration::from_mins(5);
/// Where it says how it is, without a certificate; RKE2's etcd listens there too.
const METRICS_PORT: u16 = 2381;

/// Members that know each other; they end when this is dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    dir: PathBuf,
    program: PathBuf,
    authority: Authority,
    client: Identity,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    address: Loopback,
    daemon: Option<Daemon>,
}

impl EtcdCluster {
    /// Starts so many members, called `etcd1` and so on, with their files in `dir`.
    ///
    /// # Errors
    /// There is no etcd, or it does not start.
    pub fn start(dir: &Path, count: usize) -> Result<Self> {
        let authority = Authority::new("etcd-server-ca")?;
        let client = authority.sign("etcd-client", Purpose::Client, &[], &[])?;
        let program = places::Programs::find()?.etcd;
        let mut cluster = Self { dir: dir.to_owned(), program, authority, client, members: Vec::new() };
        for _ in 0..count {
            cluster.members.push(Member { address: Loopback::claim()?, daemon: None });
        }
        for index in 0..count {
            cluster.begin(index, "new")?;
        }
        (0..count).try_for_each(|index| cluster.wait(index, is_healthy))?;
        Ok(cluster)
    }

    /// An address for one more member, which does not run yet: its peer URL.
    ///
    /// # Errors
    /// No address is free.
    pub fn reserve(&mut self) -> Result<String> {
        self.members.push(Member { address: Loopback::claim()?, daemon: None });
        Ok(self.url(self.members.len() - 1, "http", 2380))
    }

    /// Starts the last reserved member, which the others know of by now.
    ///
    /// # Errors
    /// It does not start.
    pub fn join(&mut self) -> Result<()> {
        let last = self.members.len() - 1;
        self.begin(last, "existing")?;
        // A learner serves nobody yet, and is not healthy.
        self.wait(last, |address| TcpStream::connect((address, 2379)).is_ok())
    }

    /// Kills a member, counted from zero.
    pub fn kill(&mut self, index: usize) {
        if let Some(member) = self.members.get_mut(index) {
            member.daemon = None;
        }
    }

    /// Starts a member again that was killed.
    ///
    /// # Errors
    /// It does not start.
    pub fn revive(&mut self, index: usize) -> Result<()> {
        self.begin(index, "existing")?;
        self.wait(index, is_healthy)
    }

    /// Lets a member hang, or go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn hang(&self, index: usize, hangs: bool) -> Result<()> {
        let daemon = self.members.get(index).and_then(|member| member.daemon.as_ref());
        let pid = Pid::from_raw(i32::try_from(daemon.context("that member does not run")?.pid())?);
        Ok(kill(pid, if hangs { Signal::SIGSTOP } else { Signal::SIGCONT })?)
    }

    /// The client URL of a member.
    #[must_use]
    pub fn client_url(&self, index: usize) -> String {
        self.url(index, "https", 2379)
    }

    /// The authority that signed the members' certificates.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A client's certificate.
    #[must_use]
    pub fn client(&self) -> &Identity {
        &self.client
    }

    /// Writes what RKE2 keeps on the server of a member, below the machine's root `root`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_server_files(&self, index: usize, root: &Path) -> Result<()> {
        let server = root.join("var/lib/rancher/rke2/server");
        fs::create_dir_all(server.join("db/etcd"))?;
        fs::create_dir_all(server.join("tls/etcd"))?;
        fs::copy(self.dir.join(format!("etcd{}.yaml", index + 1)), server.join("db/etcd/config"))?;
        fs::write(server.join("tls/etcd/server-ca.crt"), self.authority.certificate())?;
        fs::write(server.join("tls/etcd/client.crt"), &self.client.certificate)?;
        fs::write(server.join("tls/etcd/client.key"), &self.client.key)?;
        Ok(())
    }

    fn url(&self, index: usize, scheme: &str, port: u16) -> String {
        let address = self.members.get(index).map(|member| member.address.address());
        address.map_or_else(String::new, |address| format!("{scheme}://{address}:{port}"))
    }

    fn begin(&mut self, index: usize, state: &str) -> Result<()> {
        let name = format!("etcd{}", index + 1);
        let member = self.members.get(index).context("there is no such member")?;
        let identity = self.authority.sign(
            &name,
            Purpose::Server,
            &["localhost"],
            &[member.address.address().into()],
        )?;
        let file = |ending: &str| self.dir.join(format!("{name}.{ending}"));
        fs::write(file("crt"), &identity.certificate)?;
        fs::write(file("key"), &identity.key)?;
        fs::write(file("ca.crt"), self.authority.certificate())?;
        let (client, peer) = (self.url(index, "https", 2379), self.url(index, "http", 2380));
        // As RKE2 has it: nothing but gRPC on the client port. An etcd that is too old for it reads over it.
        let http = self.url(index, "https", 2382);
        let metrics = self.url(index, "http", METRICS_PORT);
        let everybody = (0..self.members.len())
            .map(|other| format!("etcd{}={}", other + 1, self.url(other, "http", 2380)))
            .collect::<Vec<_>>()
            .join(",");
        let path = |ending: &str| file(ending).display().to_string();
        let config = format!(
            "name: {name}\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
             listen-client-http-urls: {http}\nlisten-metrics-urls: {metrics}\n\
             listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: {everybody}\n\
             initial-cluster-state: {state}\nheartbeat-interval: 100\nelection-timeout: 1000\n\
             client-transport-security:\n  cert-file: {}\n  key-file: {}\n  client-cert-auth: true\n  \
             trusted-ca-file: {}\n",
            path("data"),
            path("crt"),
            path("key"),
            path("ca.crt"),
        );
        fs::write(file("yaml"), config)?;
        let arguments = [self.program.display().to_string(), format!("--config-file={}", path("yaml"))];
        let daemon = Daemon::start(&name, &file("log"), Signal::SIGKILL, &arguments)?;
        if let Some(member) = self.members.get_mut(index) {
            member.daemon = Some(daemon);
        }
        Ok(())
    }

    fn wait(&mut self, index: usize, is_up: impl Fn(Ipv4Addr) -> bool) -> Result<()> {
        let began = Instant::now();
        let member = self.members.get_mut(index).context("there is no such member")?;
        let daemon = member.daemon.as_mut().context("that member does not run")?;
        loop {
            if is_up(member.address.address()) {
                return Ok(());
            }
            if daemon.ended().is_some() || began.elapsed() > READY_DEADLINE {
                bail!("etcd{} does not come up; {}", index + 1, daemon.last_words());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A member of a cluster that has a leader, and can be asked through it.
fn is_healthy(address: Ipv4Addr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((address, METRICS_PORT))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /health HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

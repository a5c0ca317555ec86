//! Asks etcd itself about its members, with the certificates that RKE2 keeps on a server. Over gRPC: RKE2's client port has
//! served nothing else since v1.28.3 (no JSON gateway, k3s pull request 8402). Reads only; what the answers mean is
//! `flow::quorum`'s. Every call has a deadline, none is repeated.

use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use prost::Message;
use serde::Deserialize;

use crate::host::effects::Effects;
use crate::host::fs::FsError;
use crate::host::grpc::{GrpcCall, GrpcError, TlsIdentity};
use crate::host::rke2_config::{Rke2Config, Rke2ConfigError};
use crate::host::root::HostRoot;

pub mod wire;

/// RKE2's own client gives etcd two seconds; a machine under load may have more.
const DEADLINE: Duration = Duration::from_secs(5);
/// Where RKE2 lets etcd listen in any case.
const LOCAL: &str = "https://127.0.0.1:2379";

/// etcd as it describes itself.
#[derive(Debug)]
pub struct EtcdLook {
    /// The member of this machine.
    pub me: u64,
    /// All members, each with its own word.
    pub members: Vec<(wire::Member, Result<wire::StatusResponse, GrpcError>)>,
    /// What is raised.
    pub alarms: Vec<wire::AlarmMember>,
}

/// Why nobody can say how etcd is.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// A file that RKE2 keeps for its own etcd client is not there.
    #[error("{} is not there, although this server has etcd's data beside it; see whether RKE2 is whole on this machine", path.display())]
    NoFile {
        /// The machine's own path.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error(transparent)]
    Io(#[from] FsError),
    /// The reading came to no end.
    #[error("the files of etcd cannot be read")]
    Died(#[from] std::io::Error),
    /// Where etcd is, is not known.
    #[error(transparent)]
    Config(#[from] Rke2ConfigError),
    /// The file that etcd was started with is not YAML.
    #[error("{} does not say where etcd listens: {why}", path.display())]
    Unreadable {
        /// The machine's own path.
        path: PathBuf,
        /// In the parser's words.
        why: String,
    },
    /// This machine's own member does not answer.
    #[error("etcd on this machine does not say who its members are; without a quorum it cannot")]
    NoAnswer(#[from] GrpcError),
    /// What it answers is none of its messages.
    #[error("what etcd on this machine answers cannot be read; see which program listens at {server}")]
    Strange {
        /// Where.
        server: String,
        /// The decoder's words.
        #[source]
        source: prost::DecodeError,
    },
}

impl EtcdError {
    /// Is this machine's own member not there at all?
    #[must_use]
    pub fn own_is_gone(&self) -> bool {
        matches!(self, Self::NoAnswer(error) if error.nobody_listens())
    }
}

/// Asks etcd, where this machine has a member of it; none on a machine without etcd's data (another datastore, or a control plane
/// that uses the etcd of other servers).
///
/// # Errors
/// See [`EtcdError`]. "Could not tell" is never "well".
pub async fn look(root: &HostRoot) -> Result<Option<EtcdLook>, EtcdError> {
    let files = root.clone();
    let Some((server, identity)) = root.fs().blocking(move |_| ground(&files)).await? else {
        return Ok(None);
    };
    let effects = root.fs().effects();
    let ask = Asking { effects, identity: &identity };
    let request = wire::MemberListRequest { linearizable: true };
    let list: wire::MemberListResponse = ask.local(&server, wire::MEMBER_LIST, &request).await?;
    let alarms: wire::AlarmResponse = ask.local(&server, wire::ALARM, &wire::AlarmRequest {}).await?;
    let statuses = join_all(list.members.iter().map(|member| ask.status(member, &server))).await;
    let members = list.members.into_iter().zip(statuses).collect();
    let me = list.header.unwrap_or_default().member_id;
    Ok(Some(EtcdLook { me, members, alarms: alarms.alarms }))
}

/// Where the local member listens and with what it is asked; none without etcd's data.
fn ground(root: &HostRoot) -> Result<Option<(String, TlsIdentity)>, EtcdError> {
    let config = Rke2Config::read(root)?;
    let Some(data) = config.etcd(root)? else { return Ok(None) };
    let server = config.data_dir.join("server");
    let path = |below: &str| -> Result<PathBuf, FsError> {
        let path = server.join(below);
        root.resolve(&path).map_err(FsError::on("find", &path))
    };
    let read = |below: &str| -> Result<Vec<u8>, EtcdError> {
        let file = root.fs().read_opt(&path(below)?)?;
        file.ok_or_else(|| EtcdError::NoFile { path: server.join(below) })
    };
    let identity = TlsIdentity {
        authority: read("tls/etcd/server-ca.crt")?,
        certificate: read("tls/etcd/client.crt")?,
        key: read("tls/etcd/client.key")?,
    };
    let local = match root.fs().read_opt(&data.join("config"))? {
        Some(config) => listens(&config)
            .map_err(|why| EtcdError::Unreadable { path: server.join("db/etcd/config"), why })?,
        None => LOCAL.to_owned(),
    };
    Ok(Some((local, identity)))
}

/// The client address in etcd's own configuration, on the loopback where there is one.
fn listens(config: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    struct File {
        #[serde(rename = "listen-client-urls")]
        urls: String,
    }
    let text = str::from_utf8(config).map_err(|error| error.to_string())?;
    let file: File = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let urls: Vec<&str> = file.urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    let is_local = |url: &&&str| url.contains("://127.") || url.contains("://[::1]");
    let best = urls.iter().find(is_local).or(urls.first());
    best.map(|url| (*url).to_owned()).ok_or_else(|| "listen-client-urls is empty".to_owned())
}

struct Asking<'a> {
    effects: &'a dyn Effects,
    identity: &'a TlsIdentity,
}

impl Asking<'_> {
    async fn call<A: Message + Default>(
        &self,
        server: &str,
        method: &'static str,
        request: &impl Message,
    ) -> Result<Result<A, prost::DecodeError>, GrpcError> {
        let message = request.encode_to_vec();
        let call = GrpcCall { server, method, message, identity: self.identity, deadline: DEADLINE };
        let answer = self.effects.grpc(&call).await?;
        Ok(A::decode(answer))
    }

    async fn local<A: Message + Default>(
        &self,
        server: &str,
        method: &'static str,
        request: &impl Message,
    ) -> Result<A, EtcdError> {
        let answer = self.call(server, method, request).await?;
        answer.map_err(|source| EtcdError::Strange { server: server.to_owned(), source })
    }

    /// A member's own status, at the first of its addresses that answers. One that has not started has none.
    async fn status(&self, member: &wire::Member, local: &str) -> Result<wire::StatusResponse, GrpcError> {
        let mut last = GrpcError::Refused {
            server: member.peer_urls.first().map_or(local, String::as_str).to_owned(),
            method: wire::STATUS,
            code: "nothing".to_owned(),
            message: "it has no address for clients".to_owned(),
        };
        for url in &member.client_urls {
            last = match self.call(url, wire::STATUS, &wire::StatusRequest {}).await {
                Ok(Ok(status)) => return Ok(status),
                Ok(Err(source)) => GrpcError::Unusable { server: url.clone(), source: source.into() },
                Err(error) => error,
            };
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn finds_where_etcd_listens_in_the_file_that_rke2_writes() {
        for (config, expected) in [
            (
                "name: a\nlisten-client-urls: https://10.0.0.1:2379,https://127.0.0.1:2379\n",
                "https://127.0.0.1:2379",
            ),
            ("listen-client-urls: 'https://[fd00::1]:2379, https://[::1]:2379'\n", "https://[::1]:2379"),
            ("listen-client-urls: https://10.0.0.1:2379\nheartbeat-interval: 500\n", "https://10.0.0.1:2379"),
        ] {
            assert_eq!(listens(config.as_bytes()).as_deref(), Ok(expected));
        }
        for broken in ["name: a\n", "listen-client-urls: ''\n", "listen-client-urls: ["] {
            assert!(listens(broken.as_bytes()).is_err(), "{broken}");
        }
    }

    /// etcd is not asked where there is none, and a server whose certificates are gone is no server without etcd.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test makes the folder that it looks for")]
    fn no_data_is_not_asked_and_no_certificate_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        assert!(ground(&root).unwrap().is_none());
        std::fs::create_dir_all(root.at(Path::new("/var/lib/rancher/rke2/server/db/etcd"))).unwrap();
        let error = ground(&root).unwrap_err().to_string();
        assert!(error.contains("/var/lib/rancher/rke2/server/tls/etcd/server-ca.crt"), "{error}");
    }
}
